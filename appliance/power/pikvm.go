package power

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// pikvm is a PiKVM's ATX board: wires at the pins of the front panel's button and lamp
// (docs.pikvm.org/api, "ATX"). It presses the button, and knows the power only by the lamp.
type pikvm struct {
	base, user string
	password   func() (string, error)
	client     *http.Client
	pins       Pins
	taking     func()
}

func newPiKVM(c Config) (*pikvm, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("the PiKVM's URL is none of the form https://host") // not repeated: it may hold a password
	}
	if c.User == "" || c.Password == nil || strings.ContainsAny(c.User, "\r\n") {
		return nil, errors.New("a PiKVM needs user and password")
	}
	name, port := address(u.Host, "443")
	return &pikvm{
		base: "https://" + u.Host, user: c.User, password: c.Password, pins: c.Pins, taking: c.Taking,
		client: &http.Client{Transport: transport(pinned(joined(name, port), c.Pins)), CheckRedirect: stay},
	}, nil
}

// atx is the answer to GET /api/atx.
type atx struct {
	OK     bool `json:"ok"`
	Result struct {
		Enabled *bool `json:"enabled"`
		Busy    bool  `json:"busy"`
		LEDs    struct {
			Power *bool `json:"power"`
		} `json:"leds"`
	} `json:"result"`
}

func (p *pikvm) State(ctx context.Context) (State, error) {
	body, err := p.call(ctx, http.MethodGet, "/api/atx")
	if err != nil {
		return Unknown, err
	}
	return parseATX(body)
}

func parseATX(body []byte) (State, error) {
	var a atx
	if err := json.Unmarshal(body, &a); err != nil {
		return Unknown, fmt.Errorf("the PiKVM's answer is no state of ATX: %w", err)
	}
	switch {
	case a.Result.Enabled != nil && !*a.Result.Enabled:
		return Unknown, fmt.Errorf("%w: ATX is disabled in the PiKVM's configuration", ErrUnsupported)
	case !a.OK || a.Result.LEDs.Power == nil:
		return Unknown, errors.New("the PiKVM's answer says nothing of the power lamp")
	case *a.Result.LEDs.Power:
		return On, nil
	}
	return Off, nil
}

func (p *pikvm) On(ctx context.Context) error  { return p.press(ctx, "on", On) }
func (p *pikvm) Off(ctx context.Context) error { return p.press(ctx, "off_hard", Off) }

// Cycle takes the power for a while. The API's reset_hard is less: it presses the reset
// button, which fewer boards have wired, and leaves a hung card its power.
func (p *pikvm) Cycle(ctx context.Context) error {
	s, err := p.State(ctx)
	switch {
	case err != nil:
		return err
	case s == Off:
		return p.On(ctx)
	}
	return offAndOn(ctx, p, p.taking, resting)
}

// press has a button pressed, and waits for the lamp. The PiKVM itself presses nothing
// where the lamp is as wanted already: a press of "on" never switches off.
func (p *pikvm) press(ctx context.Context, action string, want State) error {
	for try := 1; ; try++ {
		_, err := p.call(ctx, http.MethodPost, "/api/atx/power?action="+action+"&wait=1")
		switch {
		case err == nil:
			return settle(ctx, want, settling, p.State)
		case !errors.Is(err, errBusy) || try == 20:
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return fmt.Errorf("%w: %w", errBusy, err)
		}
	}
}

var errBusy = errors.New("the PiKVM presses a button already")

// maxAnswer bounds what a switch may say.
const maxAnswer = 64 << 10

func (p *pikvm) call(ctx context.Context, method, path string) ([]byte, error) {
	password, err := p.password()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(password, "\r\n\x00") {
		return nil, errors.New("the PiKVM's password has a line break in it")
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-KVMD-User", p.user)
	req.Header.Set("X-KVMD-Passwd", password)
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, silent(ctx, ErrSilent, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, silent(ctx, ErrSilent, err)
	}
	return body, p.verdict(resp.StatusCode)
}

func (p *pikvm) verdict(code int) error {
	switch code {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: the PiKVM answers %d; where it asks for a second factor, the code belongs behind the password, which no file can have", ErrRefused, code)
	case http.StatusConflict:
		return errBusy
	case http.StatusBadRequest:
		return fmt.Errorf("%w: the PiKVM answers 400; is ATX enabled in its configuration?", ErrUnsupported)
	}
	return fmt.Errorf("the PiKVM answers %d", code)
}
