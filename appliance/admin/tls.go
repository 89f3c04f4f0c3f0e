package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"rescuebox/appliance/admin/api"
)

// Limits of connections over TLS: what a stranger can occupy is little, and
// leaves room for others.
const (
	maxConns        = 128
	maxConnsPerAddr = 24
)

// listenTLS listens on the configured address with the box's own certificate.
func (s *Server) listenTLS() (net.Listener, string, error) {
	cert, err := certificate(filepath.Join(s.StateDir, "api.pem"), s.Listen.Addr())
	if err != nil {
		return nil, "", err
	}
	l, err := s.listenConfig().Listen(context.Background(), "tcp", s.Listen.String())
	if err != nil {
		return nil, "", explainListen(s.Listen, err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	l = tls.NewListener(&limited{Listener: l, perAddr: map[string]int{}}, conf)
	return l, api.Fingerprint(cert.Leaf), nil
}

// listenConfig listens on an address that is not there yet, too, where it comes and goes (IP_FREEBIND, ip(7)).
func (s *Server) listenConfig() *net.ListenConfig {
	c := &net.ListenConfig{}
	if s.Floating {
		c.Control = func(_, _ string, conn syscall.RawConn) error {
			var err error
			if cerr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); cerr != nil {
				return cerr
			}
			return err
		}
	}
	return c
}

// explainListen says what to do about an address that cannot be listened on.
func explainListen(at netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen for the API on %s: the port is taken; see who has it with ss -ltnp 'sport = :%d', or change listen in [admin]: %w", at, at.Port(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen for the API on %s: no interface has this address; change listen in [admin]: %w", at, err)
	}
	return fmt.Errorf("listen for the API on %s: %w", at, err)
}

// certificate reads the box's certificate and key, or makes them at the first
// start. They are kept for good, whatever the box's addresses become: admins have
// pinned the fingerprint.
func certificate(path string, addr netip.Addr) (tls.Certificate, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newCertificate(addr)
		if err == nil {
			err = writeFile(path, text)
		}
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of the API: %w", err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of the API in %s: %w; remove the file to get a new one, and log in again everywhere", path, err)
	}
	return cert, nil
}

// newCertificate makes a key and a self-signed certificate, both as PEM.
func newCertificate(addr netip.Addr) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "rescuebox " + host},
		NotBefore:             now.Add(-24 * time.Hour), // a laptop's clock may be behind ours
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IPAddresses:           ownAddresses(addr),
		DNSNames:              []string{"rescuebox"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert}) // into memory: cannot fail
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return b.Bytes(), nil
}

// ownAddresses are the addresses in the certificate: the one listened on, or
// all that the box has.
func ownAddresses(addr netip.Addr) []net.IP {
	if !addr.IsUnspecified() {
		return []net.IP{addr.AsSlice()}
	}
	var list []net.IP
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP)
		}
	}
	return list
}

// writeFile writes a secret whole or not at all: temp, fsync, rename.
func writeFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".api-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// limited is a listener that bounds connections, in all and per address; those
// beyond are closed at once.
type limited struct {
	net.Listener
	mu      sync.Mutex
	all     int
	perAddr map[string]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		if l.take(host) {
			return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { l.free(host) })}, nil
		}
		conn.Close()
	}
}

func (l *limited) take(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || l.perAddr[host] >= maxConnsPerAddr {
		return false
	}
	l.all++
	l.perAddr[host]++
	return true
}

func (l *limited) free(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.perAddr[host]--; l.perAddr[host] == 0 {
		delete(l.perAddr, host)
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	c.free()
	return c.Conn.Close()
}
