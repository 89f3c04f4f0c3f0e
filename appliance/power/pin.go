package power

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// pinned is a TLS configuration that accepts exactly the certificate that host showed
// first: switches and Windows' own remoting sign theirs themselves. It is compared before
// anything is sent.
func pinned(host string, pins Pins) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // the chain is not looked at, the certificate is
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("%w: it shows none", ErrCertificate)
			}
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			return compare(host, hex.EncodeToString(sum[:]), pins)
		},
	}
}

func compare(host, shown string, pins Pins) error {
	if pins == nil {
		return errors.New("nothing remembers certificates: the peer cannot be told from another")
	}
	switch known := pins.Get(host); known {
	case shown:
		return nil
	case "":
		if err := pins.Put(host, shown); err != nil {
			return fmt.Errorf("remember the certificate of %s: %w", host, err)
		}
		return nil
	default:
		return fmt.Errorf("%w: %s had SHA-256 %.16s… and shows %.16s…; if it was replaced, rescuebox bmc trust MACHINE --switch forgets the old one, else somebody answers in its place",
			ErrCertificate, host, known, shown)
	}
}

// Forgetter is what has a certificate pinned. After Forget the next one that is shown is pinned;
// host is "" where none was, and the error ErrUnsupported where there never is one.
type Forgetter interface {
	Forget() (host string, err error)
}

// Forget is that of Forgetter: WinRM over HTTPS has a certificate.
func (s Shutdown) Forget() (host string, err error) {
	name, port := address(s.Host, portHTTPS)
	if s.Kind != "winrm" || port == portHTTP || port == "80" {
		return "", ErrUnsupported
	}
	return forget(joined(name, port), s.Pins)
}

// Forget is that of Forgetter.
func (p *pikvm) Forget() (host string, err error) {
	name, port := address(strings.TrimPrefix(p.base, "https://"), "443")
	return forget(joined(name, port), p.pins)
}

// Forget is that of Forgetter.
func (t *turns) Forget() (host string, err error) {
	if of, ok := t.of.(Forgetter); ok {
		return of.Forget()
	}
	return "", ErrUnsupported
}

func forget(host string, pins Pins) (string, error) {
	if pins == nil || pins.Get(host) == "" {
		return "", nil
	}
	if err := pins.Put(host, ""); err != nil {
		return "", fmt.Errorf("forget the certificate of %s: %w", host, err)
	}
	return host, nil
}

// transport is HTTP over one connection, without a proxy, to a peer that may be slow and
// may send what it likes.
func transport(tlsConfig *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 32 << 10,
		MaxConnsPerHost:        1,
		DisableCompression:     true,
	}
}

// stay follows no redirect: what authenticates us is for this peer only.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// silent makes an error of a connection ErrSilent or its like, unless it is one of
// those that say more.
func silent(ctx context.Context, as, err error) error {
	if errors.Is(err, ErrCertificate) || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", as, err)
}
