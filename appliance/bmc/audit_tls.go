package bmc

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"strings"
	"time"
)

// anyTLS takes whatever a controller offers: it is looked at afterwards.
func anyTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, CipherSuites: suitesTLS()}
}

// lookAtTLS looks at the certificate and the versions of the web server; false is that there is none.
func (s *subject) lookAtTLS(ctx context.Context) bool {
	state, err := s.handshake(ctx, anyTLS())
	if err != nil || len(state.PeerCertificates) == 0 {
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
	signed := bytes.Equal(cert.RawIssuer, cert.RawSubject)
	switch {
	case len(problems) > 0:
		s.found(checkTLS, Bad, "give it a new certificate, switch old versions off, update its firmware", "%s", strings.Join(problems, "; "))
	case signed:
		s.found(checkTLS, Note, "the box pins it (SHA-256 "+short(fingerprint(cert))+"…); for browsers, give it one of your own authority",
			"its certificate is signed by itself, until %s", cert.NotAfter.Format(time.DateOnly))
	default:
		s.found(checkTLS, Good, "", "its certificate is of %s, until %s", strconv.Quote(cert.Issuer.CommonName), cert.NotAfter.Format(time.DateOnly))
	}
	return true
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
