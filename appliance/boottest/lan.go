package boottest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name: it goes when the process does.
type namespace struct{ file *os.File }

// thisThread is the namespace of the calling thread.
const thisThread = "/proc/thread-self/ns/net"

// newNamespace makes a namespace with its loopback up.
func newNamespace() (*namespace, error) {
	n := &namespace{}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (are you root?): %w", err)
		}
		if n.file, err = os.Open(thisThread); err != nil {
			return err
		}
		return linkUp("lo")
	})
	return n, err
}

// onThread runs f on a thread that is thrown away after it, with all that f changed of it.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}

// do runs f inside: the sockets that it opens stay there.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// path is where a command such as nsenter --net finds the namespace while this process lives.
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

func (n *namespace) close() { n.file.Close() }

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// LAN is a switch, into which machines, the box and the site's own servers
// are plugged. Its cables are veth pairs, each machine's end in a namespace of its own:
//
//	box's interface ──┐
//	eth0 of machine ──┼── bridge in the LAN's namespace
//	eth0 of site    ──┘
type LAN struct {
	ns     *namespace
	bridge string
	ports  int
}

// NewLAN makes a switch without anything in it. Needs root.
func NewLAN() (*LAN, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	err = ns.do(func() error {
		noIPv6("default")
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "lan"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		return linkUp("lan")
	})
	return &LAN{ns: ns, bridge: "lan"}, err
}

// OpenLAN uses a bridge that is there, in the namespace that a file stands for.
func OpenLAN(namespaceFile, bridge string) (*LAN, error) {
	f, err := os.Open(namespaceFile)
	if err != nil {
		return nil, err
	}
	return &LAN{ns: &namespace{file: f}, bridge: bridge}, nil
}

// Command is the beginning of a command line that runs a program in the switch.
func (l *LAN) Command(args ...string) []string {
	return append([]string{"nsenter", "--net=" + l.ns.path()}, args...)
}

// Close takes the LAN away; what is plugged in loses its cable.
func (l *LAN) Close() { l.ns.close() }

// noIPv6 keeps the kernel from soliciting routers: firmware would not.
func noIPv6(dev string) {
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6", []byte("1"), 0o644) // a kernel without IPv6 has no such file
}

// Port plugs an interface of the caller's own namespace in, such as the
// box's, with an address if there is one ("192.168.77.1/24"), until remove is called.
func (l *LAN) Port(name, address string) (remove func(), err error) {
	home, err := os.Open(thisThread)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := l.cable(home, name, nil, address); err != nil {
		return nil, err
	}
	return func() {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link) // gone already is as good
		}
	}, nil
}

// cable connects a new interface in a namespace with the switch.
func (l *LAN) cable(home *os.File, name string, mac net.HardwareAddr, address string) error {
	l.ports++
	port := fmt.Sprintf("port%d.%d", os.Getpid()%100000, l.ports) // the switch may be one that others use too
	err := l.ns.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(home.Fd())}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("make the cable of %s: %w", name, err)
		}
		bridge, err := netlink.LinkByName(l.bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", l.bridge, err)
		}
		return errors.Join(netlink.LinkSetMaster(pair, bridge), netlink.LinkSetUp(pair))
	})
	if err != nil {
		return err
	}
	err = (&namespace{home}).do(func() error {
		noIPv6(name)
		if err := linkUp(name); err != nil || address == "" {
			return err
		}
		return addAddress(name, address)
	})
	if err != nil {
		return err
	}
	return l.ns.do(func() error { return forwards(port) })
}

// forwards waits for a port of the switch: the kernel opens it behind our back,
// up to a second after the cable is in, and drops the first DISCOVER until then.
func forwards(port string) error {
	for range 500 {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s of the switch does not come up", port)
}

func addAddress(dev, address string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrReplace(link, a)
}

// Host is something on the LAN that is no simulated machine: a place where
// real programs run.
type Host struct{ ns *namespace }

// Host plugs in a namespace whose eth0 has an address.
func (l *LAN) Host(address string) (*Host, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return &Host{ns}, l.cable(ns.file, "eth0", nil, address)
}

// Command is the beginning of a command line that runs a program inside.
func (h *Host) Command(args ...string) []string {
	return append([]string{"nsenter", "--net=" + h.ns.path()}, args...)
}

// Behind connects a new LAN with a host, whose eth1 has an address on it: for a relay.
func (h *Host) Behind(address string) (*LAN, error) {
	far, err := NewLAN()
	if err != nil {
		return nil, err
	}
	return far, far.cable(h.ns.file, "eth1", nil, address)
}

// Close ends the host's connection.
func (h *Host) Close() { h.ns.close() }

// addRoute leads to a network behind a relay, in the caller's namespace.
func addRoute(network, via string) error {
	dst, err := netlink.ParseIPNet(network)
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
}
