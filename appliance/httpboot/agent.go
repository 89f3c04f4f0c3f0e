package httpboot

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/boot"
)

// maxReport bounds a machine's report.
const maxReport = 64 << 10

// handler answers one request, and says in one word how that went.
type handler func(w http.ResponseWriter, r *http.Request, c *conn) string

// reporting is the handler for what booted machines ask and tell; nil for
// every other request.
func (v *service) reporting(r *http.Request) handler {
	if h := v.ticketing(r); h != nil {
		return v.limited(h, v.Tickets != nil, "this box takes no tickets")
	}
	switch r.URL.Path {
	case "/agent/keys":
		return v.limited(v.keys, v.Agents != nil, "this box takes no reports")
	case "/agent/up":
		return v.limited(v.up, v.Agents != nil, "this box takes no reports")
	}
	return nil
}

// limited slows down a machine that asks too often.
func (v *service) limited(h handler, on bool, off string) handler {
	return func(w http.ResponseWriter, r *http.Request, c *conn) string {
		if !v.posts.allow(c.from) {
			w.Header().Set("Retry-After", "1")
			return refuse(w, r, http.StatusTooManyRequests, "too many requests from "+c.from.String(), "")
		}
		if !on {
			return refuse(w, r, http.StatusNotFound, off, "")
		}
		return h(w, r, c)
	}
}

func (v *service) keys(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodGet {
		return refuseMethod(w, r, "keys are for GET", "GET")
	}
	keys, err := v.Agents.Keys(bearer(r), c.from)
	if err != nil {
		return v.refuseAgent(w, r, c, err)
	}
	return text(w, r, http.StatusOK, string(keys))
}

func (v *service) up(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodPost {
		return refuseMethod(w, r, "reports are for POST", "POST")
	}
	report, no := v.read(w, r, c, maxReport, "the report")
	if no == nil && !json.Valid(report) {
		no = &badBody{http.StatusBadRequest, "the report is no JSON"}
	}
	if no != nil {
		return refuse(w, r, no.status, no.reason, "")
	}
	return v.taken(w, r, c, v.Agents.Up(bearer(r), c.from, report))
}

// badBody is why a request's body is not taken.
type badBody struct {
	status int
	reason string
}

// read reads a request's body of at most so many bytes.
func (v *service) read(w http.ResponseWriter, r *http.Request, c *conn, most int64, what string) ([]byte, *badBody) {
	c.SetReadDeadline(time.Now().Add(v.headerTime)) // net/http sets it anew for the next request
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, &badBody{http.StatusRequestEntityTooLarge, what + " has more than " + strconv.FormatInt(most, 10) + " bytes"}
	case err != nil:
		return nil, &badBody{http.StatusBadRequest, what + " did not arrive whole"}
	}
	return body, nil
}

// taken answers a request whose body has been handed on.
func (v *service) taken(w http.ResponseWriter, r *http.Request, c *conn, err error) string {
	if err != nil {
		return v.refuseAgent(w, r, c, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return "sent"
}

// refuseAgent says whether a token is missing or the wrong one, or when to come
// again: an error that knows has a method RetryAfter.
func (v *service) refuseAgent(w http.ResponseWriter, r *http.Request, c *conn, err error) string {
	var no *boot.Refusal
	var later interface{ RetryAfter() time.Duration }
	if errors.As(err, &no) && errors.As(err, &later) {
		w.Header().Set("Retry-After", strconv.Itoa(int(later.RetryAfter().Seconds())))
		return v.refuseFor(w, r, c, err, http.StatusTooManyRequests)
	}
	if errors.As(err, &no) && bearer(r) == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return v.refuseFor(w, r, c, err, http.StatusUnauthorized)
	}
	return v.refuseFor(w, r, c, err, http.StatusForbidden)
}

// bearer is the request's token (RFC 6750 section 2.1), or "".
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// A machine may ask so often; its agent asks every few seconds.
const (
	perSecond    = 10
	burst        = 20
	maxAddresses = 1024
)

// limiter is a token bucket per address, for a bounded number of addresses.
type limiter struct {
	mu      sync.Mutex
	buckets map[netip.Addr]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()*perSecond)
	b.at = now
}

// allow takes one token of an address.
func (l *limiter) allow(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	b, ok := l.buckets[from]
	if !ok {
		if len(l.buckets) >= maxAddresses {
			l.forget(now)
		}
		if len(l.buckets) >= maxAddresses {
			return false
		}
		if l.buckets == nil {
			l.buckets = map[netip.Addr]*bucket{}
		}
		b = &bucket{tokens: burst, at: now}
		l.buckets[from] = b
	}
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// forget drops the addresses that have asked nothing for a while.
func (l *limiter) forget(now time.Time) {
	for a, b := range l.buckets {
		if b.fill(now); b.tokens == burst {
			delete(l.buckets, a)
		}
	}
}
