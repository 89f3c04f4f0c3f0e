package bmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Bounds of what a controller gets.
const (
	ipmiTry       = time.Second // for one packet's answer
	ipmiRetries   = 4
	ipmiOperation = 30 * time.Second // for all of an operation, its session included
	ipmiPort      = 623
)

// suites are the cipher suites that are used, the best first: HMAC-SHA256 and HMAC-SHA1, both
// with AES-CBC-128. To ask the controller which it has takes some of them six
// seconds, and suite 0, which is no authentication at all, must never be agreed upon.
var suites = []types.CipherSuiteID{types.CipherSuiteID17, types.CipherSuiteID3}

// IPMI is a controller that speaks IPMI 2.0 over the LAN (RMCP+).
type IPMI struct {
	Host     string
	Port     int // 0 is 623
	User     string
	Password func() (string, error) // read for each session, so that a changed file counts
	Taking   func()                 // see Config

	account *account // nil: its own
	turn    turn
	suite   types.CipherSuiteID // that worked last; 0 is not known
}

// session logs in, does something, and logs out. Sessions are few on a
// controller, so none is kept.
func (i *IPMI) session(ctx context.Context, what string, do func(context.Context, *client.Client) error) error {
	if err := i.turn.take(ctx); err != nil {
		return fmt.Errorf("%s: BMC %s: %w", what, i.Host, err)
	}
	defer i.turn.leave()
	ctx, cancel := context.WithTimeout(ctx, ipmiOperation)
	defer cancel()
	c, err := i.login(ctx)
	if err != nil {
		return fmt.Errorf("%s: BMC %s: %w", what, i.Host, err)
	}
	defer i.logout(c)
	if err := do(ctx, c); err != nil {
		return fmt.Errorf("%s: BMC %s: %w", what, i.Host, plain(err))
	}
	return nil
}

// login makes a session, unless the password was refused lately.
func (i *IPMI) login(ctx context.Context) (*client.Client, error) {
	password, err := i.Password()
	if err != nil {
		return nil, err
	}
	if i.account == nil {
		i.account = &account{}
	}
	if err := i.account.may("ipmi", password); err != nil {
		return nil, err
	}
	c, err := i.agree(ctx, password)
	return c, i.account.learn("ipmi", password, err)
}

// errMute is silence to a session alone: the question before it, which needs none, was answered.
var errMute = fmt.Errorf("%w when it is asked for a session", ErrSilent)

// errLate is the last step of a login that failed after the controller had proven that it knows the password. Mostly its
// answer was lost: asked again, it refuses or answers in the session that there is already. A new one is no new try of the password.
var errLate = errors.New("it breaks the login off at its end")

// agree tries the suite that worked last, then the other: some controllers refuse one that they do
// not have, and some drop it without a word. A password that was refused is tried with no
// other, which would only count against the account.
func (i *IPMI) agree(ctx context.Context, password string) (*client.Client, error) {
	order := suites
	if i.suite == suites[1] {
		order = []types.CipherSuiteID{suites[1], suites[0]}
	}
	var errs []error
	for _, suite := range order {
		c, err := i.connect(ctx, password, suite)
		if errors.Is(err, errLate) {
			c, err = i.connect(ctx, password, suite)
		}
		if err == nil {
			i.suite = suite
			return c, nil
		}
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrSilent) && !errors.Is(err, errMute) {
			return nil, err
		}
		errs = append(errs, fmt.Errorf("cipher suite %d: %w", suite, err))
	}
	return nil, fmt.Errorf("%w; %w; is one of the two switched on, and IPMI over LAN for this user?", errs[0], errs[1])
}

// connect makes a session with one cipher suite.
func (i *IPMI) connect(ctx context.Context, password string, suite types.CipherSuiteID) (*client.Client, error) {
	port := i.Port
	if port == 0 {
		port = ipmiPort
	}
	host := i.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	c, err := client.NewClient(host, port, i.User, password)
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", i.User, err)
	}
	c.WithCipherSuiteID(suite).WithTimeout(ipmiTry).WithRetry(ipmiRetries).WithMaxPrivilegeLevel(types.PrivilegeLevelOperator).WithUDPProxy(guarded(password))
	err = c.Connect(ctx)
	if err == nil {
		return c, nil
	}
	i.logout(c)
	said := plain(err)
	no, answered := types.IsResponseError(err)
	switch {
	case answered && (no.CompletionCode() == 0x80 || no.CompletionCode() == 0x81): // Set Session Privilege Level (section 22.18)
		return nil, ErrRights
	case errors.Is(said, ErrRefused):
		return nil, said
	case strings.Contains(err.Error(), "rakp3 failed"):
		return nil, fmt.Errorf("%w: %w", errLate, said)
	case errors.Is(said, ErrSilent) && !strings.Contains(err.Error(), "Get Channel Authentication Capabilities"): // which it asks before
		return nil, errMute
	}
	return nil, said
}

// logout ends a session; its own time, since that of the operation may be over.
func (i *IPMI) logout(c *client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), ipmiTry)
	defer cancel()
	_ = c.WithRetry(0).Close(ctx) // the controller ends it by itself after a minute
}

// plain makes a sentence of the library's errors, which it joins without wrapping
// when a session fails: their text is all there is.
func plain(err error) error {
	text := err.Error()
	var no *types.ResponseError
	switch {
	case errors.Is(err, ErrUnsupported), errors.Is(err, ErrNotTaken), errors.Is(err, ErrHalfway):
		return err
	case strings.Contains(text, client.ErrRAKPAuthentication.Error()),
		strings.Contains(text, statusText(types.RmcpStatusCodeUnauthorizedName)),
		strings.Contains(text, statusText(types.RmcpStatusCodeInvalidIntegrityCheckValue)):
		return ErrRefused
	case strings.Contains(text, statusText(types.RmcpStatusCodeUnauthorizedRoleOfPriLevel)),
		errors.As(err, &no) && no.CompletionCode() == types.CodeInsufficientPrivilege:
		return ErrRights
	case errors.As(err, &no):
		return err
	case isTimeout(err), strings.Contains(text, "i/o timeout"), strings.Contains(text, "read deadline"), strings.Contains(text, "connection refused"), strings.Contains(text, "no route to host"):
		return fmt.Errorf("%w over IPMI (UDP): is it on this network, and IPMI over LAN switched on?", ErrSilent)
	}
	return errors.New(strings.Join(strings.Fields(text), " "))
}

func statusText(code types.RmcpStatusCode) string { return types.NewRmcpStatusError(code).Error() }

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// Power is that of Controller: Get Chassis Status (IPMI 2.0 section 28.2).
func (i *IPMI) Power(ctx context.Context) (State, error) {
	state := Unknown
	err := i.session(ctx, "ask for power", func(ctx context.Context, c *client.Client) (err error) {
		state, err = chassisPower(ctx, c)
		return err
	})
	return state, err
}

func chassisPower(ctx context.Context, c *client.Client) (State, error) {
	status, err := c.GetChassisStatus(ctx)
	switch {
	case err != nil:
		return Unknown, err
	case status.PowerIsOn:
		return On, nil
	}
	return Off, nil
}

// controls are the actions in IPMI's numbers (section 28.3).
var controls = map[Action]chassis.ChassisControl{
	PowerOn:  chassis.ChassisControlPowerUp,
	PowerOff: chassis.ChassisControlPowerDown,
	Cycle:    chassis.ChassisControlPowerCycle,
	Reset:    chassis.ChassisControlHardReset,
	SoftOff:  chassis.ChassisControlSoftShutdown,
}

// Do is that of Controller.
func (i *IPMI) Do(ctx context.Context, a Action) error {
	return i.session(ctx, "power "+string(a), func(ctx context.Context, c *client.Client) error { return i.control(ctx, c, a) })
}

// control sends a chassis control. To cycle what is off is an error for a
// controller, so it is switched on. One whose answer is lost may have been done, and is
// not to be sent again by another protocol.
func (i *IPMI) control(ctx context.Context, c *client.Client, a Action) error {
	if a == Cycle || a == Reset {
		state, err := chassisPower(ctx, c)
		if err != nil {
			return err
		}
		if state == Off {
			a = PowerOn
		}
	}
	command, ok := controls[a]
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnsupported, a)
	}
	if (a == Cycle || a == Reset) && i.Taking != nil {
		i.Taking()
	}
	// The library sends it up to five times, the same packet with the same sequence number: a controller
	// that got one of them drops the others (IPMI 2.0 section 6.12.13).
	_, err := c.ChassisControl(ctx, command)
	if no, ok := types.IsResponseError(err); ok && (no.CompletionCode() == types.CodeInvalidCommand || no.CompletionCode() == types.CodeRequestDataFieldInvalid) {
		return fmt.Errorf("%w: power %s (%w)", ErrUnsupported, a, err)
	}
	if err != nil {
		if err = plain(err); errors.Is(err, ErrSilent) {
			return fmt.Errorf("%w, %w", err, ErrHalfway)
		}
	}
	return err
}

// Info is that of Controller: Get Device ID (section 20.1).
func (i *IPMI) Info(ctx context.Context) (Info, error) {
	info := Info{Protocol: "ipmi"}
	err := i.session(ctx, "ask for the firmware", func(ctx context.Context, c *client.Client) error {
		d, err := c.GetDeviceID(ctx)
		if err != nil {
			return err
		}
		info.Vendor = types.OEM(d.ManufacturerID).String()
		info.Model = fmt.Sprintf("product %d", d.ProductID)
		info.Firmware = fmt.Sprintf("%d.%02x", d.MajorFirmwareRevision, d.MinorFirmwareRevision)
		return nil
	})
	return info, err
}
