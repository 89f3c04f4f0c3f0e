package bmc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// factory is an account that controllers leave their factory with.
type factory struct {
	user, password string
	makers         []maker // whose; tried as well where the maker is not known
}

// factories are known to whoever reads the manuals.
var factories = []factory{
	{"root", "calvin", []maker{dell}},
	{"ADMIN", "ADMIN", []maker{supermicro}},
	{"root", "changeme", []maker{oracle}},
	{"USERID", "PASSW0RD", []maker{lenovo}},
	{"admin", "admin", []maker{ami}},
}

// attempt is one try of an account.
type attempt struct{ host, user, password string }

// lookAtAccounts tries factory accounts, each once: over IPMI where that answers, else
// over Redfish. The user that the box itself uses is never tried, only compared.
func (a *Auditor) lookAtAccounts(ctx context.Context, s *subject, secure bool) {
	try, closed := a.overIPMI, secure && s.closedRedfish(ctx)
	if !s.speaks || !s.caps.V20 {
		if !closed {
			return
		}
		try = overRedfish
	}
	s.compareOwn()
	made, open, tried := makerOf(s.info.Vendor), false, 0
	for _, f := range factories {
		if made != "" && !slices.Contains(f.makers, made) || strings.EqualFold(f.user, s.Config.User) {
			continue
		}
		in, err := a.once(attempt{s.addr.String(), f.user, f.password}, func() (bool, error) { return try(ctx, s, f) })
		switch {
		case in:
			open = true
			s.found(checkAccounts, Bad, "give it a password of its own, or switch it off", "the factory's account %s still has its known password", quoted(f.user))
		case err != nil:
			s.found(checkAccounts, Note, "", "the factory's account %s could not be tried: %v", quoted(f.user), err)
		default:
			tried++
		}
	}
	if !open && tried > 0 {
		s.found(checkAccounts, Good, "", "%d factory accounts are refused", tried)
	}
}

// compareOwn looks at the configured password without sending it.
func (s *subject) compareOwn() {
	if s.Config.Password == nil {
		return
	}
	password, err := s.Config.Password()
	if err != nil {
		return // the firmware's finding says why
	}
	for _, f := range factories {
		if strings.EqualFold(f.user, s.Config.User) && f.password == password {
			s.found(checkAccounts, Bad, "give it another one, and write it into password_file", "the box itself logs in with the factory's password of %s", quoted(f.user))
		}
	}
}

// once tries an account, unless it was refused within the last hour, or is being tried for another blade of the chassis.
func (a *Auditor) once(who attempt, try func() (in bool, err error)) (in bool, err error) {
	if !a.first(who) {
		return false, nil
	}
	if in, err = try(); in || err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.tried, who)
	}
	return in, err
}

// first notes that an account is tried, and reports whether it was not within the last hour.
func (a *Auditor) first(who attempt) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.tried, func(_ attempt, at time.Time) bool { return time.Since(at) >= triedFor })
	if _, known := a.tried[who]; known {
		return false
	}
	if a.tried == nil {
		a.tried = map[attempt]time.Time{}
	}
	a.tried[who] = time.Now()
	return true
}

// overIPMI logs in once. A cipher suite that the controller does not have is
// refused before any name is said.
func (*Auditor) overIPMI(ctx context.Context, s *subject, f factory) (bool, error) {
	i := &IPMI{Host: s.addr.String(), Port: s.ipmi, User: f.user, Password: func() (string, error) { return f.password, nil }}
	_, err := i.Power(ctx)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrRefused):
		return false, nil
	}
	return false, err
}

// closedRedfish reports whether there is a Redfish that wants to know who asks.
func (s *subject) closedRedfish(ctx context.Context) bool {
	status, err := s.redfishStatus(ctx, "", "")
	switch {
	case err != nil:
	case status == http.StatusOK:
		s.found(checkOpen, Bad, "switch authentication on", "Redfish lists systems to whoever asks")
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		s.found(checkOpen, Good, "", "Redfish wants to know who asks")
		return true
	}
	return false
}

func overRedfish(ctx context.Context, s *subject, f factory) (bool, error) {
	status, err := s.redfishStatus(ctx, f.user, f.password)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return false, nil
	}
	return false, fmt.Errorf("the answer is %d", status)
}

// redfishStatus asks for the list of systems and returns the status of the answer.
func (s *subject) redfishStatus(ctx context.Context, user, password string) (int, error) {
	t := &http.Transport{TLSClientConfig: anyTLS(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, MaxResponseHeaderBytes: 64 << 10}
	defer t.CloseIdleConnections()
	client := &http.Client{Transport: t, Timeout: probeTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }} // a password goes nowhere else
	url := "https://" + net.JoinHostPort(s.addr.String(), strconv.Itoa(s.tls)) + "/redfish/v1/Systems"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}

// quoted is a user name for people.
func quoted(user string) string {
	if user == "" {
		return "(none)"
	}
	return strconv.Quote(user)
}
