package bmc

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// anyTLS takes whatever a controller offers: it is looked at afterwards.
func anyTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, CipherSuites: suitesTLS()}
}

// lookAtTLS looks at the certificate and the versions of the web server; false is that there is none
// with which the box could speak.
func (s *subject) lookAtTLS(ctx context.Context) bool {
	state, err := s.handshake(ctx, anyTLS())
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return false
	case isTimeout(err), errors.Is(err, io.EOF), op != nil && (op.Op == "read" || op.Op == "write"): // a port that listens and says nothing
		s.found(checkTLS, Note, "", "port %d is open, and what listens there answers no TLS", s.tls)
		return false
	case err != nil || len(state.PeerCertificates) == 0:
		s.found(checkTLS, Bad, "update its firmware, or let only the box reach it", "its web server has no TLS 1.0 or later with a cipher that is in use today: %s", clean(plainTLS(err)))
		return false
	}
	problems := weakTLS(state)
	old := anyTLS()
	old.MaxVersion = tls.VersionTLS11
	if state.Version >= tls.VersionTLS12 {
		if _, err := s.handshake(ctx, old); err == nil {
			problems = append(problems, "it still takes TLS 1.0 or 1.1")
		}
	}
	cert := state.PeerCertificates[0]
	pins := "the box pins it (SHA-256 " + short(fingerprint(cert)) + "…); for browsers, give it one of your own authority"
	switch {
	case len(problems) > 0:
		s.found(checkTLS, Bad, "give it a new certificate, switch old versions off, update its firmware", "%s", strings.Join(problems, "; "))
	case bytes.Equal(cert.RawIssuer, cert.RawSubject):
		s.found(checkTLS, Note, pins, "its certificate is signed by itself, until %s", cert.NotAfter.Format(time.DateOnly))
	case !vouchedFor(state.PeerCertificates): // such as "Default Issuer (Do not trust)" of an HPE iLO
		s.found(checkTLS, Note, pins, "its certificate is of %s, for whom nobody vouches here, until %s", strconv.Quote(clean(cert.Issuer.CommonName)), cert.NotAfter.Format(time.DateOnly))
	default:
		s.found(checkTLS, Good, "", "its certificate is of %s, until %s", strconv.Quote(clean(cert.Issuer.CommonName)), cert.NotAfter.Format(time.DateOnly))
	}
	return true
}

// vouchedFor reports whether an authority that this system trusts signed a certificate.
func vouchedFor(chain []*x509.Certificate) bool {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Intermediates: between})
	return err == nil
}

// plainTLS is why a handshake failed.
func plainTLS(err error) string {
	if err == nil {
		return "it shows no certificate"
	}
	return strings.TrimPrefix(err.Error(), "remote error: ")
}

func (s *subject) handshake(ctx context.Context, config *tls.Config) (tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", net.JoinHostPort(s.addr.String(), strconv.Itoa(s.tls)))
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState(), nil
}

// weakTLS says what is wrong with a handshake.
func weakTLS(state tls.ConnectionState) (problems []string) {
	cert := state.PeerCertificates[0]
	if state.Version < tls.VersionTLS12 {
		problems = append(problems, "it has no TLS 1.2")
	}
	switch now := time.Now(); {
	case now.After(cert.NotAfter):
		problems = append(problems, "its certificate expired on "+cert.NotAfter.Format(time.DateOnly))
	case now.Before(cert.NotBefore):
		problems = append(problems, "its certificate is valid from "+cert.NotBefore.Format(time.DateOnly)+" only")
	}
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 {
			problems = append(problems, "its key has "+strconv.Itoa(bits)+" bits")
		}
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 {
			problems = append(problems, "its key has "+strconv.Itoa(bits)+" bits")
		}
	}
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD2WithRSA:
		problems = append(problems, "its signature is "+cert.SignatureAlgorithm.String())
	}
	return problems
}
