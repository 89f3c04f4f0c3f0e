package bmc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// Config is where a controller is and how it is spoken to.
type Config struct {
	Protocol string // "redfish", "ipmi", or "auto" and "": Redfish where it answers, else IPMI
	Host     string
	Port     int // of Redfish (TCP) and IPMI (UDP); 0 is 443 and 623
	IPMIPort int // of IPMI where Redfish is on Port; 0 is 623, or Port with "auto"
	User     string
	Password func() (string, error) // read for each session
	// System says which system is meant where a service has several (blades): its Id,
	// UUID, serial number or host name. "" is the only one, or the one with one of MACs.
	System string
	MACs   []string
	Memory Memory // nil: what is known ends with the process
	// Taking is called right before a command is sent that takes power for a cycle or a reset; nil: nobody wants to know.
	Taking func()
}

// The bounds of auto.
const (
	probeTime = 8 * time.Second // for the service root; controllers that sleep take seconds for TLS alone
	// silentFor is how long the protocol that answered before is silent until the
	// other one is remembered in its place: a controller that restarts is back before.
	silentFor = 15 * time.Minute
)

// Client is a controller by whichever protocol it speaks.
type Client struct {
	config  Config
	account *account
	redfish *Redfish
	ipmi    *IPMI // power and console

	change sync.Mutex // held from reading what is known to remembering it changed

	mu     sync.Mutex
	own    Known     // where there is no Memory
	silent time.Time // since when the remembered protocol is
}

// New makes a client. Nothing is sent before it is used.
func New(c Config) *Client {
	client := &Client{config: c}
	client.account = accountOf(client.key(), c)
	web, ipmi := c.ports()
	client.redfish = &Redfish{Host: c.Host, Port: web, User: c.User, Password: c.Password, account: client.account,
		System: c.System, MACs: c.MACs, Taking: c.Taking, TLS: tlsConfig(c.Host, client.check)}
	client.ipmi = &IPMI{Host: c.Host, Port: ipmi, User: c.User, Password: c.Password, account: client.account, Taking: c.Taking}
	return client
}

// ports are where the controller speaks Redfish and IPMI.
func (c Config) ports() (web, ipmi int) {
	web, ipmi = redfishPort, cmp.Or(c.IPMIPort, ipmiPort)
	if c.Port != 0 && c.Protocol != "ipmi" {
		web = c.Port
	}
	if c.Port != 0 && c.Protocol != "redfish" {
		ipmi = cmp.Or(c.IPMIPort, c.Port)
	}
	return web, ipmi
}

// Ask lets a password that the controller refused lately be tried at once, by the next operation that needs it: a
// person wants to know. By itself the box waits, longer after each refusal.
func (c *Client) Ask() { c.account.ask() }

// Refusal is the error that stands since the controller refused the password last, or nil.
func (c *Client) Refusal() error {
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	if r := c.account.standing(); r != nil {
		return r.err()
	}
	return nil
}

// key is the controller's in Memory.
func (c *Client) key() string {
	if c.config.Port == 0 {
		return c.config.Host
	}
	return net.JoinHostPort(c.config.Host, strconv.Itoa(c.config.Port))
}

func (c *Client) known() Known {
	if c.config.Memory != nil {
		k, _ := c.config.Memory.Get(c.key())
		return k
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own
}

func (c *Client) remember(k Known) error {
	if c.config.Memory != nil {
		if err := c.config.Memory.Put(c.key(), k); err != nil {
			return fmt.Errorf("remember BMC %s: %w", c.config.Host, err)
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = k
	return nil
}

// protocol is the one to speak, and whether it may turn out to be the other.
func (c *Client) protocol(ctx context.Context) (protocol string, open bool, err error) {
	switch c.config.Protocol {
	case "redfish", "ipmi":
		return c.config.Protocol, false, nil
	}
	if k := c.known(); k.Protocol != "" {
		return k.Protocol, true, nil
	}
	err = c.redfish.Probe(ctx)
	switch {
	case err == nil:
		c.learn("redfish")
		return "redfish", true, nil
	case errors.Is(err, ErrCertificate):
		// To turn to IPMI would send the password's hash to whoever answers in its place.
		return "", false, err
	}
	return "ipmi", true, nil
}

// learn remembers the protocol that answered. Where it cannot, that costs a probe
// the next time, and no operation.
func (c *Client) learn(protocol string) {
	c.mu.Lock()
	c.silent = time.Time{}
	c.mu.Unlock()
	c.change.Lock()
	defer c.change.Unlock()
	if k := c.known(); k.Protocol != protocol {
		k.Protocol = protocol
		_ = c.remember(k)
	}
}

// speaks is what both protocols do.
type speaks interface {
	Power(ctx context.Context) (State, error)
	Do(ctx context.Context, a Action) error
	Set(ctx context.Context, b Boot) (Next, error)
	Start(ctx context.Context, b Boot) (Next, error)
	Next(ctx context.Context) (Next, error)
	Info(ctx context.Context) (Info, error)
}

func (c *Client) by(protocol string) speaks {
	if protocol == "redfish" {
		return c.redfish
	}
	return c.ipmi
}

// do speaks the protocol that is known, and the other one where that is silent, or its
// service answers with nothing but noise and faults of its own.
func (c *Client) do(ctx context.Context, op func(speaks) error) error {
	protocol, open, err := c.protocol(ctx)
	if err != nil {
		return err
	}
	err = op(c.by(protocol))
	switch {
	case !open:
		return err
	case errors.Is(err, ErrHalfway), ctx.Err() != nil:
		return err // asked again, it might be done twice
	case !errors.Is(err, ErrSilent) && !isBroken(err):
		c.learn(protocol)
		return err
	}
	return c.turn(ctx, protocol, err, op)
}

// turn tries the other protocol after one was of no use, and remembers it when
// that one has been so for long.
func (c *Client) turn(ctx context.Context, protocol string, useless error, op func(speaks) error) error {
	other := "redfish"
	switch {
	case protocol == "redfish" && c.redfish.several.Load():
		return useless // IPMI knows no systems: it would take the whole chassis, or another blade
	case protocol == "redfish":
		other = "ipmi"
	}
	if other == "redfish" && c.redfish.Probe(ctx) != nil {
		return useless
	}
	err := op(c.by(other))
	if errors.Is(err, ErrSilent) {
		return fmt.Errorf("%w; over %s it is silent too", useless, other)
	}
	if c.silentFor(protocol) {
		c.learn(other)
	}
	return err
}

// silentFor reports whether the remembered protocol has been silent for so long
// that it is not coming back. One that nobody has heard yet has not.
func (c *Client) silentFor(protocol string) bool {
	if c.known().Protocol != protocol {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent.IsZero() {
		c.silent = time.Now()
	}
	return time.Since(c.silent) >= silentFor
}

// Power is that of Controller.
func (c *Client) Power(ctx context.Context) (state State, err error) {
	state = Unknown
	err = c.do(ctx, func(s speaks) (err error) { state, err = s.Power(ctx); return err })
	return state, err
}

// Do is that of Controller.
func (c *Client) Do(ctx context.Context, a Action) error {
	return c.do(ctx, func(s speaks) error { return s.Do(ctx, a) })
}

// Set is that of Controller.
func (c *Client) Set(ctx context.Context, b Boot) (next Next, err error) {
	err = c.do(ctx, func(s speaks) (err error) { next, err = s.Set(ctx, b); return err })
	return next, err
}

// Start is that of Controller.
func (c *Client) Start(ctx context.Context, b Boot) (next Next, err error) {
	err = c.do(ctx, func(s speaks) (err error) { next, err = s.Start(ctx, b); return err })
	return next, err
}

// Next is that of Controller.
func (c *Client) Next(ctx context.Context) (next Next, err error) {
	err = c.do(ctx, func(s speaks) (err error) { next, err = s.Next(ctx); return err })
	return next, err
}

// Info is that of Controller.
func (c *Client) Info(ctx context.Context) (info Info, err error) {
	err = c.do(ctx, func(s speaks) (err error) { info, err = s.Info(ctx); return err })
	return info, err
}

// Wiring reads how the controller's network port is connected, over Redfish. IPMI has no common
// word for it: there it is not known.
func (c *Client) Wiring(ctx context.Context) (w Wiring, err error) {
	err = c.do(ctx, func(s speaks) (err error) {
		if r, ok := s.(*Redfish); ok {
			w, err = r.Wiring(ctx)
		}
		return err
	})
	return w, err
}

// Console is that of Controller. Redfish has none that is the same anywhere, so it is
// always IPMI's Serial over LAN, on the same host with the same user.
func (c *Client) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	return c.ipmi.Console(ctx)
}

// Insert is that of Media. IPMI has no virtual media.
func (c *Client) Insert(ctx context.Context, url string) error {
	return c.media(ctx, func(m Media) error { return m.Insert(ctx, url) })
}

// Eject is that of Media.
func (c *Client) Eject(ctx context.Context) error {
	return c.media(ctx, func(m Media) error { return m.Eject(ctx) })
}

func (c *Client) media(ctx context.Context, op func(Media) error) error {
	return c.do(ctx, func(s speaks) error {
		m, ok := s.(Media)
		if !ok {
			return fmt.Errorf("virtual media: BMC %s: %w: it is spoken to over IPMI, which has none", c.config.Host, ErrUnsupported)
		}
		return op(m)
	})
}

// Services are the TCP services that the controller has: those of its kind, at the ports
// where it says that they are. What it says are off are left out.
func (c *Client) Services(ctx context.Context) (list []Service, err error) {
	err = c.do(ctx, func(s speaks) error {
		if r, ok := s.(*Redfish); ok {
			list, err = r.Services(ctx)
			return err
		}
		info, err := s.Info(ctx)
		list = services(makerOf(info.Vendor), nil)
		return err
	})
	return list, err
}

// Trust pins the certificate that the controller shows now, and returns its SHA-256.
func (c *Client) Trust(ctx context.Context) (string, error) {
	shown, err := c.redfish.certificate(ctx)
	if err != nil {
		return "", fmt.Errorf("trust BMC %s: %w", c.config.Host, err)
	}
	c.change.Lock()
	defer c.change.Unlock()
	k := c.known()
	k.CertSHA256 = shown
	return shown, c.remember(k)
}
