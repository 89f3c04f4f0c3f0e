// Package sshd is the SSH server of a Windows PE that has no DaRT: an admin's
// shell, single commands, files up and down. It lives in a rescue LAN, which is
// hostile, and for one boot: keys only, those the box gives; no port forwarding;
// everything bounded in number and time.
package sshd

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds. The admin comes through the box, from one address; so strangers of other
// addresses cannot use up what is for the admin's.
const (
	handshakeTime   = 30 * time.Second
	maxStrangers    = 64 // connections without a login
	maxStrangersPer = 4  // of them, from one address
	maxAdmins       = 16 // connections with a login
	maxSessions     = 10 // of one connection
	maxTries        = 6  // keys that a client offers
	aliveEvery      = 30 * time.Second
	aliveWithin     = 60 * time.Second
)

// Server serves SSH. HostKey, Keys and System must be set.
type Server struct {
	HostKey ssh.Signer
	Keys    *Keys
	System  System
	Home    string       // where SFTP begins, as SFTP writes it: "/X:/"; "" is the current directory
	Event   func(string) // for the person on site; nil tells nobody

	mu        sync.Mutex
	strangers map[string]int // connections by address
	admins    int
}

// Serve serves until ctx ends, and returns when all connections are closed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var n net.Error
			if !errors.As(err, &n) {
				return err
			}
			if !pause(ctx, time.Second) { // of handles there may be some again
				return nil
			}
			continue
		}
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { c.Close() })()
			defer c.Close()
			s.connection(ctx, c)
		})
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// connection serves one client, from greeting to end.
func (s *Server) connection(ctx context.Context, c net.Conn) {
	from := address(c)
	if !s.admit(from) {
		return
	}
	c.SetDeadline(time.Now().Add(handshakeTime))
	conn, channels, requests, err := ssh.NewServerConn(c, s.config())
	s.leave(from)
	if err != nil || !s.login() {
		return
	}
	defer s.logout()
	c.SetDeadline(time.Time{})
	s.event("an administrator has logged in from " + from)
	defer s.event("an administrator from " + from + " has logged out")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() { ssh.DiscardRequests(requests) }) // no forwarding: each is answered no
	wg.Go(func() { alive(ctx, conn) })
	s.channels(&wg, channels)
	cancel()
}

// channels opens sessions, and nothing else.
func (s *Server) channels(wg *sync.WaitGroup, channels <-chan ssh.NewChannel) {
	places := make(chan struct{}, maxSessions)
	for n := range channels {
		if n.ChannelType() != "session" {
			n.Reject(ssh.Prohibited, "this server has sessions only: no port forwarding")
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			n.Reject(ssh.ResourceShortage, "too many sessions")
			continue
		}
		ch, requests, err := n.Accept()
		if err != nil {
			<-places
			continue
		}
		wg.Go(func() {
			defer func() { <-places }()
			(&session{server: s, ch: ch}).serve(requests)
		})
	}
}

func (s *Server) config() *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		MaxAuthTries:  maxTries,
		ServerVersion: "SSH-2.0-rescuebox",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !s.Keys.Has(key) {
				return nil, errors.New("this key is none of the configuration's")
			}
			return nil, nil
		},
	}
	config.AddHostKey(s.HostKey)
	return config
}

// alive ends a connection whose other end is gone: a cable that was moved says nothing.
func alive(ctx context.Context, conn ssh.Conn) {
	for pause(ctx, aliveEvery) {
		limit := time.AfterFunc(aliveWithin, func() { conn.Close() })
		_, _, err := conn.SendRequest("keepalive@openssh.com", true, nil)
		limit.Stop()
		if err != nil {
			return
		}
	}
}

func (s *Server) admit(from string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := 0
	for _, n := range s.strangers {
		all += n
	}
	if all >= maxStrangers || s.strangers[from] >= maxStrangersPer {
		return false
	}
	if s.strangers == nil {
		s.strangers = map[string]int{}
	}
	s.strangers[from]++
	return true
}

func (s *Server) leave(from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strangers[from]--; s.strangers[from] == 0 {
		delete(s.strangers, from)
	}
}

func (s *Server) login() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admins >= maxAdmins {
		return false
	}
	s.admins++
	return true
}

func (s *Server) logout() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admins--
}

func (s *Server) event(text string) {
	if s.Event != nil {
		s.Event(text)
	}
}

func address(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}
