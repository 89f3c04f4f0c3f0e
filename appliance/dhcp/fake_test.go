package dhcp

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// output collects what a peer says.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	stop func()
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// orders is a boot table: which MACs have something to boot.
type orders struct {
	mu      sync.Mutex
	ordered map[boot.MAC]bool
	asked   int
	events  []boot.Event
	refuse  string
	dialect string
	shim    bool // UEFI gets shim and GRUB
}

func (o *orders) Decide(c boot.Client) (boot.Decision, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.refuse != "" {
		return boot.Decision{}, &boot.Refusal{Reason: o.refuse}
	}
	if !o.ordered[c.MAC] {
		return boot.Decision{}, &boot.Refusal{Reason: "nobody ordered anything", Local: true}
	}
	d := boot.Decision{Machine: boot.Machine{Name: "srv01", Dialect: o.dialect}}
	switch {
	case c.Program == boot.IPXE:
		d.File = "boot.ipxe"
	case c.Arch == boot.BIOS, c.Arch == boot.UnknownArch:
		d.File = "undionly.kpxe"
	case o.shim && c.Arch.UEFI() && !c.NextServerElsewhere:
		d.Chain, d.File = boot.ChainShim, "shimx64.efi"
	case c.Arch.UEFI():
		d.File = "snponly.efi"
	default:
		return d, &boot.Refusal{Reason: c.Arch.String() + " is not supported"}
	}
	return d, nil
}

func (o *orders) Record(e boot.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

func (o *orders) steps() (out []boot.Step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		out = append(out, e.Step)
	}
	return out
}

// store is a lease table in memory that can fail.
type store struct {
	mu   sync.Mutex
	rows map[string]Lease
	fail bool
}

func (s *store) Put(k string, l Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errors.New("disk full")
	}
	if s.rows == nil {
		s.rows = map[string]Lease{}
	}
	s.rows[k] = l
	return nil
}

func (s *store) Delete(k string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rows, k)
	return nil
}

func (s *store) All() (out []Lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.rows {
		out = append(out, l)
	}
	return out, nil
}

// sent is a reply that left the server, and which way.
type sent struct {
	way string // frame or udp
	to  boot.MAC
	dst netip.AddrPort
	*dhcpv4.DHCPv4
}

// fakeWire is a LAN: replies are kept, ARP requests for taken addresses answered.
type fakeWire struct {
	t     *testing.T
	s     *Server
	mu    sync.Mutex
	sent  []sent
	arps  []netip.Addr
	hosts map[netip.Addr]boot.MAC
}

func (w *fakeWire) keep(s sent, b []byte) error {
	d, err := dhcpv4.FromBytes(b)
	if err != nil {
		w.t.Errorf("reply does not parse: %v", err)
		return err
	}
	s.DHCPv4 = d
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, s)
	return nil
}

func (w *fakeWire) frame(to boot.MAC, _, dst netip.AddrPort, b []byte) error {
	return w.keep(sent{way: "frame", to: to, dst: dst}, b)
}

func (w *fakeWire) udp(_ int, to netip.AddrPort, b []byte) error {
	return w.keep(sent{way: "udp", dst: to}, b)
}

func (w *fakeWire) ether([]byte) error { return nil }

func (w *fakeWire) arp(a netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arps = append(w.arps, a)
	if mac, ok := w.hosts[a]; ok {
		go w.s.prober.heard(mac, a)
	}
	return nil
}

// take returns what was sent since the last take.
func (w *fakeWire) take() []sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.sent
	w.sent = nil
	return out
}

// newServer is a server on a fake LAN; only its workers run.
func newServer(t *testing.T, change func(*Server)) (*Server, *fakeWire) {
	t.Helper()
	s := &Server{
		Interface: "eth1", Address: netip.MustParsePrefix("192.168.77.1/24"), Mode: Full,
		Range:  Range{netip.MustParseAddr("192.168.77.100"), netip.MustParseAddr("192.168.77.199")},
		Router: netip.MustParseAddr("192.168.77.1"), DNS: []netip.Addr{netip.MustParseAddr("192.168.77.1")},
		Domain: "rescue.example", KnownShare: 25,
		Log: zap.NewNop(),
	}
	if change != nil {
		change(s)
	}
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	w := &fakeWire{t: t, s: s, hosts: map[netip.Addr]boot.MAC{}}
	ctx, cancel := context.WithCancel(context.Background())
	wg := s.work(ctx, w)
	s.started.Store(true)
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, w
}

// receive hands a packet to the server as the socket would.
func (s *Server) receive(d *dhcpv4.DHCPv4, port int, src string) {
	s.dispatch(d.ToBytes(), port, netip.MustParseAddrPort(src))
}

func mac(last ...byte) boot.MAC {
	m := boot.MAC{0x52, 0x54, 0, 0, 0, 0}
	copy(m[6-len(last):], last)
	return m
}

// request makes a client's packet.
func request(m boot.MAC, kind dhcpv4.MessageType, change ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	d, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(m[:]), dhcpv4.WithMessageType(kind)}, change...)...)
	if err != nil {
		panic(err)
	}
	return d
}

func opt(code uint8, v ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), v)
}

func text(code uint8, v string) dhcpv4.Modifier { return opt(code, []byte(v)...) }

func ip(s string) net.IP { return net.ParseIP(s).To4() }

func want(s string) dhcpv4.Modifier   { return opt(50, ip(s)...) }
func server(s string) dhcpv4.Modifier { return opt(54, ip(s)...) }
func ciaddr(s string) dhcpv4.Modifier { return dhcpv4.WithClientIP(ip(s)) }
func giaddr(s string) dhcpv4.Modifier { return dhcpv4.WithGatewayIP(ip(s)) }

func bios(d *dhcpv4.DHCPv4) {
	text(60, "PXEClient:Arch:00000:UNDI:002001")(d)
	opt(93, 0, 0)(d)
}

func uefi(d *dhcpv4.DHCPv4) {
	text(60, "PXEClient:Arch:00007:UNDI:003016")(d)
	opt(93, 0, 7)(d)
}

func ipxe(d *dhcpv4.DHCPv4) {
	bios(d)
	text(77, "iPXE")(d)
}
