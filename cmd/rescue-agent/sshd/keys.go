package sshd

import (
	"bytes"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// maxKeys bounds what a box may name.
const maxKeys = 256

// Keys are the keys that may log in; the zero value is none. They may be replaced
// while the server runs.
type Keys struct {
	mu   sync.RWMutex
	list [][]byte // as on the wire
}

// Set takes authorized_keys lines (sshd(8)) in place of what was there, and says
// how many keys that are. A line that is no key is left out, and one with an
// option that would restrict what it may do here.
func (k *Keys) Set(lines []byte) int {
	var list [][]byte
	for _, line := range bytes.Split(lines, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' || len(list) == maxKeys {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err == nil && harmless(options) {
			list = append(list, key.Marshal())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = list
	return len(list)
}

// harmless says whether options forbid only what this server does not offer anyway.
func harmless(options []string) bool {
	for _, o := range options {
		switch strings.ToLower(o) {
		case "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-user-rc":
		default:
			return false
		}
	}
	return true
}

// Has says whether a key may log in.
func (k *Keys) Has(key ssh.PublicKey) bool {
	wire := key.Marshal()
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, have := range k.list {
		if bytes.Equal(have, wire) {
			return true
		}
	}
	return false
}
