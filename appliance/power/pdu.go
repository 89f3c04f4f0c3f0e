package power

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"
)

// dialect is how a family of units speaks of its outlets. Each object is followed by
// the outlet's number.
type dialect struct {
	name   string
	status string // reads as one of on, off
	on     []int
	off    []int
	// The objects that are written, each with the value that does it.
	turnOn, turnOff, cycle order
}

type order struct {
	object string
	value  int
}

// dialects are asked for in this order; the first that has the outlet is the unit's.
func dialects(model string) []dialect {
	switch model {
	case "apc":
		return apc()
	case "raritan":
		return []dialect{raritan()}
	case "eaton":
		return []dialect{eaton()}
	}
	return nil
}

// apc is PowerNet-MIB, enterprise 318, in its three generations. A unit of the second
// generation may answer for the first ones, too; and the first two number on and off the
// other way round in their state, not in their commands.
func apc() []dialect {
	const products = "1.3.6.1.4.1.318.1.1."
	command := func(object string) (on, off, reboot order) {
		return order{object, 1}, order{object, 2}, order{object, 3}
	}
	// rPDU2OutletSwitchedStatusState: off(1), on(2);
	// rPDU2OutletSwitchedControlCommand: immediateOn(1), immediateOff(2), immediateReboot(3).
	second := dialect{name: "rPDU2", status: products + "26.9.2.3.1.5.", on: []int{2}, off: []int{1}}
	second.turnOn, second.turnOff, second.cycle = command(products + "26.9.2.4.1.5.")
	// rPDUOutletStatusOutletState: outletStatusOn(1), outletStatusOff(2);
	// rPDUOutletControlOutletCommand: immediateOn(1), immediateOff(2), immediateReboot(3).
	first := dialect{name: "rPDU", status: products + "12.3.5.1.1.4.", on: []int{1}, off: []int{2}}
	first.turnOn, first.turnOff, first.cycle = command(products + "12.3.3.1.1.4.")
	// sPDUOutletCtl (MasterSwitch) is read and written: outletOn(1), outletOff(2), outletReboot(3).
	master := dialect{name: "sPDU", status: products + "4.4.2.1.3.", on: []int{1}, off: []int{2}}
	master.turnOn, master.turnOff, master.cycle = command(products + "4.4.2.1.3.")
	return []dialect{second, first, master}
}

// raritan is PDU2-MIB, enterprise 13742; indexed by unit (1: not daisy-chained) and outlet.
// outletSwitchingState is a SensorStateEnumeration: on(7), off(8);
// switchingOperation: off(0), on(1), cycle(2).
func raritan() dialect {
	const switching = "1.3.6.1.4.1.13742.6.4.1.2.1."
	set := switching + "2.1."
	return dialect{name: "PDU2", status: switching + "3.1.", on: []int{7}, off: []int{8},
		turnOn: order{set, 1}, turnOff: order{set, 0}, cycle: order{set, 2}}
}

// eaton is EATON-EPDU-MIB, enterprise 534; indexed by strapping (0: the unit that is asked)
// and outlet. outletControlStatus: off(0), on(1), pendingOff(2), pendingOn(3). The commands
// outletControlOffCmd, -OnCmd and -RebootCmd take the seconds until they are done: 0 is at once.
func eaton() dialect {
	const control = "1.3.6.1.4.1.534.6.6.7.6.6.1."
	return dialect{name: "ePDU", status: control + "2.0.", on: []int{1, 2}, off: []int{0, 3},
		turnOff: order{control + "3.0.", 0}, turnOn: order{control + "4.0.", 0}, cycle: order{control + "5.0.", 0}}
}

// pdu is an outlet of a power distribution unit.
type pdu struct {
	host, port, user    string
	community, password func() (string, error)
	outlet              int
	dialects            []dialect
	spoken              *dialect      // by this unit; nil until it was asked
	patience            time.Duration // with one answer
	taking              func()
}

func newPDU(c Config) (*pdu, error) {
	p := &pdu{user: c.User, community: c.Community, password: c.Password, outlet: c.Outlet, dialects: dialects(c.Model), patience: 2 * time.Second, taking: c.Taking}
	p.host, p.port = address(c.Host, "161")
	switch {
	case p.dialects == nil:
		return nil, fmt.Errorf("%q is no model that is known: want apc, raritan or eaton", c.Model)
	case c.Host == "" || c.Outlet < 1:
		return nil, errors.New("a power distribution unit needs a host and an outlet, counted from 1")
	case c.User == "" && c.Community == nil:
		return nil, errors.New("a power distribution unit needs a community, or a user for SNMPv3")
	case c.User != "" && c.Password == nil:
		return nil, errors.New("a user of SNMPv3 needs a password")
	}
	return p, nil
}

func (p *pdu) State(ctx context.Context) (s State, err error) {
	err = p.session(ctx, func(g *gosnmp.GoSNMP) error {
		s, err = p.read(g)
		return err
	})
	return s, err
}

func (p *pdu) On(ctx context.Context) error {
	return p.switchTo(ctx, On, func(d dialect) order { return d.turnOn })
}

func (p *pdu) Off(ctx context.Context) error {
	return p.switchTo(ctx, Off, func(d dialect) order { return d.turnOff })
}

func (p *pdu) switchTo(ctx context.Context, want State, pick func(dialect) order) error {
	err := p.session(ctx, func(g *gosnmp.GoSNMP) error {
		if _, err := p.read(g); err != nil {
			return err
		}
		return p.write(g, pick(*p.spoken))
	})
	if err != nil {
		return err
	}
	return settle(ctx, want, settling, p.State)
}

// Cycle is the unit's own: it brings the power back even if the box loses the way to it
// meanwhile, as where the box hangs on the same unit. It counts once the outlet was seen off.
func (p *pdu) Cycle(ctx context.Context) error {
	var before State
	err := p.session(ctx, func(g *gosnmp.GoSNMP) (err error) {
		if before, err = p.read(g); err != nil || before == Off {
			return err
		}
		// Said once: a unit that hears it twice may begin anew.
		g.Retries = 0
		p.taking()
		return p.write(g, p.spoken.cycle)
	})
	switch {
	case before == Off && err == nil:
		return p.On(ctx)
	case err != nil && !(before == On && errors.Is(err, ErrSilent)): // the answer may be what got lost
		return err
	}
	if unseen := settle(ctx, Off, settling, p.State); unseen != nil {
		return and(err, fmt.Errorf("the outlet's cycle: %w", unseen))
	}
	// A unit's off time is set on it, at most some minutes; it is not waited for longer than this.
	if settle(ctx, On, time.Minute, p.State) == nil {
		return nil
	}
	return restore(ctx, p.On)
}

// read reads the state in the unit's dialect, and finds out which that is.
func (p *pdu) read(g *gosnmp.GoSNMP) (State, error) {
	asked := p.dialects
	if p.spoken != nil { // the others after it: a unit may be replaced by a newer one
		asked = append([]dialect{*p.spoken}, asked...)
	}
	for _, d := range asked {
		object := p.oid(d.status)
		packet, err := g.Get([]string{object})
		if err != nil {
			return Unknown, p.broken(err)
		}
		if n, ok := integer(packet, object); ok {
			p.spoken = &d
			return d.state(n), nil
		}
	}
	return Unknown, fmt.Errorf("%w: the unit at %s has no outlet %d that switches; is the model right?", ErrUnsupported, p.host, p.outlet)
}

func (d dialect) state(n int) State {
	switch {
	case slices.Contains(d.on, n):
		return On
	case slices.Contains(d.off, n):
		return Off
	}
	return Unknown
}

// integer is the value of the object in an answer. An agent that lacks it says
// noSuchObject, or noSuchName where it is of version 1 inside.
func integer(p *gosnmp.SnmpPacket, object string) (int, bool) {
	if p == nil || p.Error != gosnmp.NoError || len(p.Variables) != 1 || p.Variables[0].Name != object {
		return 0, false
	}
	n, ok := p.Variables[0].Value.(int)
	return n, ok && p.Variables[0].Type == gosnmp.Integer
}

func (p *pdu) write(g *gosnmp.GoSNMP, o order) error {
	packet, err := g.Set([]gosnmp.SnmpPDU{{Name: p.oid(o.object), Type: gosnmp.Integer, Value: o.value}})
	if err != nil {
		return p.broken(err)
	}
	switch packet.Error {
	case gosnmp.NoError:
		return nil
	case gosnmp.NoAccess, gosnmp.AuthorizationError, gosnmp.ReadOnly, gosnmp.NotWritable, gosnmp.NoSuchName:
		return fmt.Errorf("%w: the unit answers %v: reading is allowed and writing is not", ErrRefused, packet.Error)
	}
	return fmt.Errorf("%w: the unit answers %v", ErrNotTaken, packet.Error)
}

func (p *pdu) oid(object string) string { return "." + object + strconv.Itoa(p.outlet) }

// session talks SNMP to the unit.
func (p *pdu) session(ctx context.Context, talk func(*gosnmp.GoSNMP) error) error {
	port, err := strconv.ParseUint(p.port, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no port", p.port)
	}
	g := &gosnmp.GoSNMP{Target: p.host, Port: uint16(port), Transport: "udp", Context: ctx, MaxOids: 1,
		Timeout: p.patience, Retries: 2, Version: gosnmp.Version2c}
	if err := p.identify(g); err != nil {
		return err
	}
	if err := g.Connect(); err != nil {
		return p.broken(err)
	}
	defer g.Close()
	return talk(g)
}

// identify fills in who asks. SNMPv3 is used with both authentication (SHA) and encryption
// (AES, RFC 3826), one password for the two.
func (p *pdu) identify(g *gosnmp.GoSNMP) error {
	if p.user == "" {
		community, err := p.community()
		g.Community = community
		return err
	}
	password, err := p.password()
	if err != nil {
		return err
	}
	if len(password) < 8 {
		return errors.New("SNMPv3 wants a password of at least 8 characters (RFC 3414 §11.2)")
	}
	g.Version = gosnmp.Version3
	g.SecurityModel, g.MsgFlags = gosnmp.UserSecurityModel, gosnmp.AuthPriv
	g.SecurityParameters = &gosnmp.UsmSecurityParameters{UserName: p.user,
		AuthenticationProtocol: gosnmp.SHA, AuthenticationPassphrase: password,
		PrivacyProtocol: gosnmp.AES, PrivacyPassphrase: password}
	return nil
}

// broken sorts the library's errors.
func (p *pdu) broken(err error) error {
	for _, refused := range []error{gosnmp.ErrUnknownUsername, gosnmp.ErrWrongDigest, gosnmp.ErrDecryption, gosnmp.ErrUnknownSecurityLevel} {
		if errors.Is(err, refused) {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	switch {
	case strings.Contains(err.Error(), "not authentic"): // what the library makes of an agent's report that it knows no such user or key
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case strings.HasPrefix(err.Error(), "recover:"): // the library's own, with a stack of many lines
		return fmt.Errorf("%w: what it sends is no SNMP", ErrSilent)
	case p.user == "":
		return fmt.Errorf("%w: %w; a wrong community looks the same", ErrSilent, err)
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}
