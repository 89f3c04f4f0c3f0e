package notify

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxSecret bounds a file with a secret or a certificate.
const maxSecret = 256 << 10

// readSecret reads a secret from its file, anew each time, so that a new one needs no
// restart and a missing one stops no other target.
func readSecret(name string) (string, error) {
	text, err := readFile(name)
	if err != nil {
		return "", fmt.Errorf("read the secret: %w: the daemon's user rescuebox must be able to read it", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("read the secret: %s is empty", name)
	}
	return secret, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("it is no regular file of at most 256 KiB")}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSecret))
}

// tlsConfig trusts the system's certificates and those of a file.
func tlsConfig(caFile, serverName string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if caFile == "" {
		return conf, nil
	}
	text, err := readFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificates that are trusted: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s: want PEM", caFile)
	}
	conf.RootCAs = pool
	return conf, nil
}
