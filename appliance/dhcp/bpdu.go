package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/boot"
)

// BPDU is what a switch says of its spanning tree (IEEE 802.1D-2004 section 9.3.1).
type BPDU struct {
	// Version is 0 for the old protocol, which keeps a port shut for twice the
	// forward delay after its link came up; 2 and above open edge ports at once.
	Version      int
	ForwardDelay time.Duration
}

const (
	etherLLC   = 0x0004 // ETH_P_802_2: frames with a length in place of a type
	lenBPDU    = 35
	maxLLC     = 1500
	secondUnit = 256 // BPDUs count time in 1/256 s
)

// bridgeGroup is where switches send them.
var bridgeGroup = boot.MAC{0x01, 0x80, 0xc2, 0, 0, 0}

// readBPDU reads a configuration or rapid spanning tree BPDU out of a frame.
func readBPDU(f []byte) (BPDU, bool) {
	const lenLLC = 3
	if len(f) < lenEther+lenLLC+lenBPDU || boot.MAC(f[:6]) != bridgeGroup || binary.BigEndian.Uint16(f[12:]) > maxLLC {
		return BPDU{}, false
	}
	llc, b := f[lenEther:], f[lenEther+lenLLC:]
	kind := b[3]
	if llc[0] != 0x42 || llc[1] != 0x42 || b[0] != 0 || b[1] != 0 || kind != 0 && kind != 2 {
		return BPDU{}, false
	}
	return BPDU{Version: int(b[2]), ForwardDelay: time.Duration(binary.BigEndian.Uint16(b[33:])) * time.Second / secondUnit}, true
}

// joinGroup makes an interface take in what is sent to a group.
func joinGroup(f *os.File, ifi *net.Interface, group boot.MAC) error {
	member := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
	copy(member.Address[:], group[:])
	raw, err := f.SyscallConn() // Fd would make the socket block, and Close wait for the next frame
	if err == nil {
		control := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member)
		})
		err = errors.Join(err, control)
	}
	if err != nil {
		return fmt.Errorf("take in frames to %s on %s: %w", group, ifi.Name, err)
	}
	return nil
}
