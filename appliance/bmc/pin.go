package bmc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Known is what is remembered of a controller between two starts of the box.
type Known struct {
	Protocol   string `json:"protocol,omitempty"`    // that answered, "redfish" or "ipmi"; "" is not known
	CertSHA256 string `json:"cert_sha256,omitempty"` // of the certificate that it showed first; "" is none yet
	// Refused is of an account, which has an entry of its own.
	Refused *Refused `json:"refused,omitempty"`
}

// Memory keeps what is known of controllers. The key is the host as configured,
// with its port where one is, or that of an account there.
type Memory interface {
	Get(host string) (Known, bool)
	Put(host string, k Known) error
}

// ErrCertificate is a controller that shows another certificate than the one that
// was pinned: the one that is seen first is, since controllers sign their own.
var ErrCertificate = errors.New("the controller's certificate is not the one it had")

// tlsConfig has check look at the SHA-256 of the certificate that is shown, before the password is sent. Its chain is not
// looked at: that it is the same certificate as ever is checked instead.
func tlsConfig(host string, check func(fingerprint string) error) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, CipherSuites: suitesTLS(), InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("%w: it shows none", ErrCertificate)
			}
			return check(fingerprint(s.PeerCertificates[0]))
		}}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// certificate is the SHA-256 of the one that the controller shows, whatever is pinned.
func (r *Redfish) certificate(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var shown string
	d := tls.Dialer{Config: tlsConfig(r.Host, func(f string) error { shown = f; return nil })}
	conn, err := d.DialContext(ctx, "tcp", r.address())
	if err != nil {
		return "", (&session{Redfish: r}).plain(err)
	}
	return shown, conn.Close()
}

// suitesTLS are Go's, and those with RSA key exchange and AES: controllers of ten years
// ago have no others (iDRAC 7, first iLO 4), and stand in a network of their own.
func suitesTLS() []uint16 {
	old := []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	var ids []uint16
	for _, s := range tls.CipherSuites() {
		ids = append(ids, s.ID)
	}
	for _, id := range old {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// check compares a certificate with the pinned one, or pins it.
func (c *Client) check(shown string) error {
	c.change.Lock()
	defer c.change.Unlock()
	k := c.known()
	switch k.CertSHA256 {
	case shown:
		return nil
	case "":
		k.CertSHA256 = shown
		if err := c.remember(k); err != nil {
			return fmt.Errorf("%w, as it has none: pin it: %w", ErrCertificate, err)
		}
		return nil
	}
	return fmt.Errorf("%w: SHA-256 %s is pinned, %s was shown; if it was replaced, rescuebox bmc trust MACHINE pins the new one, else somebody answers in its place",
		ErrCertificate, short(k.CertSHA256), short(shown))
}

// short is enough of a fingerprint to compare by eye.
func short(fingerprint string) string { return fingerprint[:min(len(fingerprint), 16)] }
