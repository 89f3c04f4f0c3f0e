package dhcp

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/boot"
)

// Scout asks the LAN what other DHCP servers tell boot clients, and who has an
// address. It needs no server of ours, so that a box whose DHCP is off or
// broken can ask too, and it harms nobody: no REQUEST follows its DISCOVERs,
// which therefore cost no lease, and its ARP probes claim nothing.
type Scout struct {
	Interface string
	Address   netip.Prefix // ours; it need not be on the interface
}

// Kind is a kind of boot client. Many servers tell each something else.
type Kind struct {
	Name  string    // for people
	Arch  boot.Arch // option 93; not sent where Class is empty
	Class string    // option 60
}

// Kinds are what a Scout pretends to be: a running system, and one of each
// way to boot that servers tell apart.
func Kinds() []Kind {
	return []Kind{
		{Name: "a running system", Arch: boot.UnknownArch},
		{"PXE BIOS", boot.BIOS, "PXEClient:Arch:00000:UNDI:002001"},
		{"PXE UEFI x64", boot.UEFIX64, "PXEClient:Arch:00007:UNDI:003016"},
		{"UEFI HTTP Boot x64", boot.HTTPX64, "HTTPClient:Arch:00016:UNDI:003016"},
	}
}

// Said is what one server told one kind of client.
type Said struct {
	OtherServer
	Kind    Kind
	Vendor  []byte // option 43, as sent
	Offered netip.Addr
	Router  netip.Addr // option 3, the first
}

// optionNextServer is a next server that was given as an address in option 66.
func optionNextServer(d *dhcpv4.DHCPv4) netip.Addr {
	a, err := netip.ParseAddr(printable(d.Options.Get(dhcpv4.OptionTFTPServerName), 64))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// Ask asks as every kind, twice, and collects the answers of other servers
// until wait is over: by server, then by kind. dnsmasq pings an address
// for 3 s before it offers it, so that less than 4 s miss it.
func (s *Scout) Ask(ctx context.Context, wait time.Duration) ([]Said, error) {
	ifi, err := s.open()
	if err != nil {
		return nil, err
	}
	conn, err := listenPacket(ifi, unix.ETH_P_IP, clientPortFilter())
	if err != nil {
		return nil, err
	}
	own := boot.MAC(ifi.HardwareAddr)
	asked := map[dhcpv4.TransactionID]Kind{}
	var packets [][]byte
	for _, k := range Kinds() {
		d, err := discoverAs(k, own)
		if err != nil {
			conn.Close()
			return nil, err
		}
		asked[d.TransactionID] = k
		packets = append(packets, udpFrame(own, broadcastMAC, netip.AddrPortFrom(netip.IPv4Unspecified(), portClient),
			netip.AddrPortFrom(broadcastAddr(), portServer), d.ToBytes()))
	}
	found := map[string]Said{}
	err = survey(ctx, conn, wait, packets, func(frame []byte) {
		if a, ok := answerTo(asked, own, frame); ok && a.Addr != s.Address.Addr() {
			found[a.Addr.String()+a.Kind.Name] = a
		}
	})
	var list []Said
	for _, a := range found {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Said) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Kind.Arch, b.Kind.Arch))
	})
	return list, err
}

// discoverAs is the DISCOVER that a client of this kind sends. The answer is to be
// broadcast: nobody has the address that it would go to.
func discoverAs(k Kind, own boot.MAC) (*dhcpv4.DHCPv4, error) {
	d := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: own[:],
		Options: dhcpv4.OptionsFromList(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover),
			dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionVendorSpecificInformation,
				dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName))}
	d.SetBroadcast()
	if k.Class != "" {
		d.UpdateOption(dhcpv4.OptClassIdentifier(k.Class))
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{byte(k.Arch >> 8), byte(k.Arch)}))
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16}))
	}
	_, err := rand.Read(d.TransactionID[:])
	return d, err
}

// answerTo reads the offer of another server to one of our questions.
func answerTo(asked map[dhcpv4.TransactionID]Kind, own boot.MAC, frame []byte) (Said, bool) {
	dg, ok := readUDP(frame)
	if !ok || dg.src.Port() != portServer || dg.mac == own {
		return Said{}, false
	}
	d, err := decode(dg.payload)
	if err != nil || d.OpCode != dhcpv4.OpcodeBootReply {
		return Said{}, false
	}
	kind, ours := asked[d.TransactionID]
	o, ok := otherServer(d, dg)
	if !ours || !ok || overload(d, dg.payload) != nil {
		return Said{}, false
	}
	if a := optionNextServer(d); a.IsValid() {
		o.NextServer = a
	}
	a := Said{OtherServer: o, Kind: kind, Vendor: d.Options.Get(dhcpv4.OptionVendorSpecificInformation), Offered: addrOf(d.YourIPAddr)}
	a.Last = time.Now()
	if r := d.Options.Get(dhcpv4.OptionRouter); len(r) >= 4 {
		a.Router = addrOf(r[:4])
	}
	return a, true
}

// Effect is what an answer does to a boot from us.
type Effect struct {
	Key  string // stable name
	Text string // one sentence, without the server's name
	Hint string
}

// Effects says what a server's answer to one kind of client does to it, where
// that boots from the box at self. The rules are those of EDK2's PxeBcDhcp4.c
// (an offer with PXEClient and without option 43 is a BINL server's: it is asked
// on port 4011; edk2#8149, fog-docs PR#188), PXE 2.1 section 2.2.3 for option 43,
// and RFC 2131 section 2 for siaddr.
func (a Said) Effects(self netip.Addr) []Effect {
	if a.Box || a.Kind.Class == "" || a.NextServer == self {
		return nil
	}
	var list []Effect
	pxe := strings.HasPrefix(a.VendorClass, "PXEClient")
	uefi := a.Kind.Arch.UEFI() && !a.Kind.Arch.HTTP()
	switch {
	case pxe && a.Proxy:
		list = append(list, Effect{"other-proxydhcp", "is a proxyDHCP server beside us: " + a.Kind.Name + " machines take the offer that comes first",
			"switch that boot service off, or keep the machines that rescuebox boots out of it"})
	case pxe && uefi && len(a.Vendor) == 0:
		list = append(list, Effect{"foreign-option60",
			"sends option 60 \"PXEClient\": UEFI firmware then asks port 4011 of that server for its boot file, where nobody answers; BIOS machines do not mind",
			"remove option 60 from that server; it is only right on a host that is DHCP and boot server in one"})
	}
	if len(a.Vendor) > 0 && a.Kind.Arch != boot.HTTPX64 {
		list = append(list, Effect{"foreign-option43", "sends PXE option 43 to " + a.Kind.Name + " machines: they follow its menu or its list of boot servers in place of us",
			"remove option 43 from that server for PXE clients"})
	}
	if a.BootFile != "" {
		list = append(list, Effect{"foreign-bootfile", fmt.Sprintf("names a boot file of its own, %q, to %s machines: they load that and not ours", a.BootFile, a.Kind.Name),
			"remove the boot file (option 67, \"filename\") from that server"})
	}
	if a.NextServer.IsValid() && a.NextServer != a.Addr {
		list = append(list, Effect{"wrong-next-server", fmt.Sprintf("names %s as next server to %s machines: %s", a.NextServer, a.Kind.Name, nextServerHarm(a.Kind)),
			"remove the next server (siaddr, option 66) from that server, or set it to this box"})
	}
	return list
}

func nextServerHarm(k Kind) string {
	if k.Arch == boot.BIOS {
		return "a BIOS ROM that takes no proxyDHCP offer, and iPXE for names without a server, load from there"
	}
	return "UEFI firmware that caches only the first offer, and GRUB, load from there"
}

// Claims asks by ARP who has the addresses, and returns all who answer, within
// wait. Hundreds of addresses go out paced, so that no switch takes it for an attack.
func (s *Scout) Claims(ctx context.Context, wait time.Duration, addrs ...netip.Addr) (map[netip.Addr][]boot.MAC, error) {
	ifi, err := s.open()
	if err != nil {
		return nil, err
	}
	conn, err := listenPacket(ifi, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	own := boot.MAC(ifi.HardwareAddr)
	var packets [][]byte
	for _, a := range addrs {
		packets = append(packets, arpProbe(own, a))
	}
	found := map[netip.Addr][]boot.MAC{}
	err = survey(ctx, conn, wait, packets, func(frame []byte) {
		mac, addr, ok := readARP(frame)
		if ok && mac != own && slices.Contains(addrs, addr) && !slices.Contains(found[addr], mac) {
			found[addr] = append(found[addr], mac)
		}
	})
	return found, err
}

// SpanningTree waits for a bridge protocol data unit of the switch.
func (s *Scout) SpanningTree(ctx context.Context, wait time.Duration) (b BPDU, heard bool, err error) {
	ifi, err := s.open()
	if err != nil {
		return BPDU{}, false, err
	}
	conn, err := listenPacket(ifi, etherLLC, nil)
	if err != nil {
		return BPDU{}, false, err
	}
	if err := joinGroup(conn, ifi, bridgeGroup); err != nil {
		conn.Close()
		return BPDU{}, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = survey(ctx, conn, wait, nil, func(frame []byte) {
		if got, ok := readBPDU(frame); ok && !heard {
			b, heard = got, true
			cancel()
		}
	})
	return b, heard, err
}

func (s *Scout) open() (*net.Interface, error) {
	ifi, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return nil, fmt.Errorf("open interface %q: %w", s.Interface, err)
	}
	if len(ifi.HardwareAddr) != len(boot.MAC{}) {
		return nil, fmt.Errorf("interface %q is no Ethernet interface", s.Interface)
	}
	return ifi, nil
}

// sendPause is between two frames of one survey.
const sendPause = 2 * time.Millisecond

// survey sends the packets twice, in the first half of wait, and hands over
// what comes until wait or ctx is over. It closes the socket.
func survey(ctx context.Context, conn *os.File, wait time.Duration, packets [][]byte, hear func([]byte)) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, maxPacket+128)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return // closed below
			}
			hear(buf[:n])
		}
	})
	var err error
	for round := range 2 {
		for _, p := range packets {
			if _, e := conn.Write(p); e != nil && !errors.Is(e, os.ErrClosed) {
				err = fmt.Errorf("send a probe: %w", e)
			}
			if !sleep(ctx, sendPause) {
				break
			}
		}
		if round == 0 {
			sleep(ctx, wait/3)
		}
	}
	<-ctx.Done()
	conn.Close()
	wg.Wait()
	return err
}

// echoes are the packets of ours that are to come back to us.
type echoes struct {
	mu  sync.Mutex
	due map[dhcpv4.TransactionID]int // by transaction, the port
}

// LostEchoes tries the ports of DHCP from this host: it broadcasts an INFORM
// without a request for anything, through the kernel's stack, which hands a copy back as
// if it had come in by the interface, through the same hooks of the packet
// filter as a machine's DISCOVER. It returns the ports at which none arrived
// within wait. A server that does not run loses nothing.
func (s *Server) LostEchoes(ctx context.Context, wait time.Duration) (lost []int) {
	w := s.wire.Load()
	if !s.started.Load() || w == nil {
		return nil
	}
	l, ok := (*w).(*link)
	if !ok {
		return nil
	}
	for _, port := range []int{portServer, portBoot} {
		if err := s.sendEcho(l, port); err != nil {
			s.log().Debug("echo not sent", zap.Int("port", port), zap.NamedError("err", err))
		}
	}
	for end := time.Now().Add(wait); time.Now().Before(end) && len(s.echoes.pending()) > 0; {
		if !sleep(ctx, 20*time.Millisecond) {
			return nil
		}
	}
	lost = s.echoes.pending()
	s.echoes.mu.Lock()
	clear(s.echoes.due)
	s.echoes.mu.Unlock()
	return lost
}

func (s *Server) sendEcho(l *link, port int) error {
	d := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: l.mac[:], ClientIPAddr: s.Address.Addr().AsSlice(),
		Options: dhcpv4.OptionsFromList(dhcpv4.OptMessageType(dhcpv4.MessageTypeInform), dhcpv4.OptClassIdentifier(boxClass+" "+s.Address.Addr().String()))}
	if _, err := rand.Read(d.TransactionID[:]); err != nil {
		return err
	}
	s.echoes.mu.Lock()
	if s.echoes.due == nil {
		s.echoes.due = map[dhcpv4.TransactionID]int{}
	}
	s.echoes.due[d.TransactionID] = port
	s.echoes.mu.Unlock()
	err := l.udp(port, netip.AddrPortFrom(broadcastAddr(), uint16(port)), d.ToBytes())
	if err != nil { // says nothing of the packet filter's input
		s.echoes.came(d.TransactionID)
	}
	return err
}

// ownPacket reports whether a packet is one of ours that came back.
func (s *Server) ownPacket(p *packet) bool {
	if p.mac != s.ownMAC() {
		return false
	}
	s.echoes.came(p.TransactionID)
	return true
}

func (e *echoes) came(id dhcpv4.TransactionID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.due, id)
}

func (e *echoes) pending() (ports []int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, port := range e.due {
		ports = append(ports, port)
	}
	return ports
}
