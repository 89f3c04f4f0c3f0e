package boottest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options that the library has no name for.
const (
	optUNDI = 94
	optIPXE = 175

	pxeControl = 6  // in option 43: PXE_DISCOVERY_CONTROL (PXE 2.1 table 2-1)
	pxeMenu    = 9  // PXE_BOOT_MENU
	pxePrompt  = 10 // PXE_MENU_PROMPT
	pxeItem    = 71 // PXE_BOOT_ITEM
)

// identity is what a program says about itself in each of its packets.
type identity struct {
	class     string // option 60
	arch      int    // option 93; negative: none
	undi      []byte // option 94
	user      string // option 77, as raw as iPXE sends it
	ipxe      []byte // option 175
	maxSize   uint16 // option 57; 0: none
	broadcast bool   // can only hear broadcasts before it has an address
	noUUID    bool   // sends no option 97
}

// packet makes a request.
func (m *Machine) packet(kind dhcpv4.MessageType, xid dhcpv4.TransactionID, secs time.Duration) *dhcpv4.DHCPv4 {
	id := m.self
	d := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: m.Card.MAC,
		TransactionID: xid, NumSeconds: uint16(secs / time.Second), Options: dhcpv4.Options{}}
	if id.broadcast {
		d.SetBroadcast()
	}
	o := d.Options
	o[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(kind)}
	o[dhcpv4.OptionParameterRequestList.Code()] = []byte{1, 3, 6, 43, 54, 60, 66, 67}
	if id.class != "" {
		o[dhcpv4.OptionClassIdentifier.Code()] = []byte(id.class)
	}
	if id.arch >= 0 {
		o[dhcpv4.OptionClientSystemArchitectureType.Code()] = binary.BigEndian.AppendUint16(nil, uint16(id.arch))
	}
	if id.undi != nil {
		o[optUNDI] = id.undi
	}
	if id.user != "" {
		o[dhcpv4.OptionUserClassInformation.Code()] = []byte(id.user)
	}
	if id.ipxe != nil {
		o[optIPXE] = id.ipxe
	}
	if id.maxSize != 0 {
		o[dhcpv4.OptionMaximumDHCPMessageSize.Code()] = binary.BigEndian.AppendUint16(nil, id.maxSize)
	}
	if !id.noUUID {
		o[dhcpv4.OptionClientMachineIdentifier.Code()] = append([]byte{0}, m.UUID[:]...)
	}
	return d
}

// Answer is a DHCP message as it came off the wire.
type Answer struct {
	*dhcpv4.DHCPv4
	src   netip.AddrPort
	toAll bool // its frame was broadcast
}

// proxy reports that it offers no address.
func (a *Answer) proxy() bool { return a.YourIPAddr.IsUnspecified() }

// pxe reports that it is for PXE clients, as PXE 2.1 section 2.2.2 marks it.
func (a *Answer) pxe() bool { return a.classed("PXEClient") }

func (a *Answer) classed(class string) bool {
	return bytes.HasPrefix(a.Options.Get(dhcpv4.OptionClassIdentifier), []byte(class))
}

// vendor is option 43, taken apart.
func (a *Answer) vendor() dhcpv4.Options {
	o := dhcpv4.Options{}
	_ = o.FromBytes(a.Options.Get(dhcpv4.OptionVendorSpecificInformation)) // what does not parse is not there
	return o
}

// control is PXE_DISCOVERY_CONTROL; bit 3 is "boot from this offer".
func (a *Answer) control() (bits byte, there bool) {
	if v := a.vendor()[pxeControl]; a.pxe() && len(v) == 1 {
		return v[0], true
	}
	return 0, false
}

const useBootFile = 8

// file is the boot file name: option 67, else the header's, which is where most firmware looks.
func (a *Answer) file() string {
	if v := a.Options.Get(dhcpv4.OptionBootfileName); len(v) > 0 {
		name, _, _ := bytes.Cut(v, []byte{0})
		return string(name)
	}
	return a.BootFileName
}

// id is the server's identifier, option 54.
func (a *Answer) id() netip.Addr { return addrOf(a.Options.Get(dhcpv4.OptionServerIdentifier)) }

// next is the next server: siaddr, else option 54.
func (a *Answer) next() netip.Addr {
	if s := addrOf(a.ServerIPAddr); s.IsValid() && !s.IsUnspecified() {
		return s
	}
	return a.id()
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

// A busy test machine must not look like a silent server. Of a firmware's patience no more than a tick passes at
// once, however long all of this machine, and the box in it, stood still meanwhile; and grace is for what came in time
// but was not read in time.
const (
	tick  = 50 * time.Millisecond
	grace = 20 * time.Millisecond
)

// exchange sends a packet by broadcast and collects the answers of a kind
// until it has enough or the time is over. Where enough is nil the firmware waits
// for the whole of the time: that is what Machine.Hurry shortens.
func (m *Machine) exchange(d *dhcpv4.DHCPv4, want dhcpv4.MessageType, within time.Duration, enough func([]*Answer) bool) ([]*Answer, error) {
	card, err := m.Card.raw()
	if err != nil {
		return nil, err
	}
	defer card.Close()
	if _, err := card.Write(broadcastFrame(m.Card.MAC, d.ToBytes())); err != nil {
		return nil, fmt.Errorf("send %s: %w", d.MessageType(), err)
	}
	m.logf("%s, secs %d", d.MessageType(), d.NumSeconds)
	if enough == nil || m.deaf {
		within, enough = m.wait(within), never
	}
	if m.deaf {
		within = min(within, deafFor)
	}
	var got []*Answer
	buf := make([]byte, 1<<16)
	for left := within; !enough(got); {
		begin, step := time.Now(), min(left, tick)
		card.SetReadDeadline(begin.Add(max(step, grace)))
		n, err := card.Read(buf)
		over := left <= 0
		left -= min(step, time.Since(begin))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if over {
				break
			}
			continue
		}
		if err != nil {
			return got, err
		}
		if a := m.hear(d, bytes.Clone(buf[:n])); a != nil && (a.MessageType() == want || a.MessageType() == dhcpv4.MessageTypeNak) {
			got = append(got, a)
		}
	}
	return got, nil
}

// hear takes a frame for the answer to a packet, or not.
func (m *Machine) hear(d *dhcpv4.DHCPv4, frame []byte) *Answer {
	g, err := parseFrame(frame)
	if errors.Is(err, errFragment) {
		m.complain("%v", err)
	}
	if err != nil || m.deaf || !bytes.Equal(g.to, m.Card.MAC) && g.to[0]&1 == 0 {
		return nil
	}
	a := m.answer(d, g.payload, g.src)
	if a == nil {
		return nil
	}
	a.toAll = g.to[0]&1 != 0
	if m.self.broadcast && !a.toAll && a.GatewayIPAddr.IsUnspecified() {
		m.complain("%s of %s: sent to one, but the client asked for broadcast", a.MessageType(), g.src)
		return nil
	}
	return a
}

// answer parses a message if it is meant for this client and packet.
func (m *Machine) answer(d *dhcpv4.DHCPv4, payload []byte, src netip.AddrPort) *Answer {
	if len(payload) < offOptions || payload[0] != byte(dhcpv4.OpcodeBootReply) || !bytes.Equal(payload[4:8], d.TransactionID[:]) ||
		!bytes.Equal(payload[28:34], m.Card.MAC) {
		return nil
	}
	r, err := dhcpv4.FromBytes(payload)
	if err != nil {
		m.complain("a message of %s cannot be read: %v", src, err)
		return nil
	}
	a := &Answer{DHCPv4: r, src: src}
	m.logf("%s from %s, address %s, class %q, file %q", a.MessageType(), src, a.YourIPAddr, a.Options.Get(dhcpv4.OptionClassIdentifier), a.file())
	if !slices.Contains(m.out.Heard, a.id()) {
		m.out.Heard = append(m.out.Heard, a.id())
	}
	for _, c := range chokes(d, a, payload) {
		m.complain("%s of %s: %s", a.MessageType(), src, c)
	}
	return a
}

// deafFor shortens the waits of a program that hears nothing.
const deafFor = 300 * time.Millisecond

// discover sends one DISCOVER and collects offers.
func (m *Machine) discover(xid dhcpv4.TransactionID, secs, collect time.Duration, enough func([]*Answer) bool) ([]*Answer, error) {
	return m.exchange(m.packet(dhcpv4.MessageTypeDiscover, xid, secs), dhcpv4.MessageTypeOffer, collect, enough)
}

// never and one say when enough offers came.
func never([]*Answer) bool { return false }
func one(a []*Answer) bool { return len(a) > 0 }

// request takes an offer and its address.
func (m *Machine) request(offer *Answer, secs time.Duration) (*Answer, error) {
	d := m.packet(dhcpv4.MessageTypeRequest, offer.TransactionID, secs)
	d.Options[dhcpv4.OptionRequestedIPAddress.Code()] = offer.YourIPAddr.To4()
	d.Options[dhcpv4.OptionServerIdentifier.Code()] = offer.id().AsSlice()
	fromHim := func(got []*Answer) bool { return len(got) > 0 && got[len(got)-1].id() == offer.id() }
	for range 4 {
		got, err := m.exchange(d, dhcpv4.MessageTypeAck, 4*time.Second, fromHim)
		if err != nil {
			return nil, err
		}
		if fromHim(got) {
			return m.bind(got[len(got)-1])
		}
	}
	return nil, fmt.Errorf("no answer to REQUEST from %s", offer.id())
}

// bind takes the address of an ACK.
func (m *Machine) bind(ack *Answer) (*Answer, error) {
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		return nil, fmt.Errorf("%s refused the address: %s", ack.id(), ack.Message())
	}
	ones, _ := net.IPMask(ack.Options.Get(dhcpv4.OptionSubnetMask)).Size()
	m.address = netip.PrefixFrom(addrOf(ack.YourIPAddr.To4()), ones)
	m.address67 = ack
	return ack, m.Card.setAddress(m.address, addrOf(ack.Options.Get(dhcpv4.OptionRouter)))
}

// askBootServer asks a boot server on port 4011, three times a second apart as
// EDK2 does, from port 68 (PXE 2.1) or, as EDK2, from 4011 (captured: testdata).
func (m *Machine) askBootServer(server netip.Addr, secs time.Duration, from uint16) (*Answer, error) {
	conn, err := m.Card.udp(netip.AddrPortFrom(m.address.Addr(), from))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	d := m.packet(dhcpv4.MessageTypeRequest, newXID(), secs)
	d.ClientIPAddr = m.address.Addr().AsSlice()
	buf := make([]byte, 1<<16)
	for range 3 {
		if _, err := conn.WriteToUDPAddrPort(d.ToBytes(), netip.AddrPortFrom(server, portBoot)); err != nil {
			return nil, err
		}
		m.logf("REQUEST to %s port 4011", server)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, src, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			a := m.answer(d, bytes.Clone(buf[:n]), src)
			if a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
				continue
			}
			if src != netip.AddrPortFrom(server, portBoot) {
				m.complain("answer on port 4011 comes from %s, not from %s:4011", src, server)
				continue
			}
			return a, nil
		}
	}
	return nil, fmt.Errorf("no answer from %s port 4011 (PXE-E55)", server)
}

func newXID() dhcpv4.TransactionID {
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		panic(err) // the system has no random numbers
	}
	return xid
}
