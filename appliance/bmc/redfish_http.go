package bmc

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/stmcginnis/gofish/schemas"
)

// The limits of one operation. A resource is some kilobytes large.
const (
	maxAnswer   = 4 << 20
	maxRequests = 300
	maxSaid     = 300 // characters of an answer's words
)

// Errors of the way there.
var (
	errNoise    = errors.New("what it answers is no Redfish")
	errTooLarge = fmt.Errorf("its answer is larger than %d MB, which no controller has to say", maxAnswer>>20)
	errAway     = errors.New("it points to another host, and the password goes to none but itself")
	errChatty   = fmt.Errorf("it has no end: %d requests were not enough", maxRequests)
)

// client is bounded in all directions.
func (r *Redfish) client(request time.Duration) (*http.Client, *bounded) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: redfishDial}).DialContext,
		TLSHandshakeTimeout: redfishDial,
		TLSClientConfig:     r.TLS.Clone(),
		MaxConnsPerHost:     1,
		// HTTP/1.1 only: some controllers offer HTTP/2 and do not get it right.
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxResponseHeaderBytes: 64 << 10,
	}
	b := &bounded{next: t, host: r.address(), request: request, close: t.CloseIdleConnections}
	return &http.Client{Transport: b, CheckRedirect: b.redirect}, b
}

// bounded lets requests out to one host only, and reads answers whole, within a time and a size.
type bounded struct {
	next     http.RoundTripper
	host     string
	request  time.Duration
	requests int
	changes  int    // those of them that are no questions
	close    func() // ends its connections
}

// RoundTrip is that of http.RoundTripper.
func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	// The library writes links behind the host's name as they are: one of "@elsewhere/" would make the
	// host a user name there.
	if req.URL.Scheme != "https" || req.URL.Host != b.host || req.URL.User != nil {
		return nil, errAway
	}
	if b.requests++; b.requests > maxRequests {
		return nil, errChatty
	}
	if req.Method != http.MethodGet {
		b.changes++
	}
	ctx, cancel := context.WithTimeout(req.Context(), b.request)
	defer cancel()
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > maxAnswer {
		return nil, errTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err = cmp.Or(ctx.Err(), err); err != nil { // our farewell may have a server end a body properly
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, errTooLarge
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// redirect follows a few on the host itself, such as from /redfish/v1 to /redfish/v1/, and
// none that would turn a change into a question.
func (b *bounded) redirect(req *http.Request, via []*http.Request) error {
	switch {
	case req.URL.Host != b.host || req.URL.Scheme != "https":
		return errAway
	case len(via) > 3 || via[0].Method != http.MethodGet:
		return errors.New("it redirects without end, or a change")
	}
	return nil
}

// denial is a service's no.
type denial struct {
	status int
	ids    string // of its messages
	said   string
}

func (a *denial) Error() string {
	if a.said == "" {
		return fmt.Sprintf("it answers %d %s", a.status, http.StatusText(a.status))
	}
	return fmt.Sprintf("it answers %d: %s", a.status, a.said)
}

// plain makes a sentence of an error of the way, of the library, or of the service. What the
// service says goes through clip, since some say back what they were sent.
func (s *session) plain(err error) error {
	var no *schemas.Error
	switch {
	case errors.As(err, &no):
		return s.answerOf(no)
	case errors.Is(err, ErrCertificate), errors.Is(err, errTooLarge), errors.Is(err, errAway), errors.Is(err, errChatty):
		return inner(err)
	case isSilence(err):
		return fmt.Errorf("%w over Redfish (HTTPS, %s)", ErrSilent, s.address())
	}
	return fmt.Errorf("%w: %s", errNoise, s.clip(err.Error()))
}

// isBroken reports whether a service is of no use at all: what it answers means nothing, or it is
// a fault of its own (500 to 599).
func isBroken(err error) bool {
	var no *denial
	return errors.Is(err, errNoise) || errors.As(err, &no) && no.status >= http.StatusInternalServerError
}

// inner is an error without the request that the HTTP client puts before it.
func inner(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// isSilence reports whether there was nobody, or nobody any more.
func isSilence(err error) bool {
	var op *net.OpError
	return isTimeout(err) || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) && !isSyntax(err) || errors.As(err, &op) ||
		strings.Contains(err.Error(), "server closed idle connection") || strings.Contains(err.Error(), "connection reset")
}

func isSyntax(err error) bool {
	var u *url.Error
	return !errors.As(err, &u) // an answer that ends too early, in the decoder
}

// answerOf reads an error answer (DSP0266 section 8.6): the extended information's
// messages, else the message, else nothing.
func (s *session) answerOf(no *schemas.Error) error {
	a := &denial{status: no.HTTPReturnedStatusCode}
	if a.status == 0 { // the library's own words
		return errors.New(s.clip(no.Message))
	}
	var said []string
	ids := []string{no.Code}
	for _, info := range no.ExtendedInfos {
		ids = append(ids, info.MessageID)
		if info.Message != "" && !slices.Contains(said, info.Message) {
			said = append(said, info.Message)
		}
	}
	a.ids = strings.Join(ids, " ")
	a.said = s.clip(strings.Join(said, " "))
	if a.said == "" && !strings.HasPrefix(strings.TrimSpace(no.Message), "<") { // a page for people
		a.said = s.clip(no.Message)
	}
	if a.status == http.StatusForbidden {
		return fmt.Errorf("%w (%w)", ErrRights, a)
	}
	return a
}

// clip makes foreign text fit for a log: one line, not long, and never the password.
func (s *session) clip(text string) string {
	if s.password != "" {
		text = strings.ReplaceAll(text, s.password, "(password)")
		if quoted, err := json.Marshal(s.password); err == nil {
			text = strings.ReplaceAll(text, string(quoted[1:len(quoted)-1]), "(password)")
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxSaid {
		return string(runes[:maxSaid]) + "…"
	}
	return text
}

// loginError tells a refused password from a service without sessions. HPE iLO 4 answers 400 with
// a message of its own name to a wrong password.
func (s *session) loginError(err error) error {
	if errors.Is(err, errNoToken) {
		return err
	}
	err = s.plain(err)
	var a *denial
	if !errors.As(err, &a) {
		return err
	}
	says := strings.ToLower(a.ids + " " + a.said)
	switch {
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return ErrRefused
	case a.status == http.StatusBadRequest && (strings.Contains(says, "unauthorized") || strings.Contains(says, "login") || strings.Contains(says, "credential")):
		return ErrRefused
	}
	return err
}

// noSessions reports whether the service refused to make a session, for another reason than
// the password: it has none, or all are taken.
func noSessions(err error) bool {
	var a *denial
	return errors.Is(err, errNoToken) || errors.As(err, &a) && !errors.Is(err, ErrRefused) || err != nil && strings.Contains(err.Error(), "no target provided")
}

// get reads a resource, and its ETag. A question that was lost is asked once more.
func (s *session) get(ctx context.Context, path string, into any) (etag string, err error) {
	if path, err = s.local(path); err != nil {
		return "", err
	}
	resp, err := s.send(ctx, func() (*http.Response, error) { return s.api.WithContext(ctx).Get(path) })
	if errors.Is(err, ErrSilent) && s.sleep(ctx) == nil {
		resp, err = s.send(ctx, func() (*http.Response, error) { return s.api.WithContext(ctx).Get(path) })
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := decode(resp.Body, into); err != nil {
		return "", fmt.Errorf("%w: %s: %s", errNoise, path, s.clip(err.Error()))
	}
	return resp.Header.Get("ETag"), nil
}

// decode reads JSON and passes over what is of another type than the standard says: that one field of
// a hundred is wrong must not cost the power button.
func decode(r io.Reader, into any) error {
	err := json.NewDecoder(r).Decode(into)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) && mismatch.Field != "" {
		return nil
	}
	return err
}

// local is a link's path on the host itself; some write whole addresses.
func (s *session) local(link string) (string, error) {
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") {
		return "", fmt.Errorf("it has a link that is no path: %q", s.clip(link))
	}
	u.Scheme, u.Host, u.User, u.Fragment = "", "", nil, ""
	return u.String(), nil
}

// post starts an action.
func (s *session) post(ctx context.Context, target string, body any) error {
	path, err := s.local(target)
	if err != nil {
		return err
	}
	return s.change(ctx, func() (*http.Response, error) { return s.api.WithContext(ctx).Post(path, body) })
}

// patch changes a resource that was read before with an ETag. Where that has changed since, it is read
// once more; and where even then it does not match, it goes without: some do not know their own.
func (s *session) patch(ctx context.Context, path, etag string, body any) error {
	path, err := s.local(path)
	if err != nil {
		return err
	}
	for attempt := range 3 {
		headers := map[string]string{}
		if etag != "" {
			headers["If-Match"] = etag
		}
		err = s.change(ctx, func() (*http.Response, error) {
			return s.api.WithContext(ctx).PatchWithHeaders(path, body, maps.Clone(headers))
		})
		var no *denial
		if !errors.As(err, &no) || no.status != http.StatusPreconditionFailed && no.status != http.StatusPreconditionRequired {
			return err
		}
		var now resource
		header, readErr := s.get(ctx, path, &now)
		if readErr != nil {
			return readErr
		}
		etag = now.tag(header)
		switch {
		case no.status == http.StatusPreconditionRequired && etag == "":
			etag = "*"
		case no.status == http.StatusPreconditionFailed && attempt == 1:
			etag = ""
		}
	}
	return err
}

// change sends what changes something: lost on the way, it may have been done.
func (s *session) change(ctx context.Context, do func() (*http.Response, error)) error {
	return answered(s.send(ctx, do))
}

// changeOnce is change for what must not be sent twice in a row.
func (s *session) changeOnce(do func() (*http.Response, error)) error {
	resp, err := do()
	if err != nil {
		err = s.plain(err)
	}
	return answered(resp, err)
}

func answered(resp *http.Response, err error) error {
	if errors.Is(err, ErrSilent) {
		return fmt.Errorf("%w, %w", err, ErrHalfway)
	}
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// send sends a request, and again when the service says that it is busy.
func (s *session) send(ctx context.Context, do func() (*http.Response, error)) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		resp, err := do()
		if err == nil {
			return resp, nil
		}
		err = s.plain(err)
		if !isBusy(err) || attempt == 3 || s.sleep(ctx) != nil {
			return nil, err
		}
	}
}

// isBusy reports whether the service says that it has no time.
func isBusy(err error) bool {
	var no *denial
	return errors.As(err, &no) && (no.status == http.StatusServiceUnavailable || no.status == http.StatusTooManyRequests)
}

// sleep waits one poll.
func (s *session) sleep(ctx context.Context) error {
	timer := time.NewTimer(s.pace.poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// refusedBy reports whether the service answered no, for a reason that another way of
// saying the same may not have.
func refusedBy(err error) bool {
	var no *denial
	return errors.As(err, &no) && no.status != http.StatusUnauthorized && no.status != http.StatusForbidden
}

// port is a number that some write as a text.
type port int

// UnmarshalJSON is that of json.Unmarshaler; what is no port is none.
func (p *port) UnmarshalJSON(b []byte) error {
	n, err := strconv.Atoi(strings.Trim(string(b), `"`))
	if err != nil || n < 1 || n > 65535 {
		n = 0
	}
	*p = port(n)
	return nil
}
