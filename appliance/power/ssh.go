package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// poweroffs are tried in turn until one is taken: as the user, whom polkit or root's
// rights may allow it, then as root without a password; and for systems without systemd.
func poweroffs() []string {
	return []string{"systemctl poweroff", "sudo -n systemctl poweroff", "shutdown -h now", "sudo -n shutdown -h now"}
}

// ssh says it over SSH, to the one host key that is configured.
func (s Shutdown) ssh(ctx context.Context) error {
	client, err := s.dialSSH(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	// Nothing below knows contexts; without its connection all of it ends.
	defer context.AfterFunc(ctx, func() { client.Close() })()
	var tried error
	for _, command := range poweroffs() {
		err := say(client, command)
		var said *ssh.ExitError
		switch {
		case ctx.Err() != nil: // first: our own hanging up looks like the system's going down
			return fmt.Errorf("%w: it did not take %q in time", ErrSystemSilent, command)
		case err == nil:
			return nil
		case !errors.As(err, &said):
			return fmt.Errorf("%w: %s: %w", ErrSystemUnable, command, err)
		}
		tried = and(tried, fmt.Errorf("%s: %w", command, err))
	}
	return fmt.Errorf("%w: %w", ErrSystemUnable, tried)
}

// say runs a command there. A session that ends without the command's status is one that
// ended with the system: sshd goes down in the shutdown, too.
func say(client *ssh.Client, command string) error {
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	var missing *ssh.ExitMissingError
	if err := session.Run(command); !errors.As(err, &missing) {
		return err
	}
	return nil
}

func (s Shutdown) dialSSH(ctx context.Context) (*ssh.Client, error) {
	config, err := s.configSSH()
	if err != nil {
		return nil, err
	}
	name, port := address(s.Host, "22")
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(name, port))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSystemSilent, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, name, config)
	if err != nil {
		conn.Close()
		return nil, sortSSH(ctx, err)
	}
	if !stop() {
		c.Close()
		return nil, fmt.Errorf("%w: %w", ErrSystemSilent, ctx.Err())
	}
	return ssh.NewClient(c, channels, requests), nil
}

// errHostKey is another key than the one that is configured.
var errHostKey = errors.New("the machine shows another host key than host_key: it was installed anew, or somebody answers in its place")

func (s Shutdown) configSSH() (*ssh.ClientConfig, error) {
	if s.Key == nil || s.User == "" {
		return nil, errors.New("a shutdown over SSH needs user and key")
	}
	text, err := s.Key()
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, errors.New("the private key has a passphrase, and nobody is there to type it: make one without")
	case err != nil:
		return nil, errors.New("the file of the private key holds none") // the library's words may quote it
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	if err != nil {
		return nil, errors.New("the host key is none: ssh-keyscan -t ed25519 HOST prints it")
	}
	want := string(host.Marshal())
	return &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: algorithms(host.Type()),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if string(key.Marshal()) != want {
				return errHostKey
			}
			return nil
		},
	}, nil
}

// algorithms has the server show the key of our type; an RSA key signs with SHA-2.
func algorithms(key string) []string {
	if key == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key}
}

func sortSSH(ctx context.Context, err error) error {
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: its SSH server did not log in in time", ErrSystemSilent)
	case errors.Is(err, errHostKey):
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	case errors.As(err, &negotiation) && strings.Contains(negotiation.What, "host key"):
		return fmt.Errorf("%w: it has no host key of this type: %w", ErrCertificate, err)
	case strings.Contains(err.Error(), "unable to authenticate"): // the library has no type for it
		return fmt.Errorf("%w: %w", ErrSystemRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrSystemSilent, err)
}
