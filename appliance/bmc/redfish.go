package bmc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/stmcginnis/gofish"
)

// Bounds of what a Redfish service gets.
const (
	redfishPort    = 443
	redfishDial    = 10 * time.Second // TCP; and TLS, which takes such a processor a second or two
	redfishRequest = 30 * time.Second // for one answer; those that make a job of it take ten
	redfishAsk     = time.Minute      // for an operation that only asks
	redfishChange  = 4 * time.Minute  // for one that changes something and watches what becomes of it
	redfishLogout  = 5 * time.Second
)

// Redfish is a controller that speaks Redfish (DMTF DSP0266) over HTTPS.
type Redfish struct {
	Host     string
	Port     int // 0 is 443
	User     string
	Password func() (string, error) // read for each session, so that a changed file counts
	System   string                 // Id, UUID, serial number or host name where a service has several systems
	MACs     []string               // of the machine; they tell as well which system it is
	TLS      *tls.Config            // checks the certificate; see tlsConfig

	Taking func() // see Config

	pace pace // zero is a real controller's

	account *account // nil: its own
	turn    turn
	basic   bool        // it has no sessions to give
	faulty  reset       // whose answer was a fault, last
	path    string      // of the system; "" is not looked for yet
	several atomic.Bool // it speaks for several systems
}

// pace is how long a controller's slowness is waited for.
type pace struct {
	request time.Duration // one answer
	poll    time.Duration // between two looks
	power   time.Duration // until power is as it was told
	boot    time.Duration // until a one-time boot reads back
	media   time.Duration // until a medium reads back
}

func (p pace) orDefault() pace {
	return pace{request: cmp.Or(p.request, redfishRequest), poll: cmp.Or(p.poll, 2*time.Second), power: cmp.Or(p.power, time.Minute),
		boot: cmp.Or(p.boot, 10*time.Second), media: cmp.Or(p.media, 45*time.Second)}
}

// session is a logged-in client for one operation.
type session struct {
	*Redfish
	api      *gofish.APIClient
	pace     pace
	password string
	maker    maker
	close    func()
}

// operation logs in, does something, and logs out. Sessions are few on a controller and live
// on for half an hour where nobody ends them, so none is kept.
func (r *Redfish) operation(ctx context.Context, what string, limit time.Duration, do func(context.Context, *session) error) error {
	if err := r.turn.take(ctx); err != nil {
		return fmt.Errorf("%s: BMC %s: %w", what, r.Host, err)
	}
	defer r.turn.leave()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := r.login(ctx)
	if err == nil {
		defer s.close()
		err = do(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("%s: BMC %s: %w", what, r.Host, err)
	}
	return nil
}

// login makes a session, or where the service has none to give, speaks with
// the password in each request.
func (r *Redfish) login(ctx context.Context) (*session, error) {
	password, err := r.Password()
	if err != nil {
		return nil, err
	}
	if r.account == nil {
		r.account = &account{}
	}
	if err := r.account.may("redfish", password); err != nil {
		return nil, err
	}
	s, err := r.connect(ctx, password, r.basic)
	if err != nil && !r.basic && noSessions(err) {
		if s, err = r.connect(ctx, password, true); err == nil {
			r.basic = true
		}
	}
	return s, r.account.learn("redfish", password, err)
}

// connect speaks to the service root, which asks for no password (DSP0266 section 13.3), and logs in.
func (r *Redfish) connect(ctx context.Context, password string, basic bool) (*session, error) {
	s := &session{Redfish: r, password: password, pace: r.pace.orDefault()}
	client, way := r.client(s.pace.request)
	api, err := gofish.ConnectContext(ctx, gofish.ClientConfig{Endpoint: r.endpoint(), HTTPClient: client, ReuseConnections: true,
		Username: r.User, Password: password, BasicAuth: basic})
	if err != nil {
		defer way.close()
		if way.changes > 0 { // the root was read, the login was refused
			return nil, s.loginError(err)
		}
		err = s.plain(err)
		if no := (*denial)(nil); errors.As(err, &no) { // of the root, which asks for no password: nobody was refused
			return nil, no
		}
		return nil, err
	}
	s.api = api
	s.maker = makerOf(api.Service.Vendor, oemKeys(api.Service.OEM), api.Service.Product)
	s.close = way.close
	if basic {
		return s, s.tryBasic(ctx)
	}
	s.close = func() {
		s.logout()
		way.close()
	}
	if given, err := api.GetSession(); err != nil || given.Token == "" {
		s.close()
		return nil, errNoToken
	}
	return s, nil
}

// errNoToken is a session that came without its token.
var errNoToken = errors.New("it made a session without a token")

// tryBasic asks for something that needs the password, so that a wrong one is sent once.
func (s *session) tryBasic(ctx context.Context) error {
	_, err := s.get(ctx, systemsPath, &collection{})
	var no *denial
	switch {
	case err == nil, errors.Is(err, ErrRights):
		return nil
	case errors.As(err, &no) && no.status == http.StatusUnauthorized:
		err = ErrRefused
	}
	s.close()
	return err
}

// logout ends the session; in its own time, since that of the operation may be over.
func (s *session) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), redfishLogout)
	defer cancel()
	s.api.WithContext(ctx).Logout()
}

func (r *Redfish) endpoint() string { return "https://" + r.address() }

func (r *Redfish) address() string {
	return net.JoinHostPort(r.Host, strconv.Itoa(cmp.Or(r.Port, redfishPort)))
}

// Probe reports whether a Redfish service answers, without a password.
func (r *Redfish) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	s := &session{Redfish: r}
	client, way := r.client(probeTime)
	defer way.close()
	api, err := gofish.ConnectContext(ctx, gofish.ClientConfig{Endpoint: r.endpoint(), HTTPClient: client})
	if err != nil {
		return s.plain(err)
	}
	if api.Service.RedfishVersion == "" {
		return fmt.Errorf("%w over Redfish: what answers there is something else", ErrSilent)
	}
	return nil
}

// Info is that of Controller.
func (r *Redfish) Info(ctx context.Context) (Info, error) {
	info := Info{Protocol: "redfish"}
	err := r.operation(ctx, "ask for the firmware", redfishAsk, func(ctx context.Context, s *session) error {
		sys, err := s.system(ctx)
		if err != nil {
			return err
		}
		info.Vendor, info.Model = cmp.Or(s.api.Service.Vendor, string(s.maker), sys.Manufacturer), sys.Model
		for _, m := range s.managers(ctx, sys) {
			info.Firmware = cmp.Or(info.Firmware, m.FirmwareVersion)
		}
		return nil
	})
	return info, err
}
