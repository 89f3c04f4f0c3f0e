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

// agent answers the agent of a booted machine.
func (v *service) agent(w http.ResponseWriter, r *http.Request, c *conn) string {
	if !v.posts.allow(c.from) {
		w.Header().Set("Retry-After", "1")
		return refuse(w, r, http.StatusTooManyRequests, "too many requests from "+c.from.String(), "")
	}
	if v.Agents == nil {
		return refuse(w, r, http.StatusNotFound, "this box takes no reports", "")
	}
	if r.URL.Path == "/agent/keys" {
		return v.keys(w, r, c)
	}
	return v.up(w, r, c)
}

func (v *service) keys(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return refuse(w, r, http.StatusMethodNotAllowed, "keys are for GET", "")
	}
	keys, err := v.Agents.Keys(bearer(r), c.from)
	if err != nil {
		return v.refuseAgent(w, r, c, err)
	}
	return text(w, r, http.StatusOK, string(keys))
}

func (v *service) up(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		return refuse(w, r, http.StatusMethodNotAllowed, "reports are for POST", "")
	}
	c.SetReadDeadline(time.Now().Add(v.headerTime)) // net/http sets it anew for the next request
	report, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return refuse(w, r, http.StatusRequestEntityTooLarge, "the report has more than "+strconv.Itoa(maxReport)+" bytes", "")
	case err != nil:
		return refuse(w, r, http.StatusBadRequest, "the report did not arrive whole", "")
	case !json.Valid(report):
		return refuse(w, r, http.StatusBadRequest, "the report is no JSON", "")
	}
	if err := v.Agents.Up(bearer(r), c.from, report); err != nil {
		return v.refuseAgent(w, r, c, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return "sent"
}

// refuseAgent says whether a token is missing or the wrong one.
func (v *service) refuseAgent(w http.ResponseWriter, r *http.Request, c *conn, err error) string {
	var no *boot.Refusal
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
