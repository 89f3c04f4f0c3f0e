package power

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lan is a pair of interfaces in a network namespace of the test's own, in which it stays.
func lan(t *testing.T) (ours, theirs string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	ip := tool(t, "ip", "iproute2")
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ours, theirs = fmt.Sprintf("pw%da", os.Getpid()), fmt.Sprintf("pw%db", os.Getpid())
	for _, args := range [][]string{
		{"link", "add", ours, "type", "veth", "peer", "name", theirs},
		{"address", "add", "192.168.77.1/24", "dev", ours},
		{"link", "set", ours, "up"}, {"link", "set", theirs, "up"},
	} {
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	// The kernel hears of the cable a moment later, and drops until then what is sent, each word of which is counted.
	till(t, "the cable", func() bool {
		card, err := net.InterfaceByName(ours)
		return err == nil && card.Flags&net.FlagRunning != 0
	})
	return ours, theirs
}

// listen is a card that hears all frames.
func listen(t *testing.T, name string) int {
	t.Helper()
	card, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all := binary.BigEndian.Uint16([]byte{unix.ETH_P_ALL & 0xff, unix.ETH_P_ALL >> 8})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: card.Index}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return fd
}

// The machine's card sees each of its addresses called as a frame and as a datagram.
func TestWake(t *testing.T) {
	ours, theirs := lan(t)
	first, second := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x62}, net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x63}
	s := open(t, Config{Kind: "wol", Interface: ours, MACs: []net.HardwareAddr{first, second}})
	card := listen(t, theirs)
	if err := s.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"frame " + first.String(): calls, "datagram " + first.String(): calls,
		"frame " + second.String(): calls, "datagram " + second.String(): calls}
	for deadline := time.Now().Add(20 * time.Second); len(want) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("not heard: %v", want)
		}
		buffer := make([]byte, 2000)
		n, _, err := unix.Recvfrom(card, buffer, 0)
		if err != nil {
			t.Fatalf("not heard: %v: %v", want, err)
		}
		if call := called(buffer[:n]); call != "" {
			if want[call]--; want[call] <= 0 {
				delete(want, call)
			}
		}
	}
}

// called reads a frame as a card does: which way, and whom.
func called(frame []byte) string {
	if len(frame) < 14 || !bytes.Equal(frame[:6], bytes.Repeat([]byte{0xff}, 6)) {
		return ""
	}
	way, payload := "", frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0842:
		way = "frame "
	case 0x0800:
		if len(payload) < 28 || payload[9] != unix.IPPROTO_UDP || !bytes.Equal(payload[16:20], []byte{255, 255, 255, 255}) || binary.BigEndian.Uint16(payload[22:]) != 9 {
			return ""
		}
		way, payload = "datagram ", payload[28:]
	}
	if way == "" || len(payload) < 102 || !bytes.Equal(payload[:6], bytes.Repeat([]byte{0xff}, 6)) {
		return ""
	}
	mac := payload[6:12]
	if !bytes.Equal(payload[6:102], bytes.Repeat(mac, 16)) {
		return ""
	}
	return way + net.HardwareAddr(mac).String()
}

func TestWakeCannot(t *testing.T) {
	s := open(t, Config{Kind: "wol", Interface: "no-such-lan", MACs: []net.HardwareAddr{{2, 0, 0, 0, 0, 1}}})
	_, err := s.State(t.Context())
	wantError(t, err, ErrUnsupported)
	wantError(t, s.Off(t.Context()), ErrUnsupported)
	wantError(t, s.Cycle(t.Context()), ErrUnsupported)
	if err := s.On(t.Context()); err == nil {
		t.Error("it called on an interface that is not there")
	}
	for _, c := range []Config{{}, {Interface: "eth1"}, {Interface: "eth1", MACs: []net.HardwareAddr{{1, 2, 3, 4, 5, 6, 7, 8}}}} {
		c.Kind = "wol"
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
