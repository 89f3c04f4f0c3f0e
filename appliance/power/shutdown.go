package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Shutdown asks a machine's own system to go down in good order.
type Shutdown struct {
	Kind string // "winrm" or "ssh"
	Host string // address or name, with a port where it is not the usual one
	User string // for Windows also DOMAIN\user or user@domain; with KDCs user@REALM

	Password func() (string, error) // of WinRM; read at every shutdown
	Pins     Pins                   // of WinRM over HTTPS
	KDCs     []string               // of WinRM: Kerberos by these, and nothing else; none: NTLM

	Key     func() ([]byte, error) // of SSH: the private key
	HostKey string                 // of SSH: "ssh-ed25519 AAAA…", the only one that is accepted
}

// What an orderly shutdown ends with, told apart.
var (
	ErrSystemRefused = errors.New("the machine's system refuses the user")
	ErrSystemSilent  = errors.New("the machine's system does not answer")
	ErrSystemUnable  = errors.New("the machine's system did not take the shutdown")
)

// saying bounds an orderly shutdown: to say it, not to go down.
const saying = 45 * time.Second

// Ask returns when the system has taken the shutdown; that it is down shows in its power.
func (s Shutdown) Ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saying)
	defer cancel()
	switch s.Kind {
	case "winrm":
		return s.winrm(ctx)
	case "ssh":
		return s.ssh(ctx)
	}
	return fmt.Errorf("%q is no way to shut a system down: want winrm or ssh", s.Kind)
}

// joined is what a peer is remembered by.
func joined(name, port string) string { return net.JoinHostPort(strings.ToLower(name), port) }

// address splits a host and its port; port is the usual one where none is given.
func address(host, usual string) (name, port string) {
	if h, p, err := net.SplitHostPort(host); err == nil {
		return h, p
	}
	return strings.Trim(host, "[]"), usual
}
