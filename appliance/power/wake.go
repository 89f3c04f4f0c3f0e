package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wake calls machines by AMD's magic packet (Wake-on-LAN): six bytes FF and sixteen times
// the card's address, anywhere in a frame. It can only give power.
type wake struct {
	macs []net.HardwareAddr
	lan  string
}

func newWake(c Config) (*wake, error) {
	if len(c.MACs) == 0 || c.Interface == "" {
		return nil, errors.New("Wake-on-LAN needs the machine's MAC and the LAN's interface")
	}
	for _, m := range c.MACs {
		if len(m) != 6 {
			return nil, fmt.Errorf("Wake-on-LAN cannot call %s: it is no Ethernet address", m)
		}
	}
	return &wake{macs: c.MACs, lan: c.Interface}, nil
}

func (w *wake) State(context.Context) (State, error) { return Unknown, w.cannot("tell the power") }
func (w *wake) Off(context.Context) error            { return w.cannot("switch off") }
func (w *wake) Cycle(context.Context) error          { return w.cannot("cycle") }

func (w *wake) cannot(what string) error {
	return fmt.Errorf("%w: Wake-on-LAN cannot %s", ErrUnsupported, what)
}

// calls is how often a machine is called: nobody answers, and a switch port that just came
// up drops the first frames.
const calls = 3

// On calls in both ways: some cards hear only UDP to port 9, and a frame of our own
// needs neither address nor route.
func (w *wake) On(ctx context.Context) error {
	for i := range calls {
		if i > 0 {
			if err := pause(ctx, 300*time.Millisecond); err != nil {
				return err
			}
		}
		for _, mac := range w.macs {
			framed, datagram := w.frame(mac), w.datagram(ctx, mac)
			if framed != nil && datagram != nil {
				return fmt.Errorf("call %s on %s: %w", mac, w.lan, and(framed, datagram))
			}
		}
	}
	return nil
}

func magic(mac net.HardwareAddr) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)
}

// etherWake is the EtherType of the magic packet.
const etherWake = 0x0842

func (w *wake) frame(mac net.HardwareAddr) error {
	lan, err := net.InterfaceByName(w.lan)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer unix.Close(fd)
	frame := append(bytes.Repeat([]byte{0xff}, 6), lan.HardwareAddr...)
	if len(frame) != 12 {
		return fmt.Errorf("%s is no Ethernet", w.lan)
	}
	frame = append(frame, etherWake>>8, etherWake&0xff)
	return unix.Sendto(fd, append(frame, magic(mac)...), unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: lan.Index, Halen: 6})
}

func (w *wake) datagram(ctx context.Context, mac net.HardwareAddr) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if broken := c.Control(func(fd uintptr) {
			err = errors.Join(unix.BindToDevice(int(fd), w.lan), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		}); broken != nil {
			return broken
		}
		return err
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.WriteTo(magic(mac), &net.UDPAddr{IP: net.IPv4bcast, Port: 9})
	return err
}
