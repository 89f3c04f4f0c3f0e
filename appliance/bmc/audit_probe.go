package bmc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"
)

// What is asked before any session. It needs no user and no password, so that
// no account is touched.

// Bounds of asking without a session.
const (
	probeTries = 3
	probeWait  = time.Second
)

// capabilities is the answer to Get Channel Authentication Capabilities (IPMI
// 2.0 section 22.13).
type capabilities struct {
	V15, V20  bool
	None      bool // sessions of IPMI 1.5 without any authentication
	Straight  bool // passwords of IPMI 1.5 as they are
	NullUser  bool // users without a name
	Anonymous bool // users without a name and a password
}

// The commands of the application (network function 6) that are asked.
const (
	cmdGUID         = 0x37
	cmdCapabilities = 0x38
)

// The functions and commands that are used.
const (
	functionChassis = 0
	functionApp     = 6
	cmdPower        = 1 // Get Chassis Status
	cmdClose        = 0x3c
)

// answer is what came back of a probe: a pong, the answer to a command, or a
// step towards a session.
type answer struct {
	pong bool

	cmd, code byte // of a command; its completion code
	data      []byte

	step byte // type of the payload, of a step towards a session
	body []byte
}

// The steps towards a session (section 13.27.3).
const (
	stepOpen   = 0x10
	stepOpened = 0x11
	stepRAKP1  = 0x12
	stepRAKP2  = 0x13
	stepRAKP3  = 0x14
	stepRAKP4  = 0x15
)

// ping is a Presence Ping (section 13.2.3).
var ping = []byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0}

// outside is a command without a session, in the format of IPMI 1.5, which all
// of them understand (section 13.6).
func outside(cmd byte, data ...byte) []byte {
	m := message(functionApp, cmd, data...)
	return append([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))}, m...)
}

// message is a command on its way to the controller (section 13.8).
func message(function, cmd byte, data ...byte) []byte {
	const controller, console = 0x20, 0x81
	m := append([]byte{controller, function << 2, sum(controller, function<<2), console, 0, cmd}, data...)
	return append(m, sum(m[3:]...))
}

// plus is a packet of RMCP+ (section 13.6) without integrity and encryption.
func plus(step byte, session, sequence uint32, payload []byte) []byte {
	b := []byte{6, 0, 0xff, 7, 6, step}
	b = binary.LittleEndian.AppendUint32(b, session)
	b = binary.LittleEndian.AppendUint32(b, sequence)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(payload)))
	return append(b, payload...)
}

// sum is the checksum of section 13.8.
func sum(b ...byte) (s byte) {
	for _, v := range b {
		s -= v
	}
	return s
}

// askCapabilities asks for the rights of an operator on the channel that is asked; extended
// says that we know IPMI 2.0. Some of IPMI 1.5 refuse to hear that.
func askCapabilities(extended bool) []byte {
	if extended {
		return outside(cmdCapabilities, 0x8e, 3)
	}
	return outside(cmdCapabilities, 0x0e, 3)
}

// parseAnswer reads what a stranger sent; ok is false for what is no answer of a controller.
func parseAnswer(b []byte) (a answer, ok bool) {
	if len(b) < 14 || b[0] != 6 {
		return a, false
	}
	switch {
	case b[3] == 6: // ASF: a Presence Pong of somebody who knows IPMI
		return answer{pong: true}, len(b) >= 28 && b[8] == 0x40 && b[20]&0x80 != 0
	case b[3] == 7 && b[4] == 0:
		n := 14 + int(b[13])
		return parseMessage(b[14:min(n, len(b))], len(b) >= n)
	case b[3] != 7 || b[4] != 6 || len(b) < 16:
		return a, false
	}
	n := 16 + int(binary.LittleEndian.Uint16(b[14:]))
	if len(b) < n {
		return a, false
	}
	switch step, body := b[5], bytes.Clone(b[16:n]); step {
	case 0:
		return parseMessage(body, true)
	case stepOpened, stepRAKP2, stepRAKP4:
		return answer{step: step, body: body}, len(body) >= 8
	}
	return a, false
}

// parseMessage reads the answer to a command (section 13.8).
func parseMessage(m []byte, whole bool) (a answer, ok bool) {
	n := len(m)
	if !whole || n < 8 || m[1]>>2&1 == 0 || sum(m[:2]...) != m[2] || sum(m[3:n-1]...) != m[n-1] {
		return a, false
	}
	return answer{cmd: m[5], code: m[6], data: bytes.Clone(m[7 : n-1])}, true
}

// capabilities reads them out of an answer.
func (a answer) capabilities() (c capabilities, ok bool) {
	if a.cmd != cmdCapabilities || a.code != 0 || len(a.data) < 4 {
		return c, false
	}
	types, status, extended := a.data[1], a.data[2], a.data[3]
	c = capabilities{V15: true, None: types&1 != 0, Straight: types&0x10 != 0, NullUser: status&2 != 0, Anonymous: status&1 != 0}
	if types&0x80 != 0 {
		c.V15, c.V20 = extended&1 != 0, extended&2 != 0
	}
	return c, true
}

// prober asks one controller.
type prober struct{ conn net.Conn }

func newProber(ctx context.Context, addr netip.AddrPort) (*prober, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	return &prober{conn}, nil
}

// ask sends a packet until the answer comes that is wanted.
func (p *prober) ask(ctx context.Context, packet []byte, wanted func(answer) bool) (answer, bool) {
	buf := make([]byte, 2048)
	for range probeTries {
		if ctx.Err() != nil {
			break
		}
		p.conn.Write(packet) // a refusal by ICMP shows when reading
		p.conn.SetReadDeadline(time.Now().Add(probeWait))
		for {
			n, err := p.conn.Read(buf)
			if err != nil {
				if !isTimeout(err) && !pause(ctx, probeWait/4) {
					return answer{}, false
				}
				break
			}
			if a, ok := parseAnswer(buf[:n]); ok && wanted(a) {
				return a, true
			}
		}
	}
	return answer{}, false
}

// capabilities asks for them.
func (p *prober) capabilities(ctx context.Context) (capabilities, bool) {
	is := func(a answer) bool { return a.cmd == cmdCapabilities }
	a, ok := p.ask(ctx, askCapabilities(true), is)
	if ok && a.code != 0 {
		a, ok = p.ask(ctx, askCapabilities(false), is)
	}
	if !ok {
		return capabilities{}, false
	}
	return a.capabilities()
}

// guid asks which system the controller belongs to; "" is unknown. Boards that nobody
// programmed have all bits clear or set.
func (p *prober) guid(ctx context.Context) string {
	a, ok := p.ask(ctx, outside(cmdGUID), func(a answer) bool { return a.cmd == cmdGUID })
	if !ok || a.code != 0 || len(a.data) != 16 ||
		bytes.Count(a.data, []byte{0}) == 16 || bytes.Count(a.data, []byte{0xff}) == 16 {
		return ""
	}
	return string(a.data)
}

// pause reports whether the time passed.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Bounds of a sweep: what a LAN of old switches carries without being noticed.
const (
	maxSweep   = 1024
	sweepPace  = 4 * time.Millisecond // between two addresses
	sweepAfter = 2 * time.Second      // for the last answers
)

// sweep asks every address of a network, at most maxSweep of them, waits so long for the last answers, and returns
// those where a controller answers, and how many were asked.
func sweep(ctx context.Context, network netip.Prefix, port int, late time.Duration, skip func(netip.Addr) bool) (found []netip.Addr, asked int, err error) {
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	heard := make(chan []netip.Addr, 1)
	go func() { heard <- listenTo(conn, network) }()
	for addr := range hosts(network) {
		if asked == maxSweep || !pause(ctx, sweepPace) {
			break
		}
		if skip(addr) {
			continue
		}
		asked++
		for _, packet := range [][]byte{ping, askCapabilities(true)} {
			// Nobody there is an error of the network, and no news.
			_, _ = conn.WriteToUDPAddrPort(packet, netip.AddrPortFrom(addr, uint16(port)))
		}
	}
	conn.SetReadDeadline(time.Now().Add(late))
	for _, addr := range <-heard {
		if !skip(addr) {
			found = append(found, addr)
		}
	}
	return found, asked, ctx.Err()
}

// listenTo collects who answers, until the connection's deadline.
func listenTo(conn *net.UDPConn, network netip.Prefix) (found []netip.Addr) {
	buf := make([]byte, 2048)
	known := map[netip.Addr]bool{}
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || isTimeout(err) {
			return found
		}
		addr := from.Addr().Unmap()
		if _, ok := parseAnswer(buf[:max(n, 0)]); err != nil || !ok || known[addr] || !network.Contains(addr) {
			continue
		}
		known[addr] = true
		found = append(found, addr)
	}
}

// hosts are the addresses of a network of IPv4, without its own and that of everybody.
func hosts(network netip.Prefix) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		network = network.Masked()
		if !network.Addr().Is4() || network.Bits() > 30 {
			return
		}
		for a := network.Addr().Next(); network.Contains(a.Next()); a = a.Next() {
			if !yield(a) {
				return
			}
		}
	}
}
