package api

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// OverSocket is a client of the daemon on this box; who the caller is tells the kernel.
func OverSocket(path string) *Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &Client{
		base:  "http://rescuebox",
		where: path,
		client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", path)
			},
			MaxIdleConnsPerHost: 2,
		}},
	}
}

// errFingerprint is in the error of a certificate that is not the pinned one.
var errFingerprint = errors.New("the certificate is not the pinned one")

// OverTLS is a client of a daemon elsewhere. base is https://HOST:PORT. The certificate is
// self-signed; it is trusted by its fingerprint and by nothing else.
func OverTLS(base, fingerprint, token string) (*Client, error) {
	base, err := BaseURL(base)
	if err != nil {
		return nil, err
	}
	if fingerprint == "" {
		return nil, errors.New("no fingerprint is pinned: log in anew")
	}
	return &Client{
		base:   base,
		where:  base,
		token:  token,
		client: &http.Client{Transport: pinned(fingerprint), CheckRedirect: noRedirect},
	}, nil
}

// noRedirect: the API never redirects, and a token must not follow anybody elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// pinned is a transport that talks only to the holder of one certificate.
func pinned(fingerprint string) *http.Transport {
	verify := func(s tls.ConnectionState) error {
		got := Fingerprint(s.PeerCertificates[0])
		if got != fingerprint {
			return fmt.Errorf("%w: it has %s, pinned is %s; if the box was installed anew, log in again", errFingerprint, got, fingerprint)
		}
		return nil
	}
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 2,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// The chain says nothing about a self-signed certificate;
			// VerifyConnection compares the certificate itself.
			InsecureSkipVerify: true,
			VerifyConnection:   verify,
		},
	}
}

// Fingerprint is the SHA-256 of a certificate, written as OpenSSH writes those of host keys.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Peek fetches the fingerprint of a daemon's certificate, for a person to compare.
func Peek(ctx context.Context, base string) (string, error) {
	base, err := BaseURL(base)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	dialer := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(base, "https://"))
	if err != nil {
		return "", fmt.Errorf("%w at %s: %w", ErrUnreachable, base, err)
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates
	return Fingerprint(certs[0]), nil
}

// BaseURL checks a daemon's URL and brings it to its normal form, https://HOST:PORT.
func BaseURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return "", fmt.Errorf("%q is no address of a rescuebox: want https://HOST:PORT", s)
	case u.Port() == "":
		return "", fmt.Errorf("%q has no port: want https://HOST:PORT, as [admin] listen of the box has it", s)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return "", fmt.Errorf("%q has more than host and port: want https://HOST:PORT", s)
	}
	return "https://" + strings.ToLower(u.Host), nil
}
