package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/crypto/ssh"
)

// rescue collects the keys of those who may log in to a booted rescue system.
func (c *checker) rescue(raw rawRescue) Rescue {
	var r Rescue
	for i, s := range raw.SSHKeys {
		if key := read(c, fmt.Sprintf("rescue.ssh_keys[%d]", i), s, sshKey); key != "" {
			r.SSHKeys = append(r.SSHKeys, key)
		}
	}
	if raw.SSHKeysFile != "" {
		r.SSHKeys = append(r.SSHKeys, c.sshKeysFile(raw.SSHKeysFile)...)
	}
	if len(raw.SSHKeys) == 0 && len(r.SSHKeys) == 0 {
		c.warn("rescue.ssh_keys", "nobody can log in to a booted rescue system: it takes keys only, and there is none",
			`put the admins' public keys there: ssh_keys = ["ssh-ed25519 AAAA… you@laptop"]`)
	}
	return r
}

// sshKeysFile reads a file of authorized_keys lines.
func (c *checker) sshKeysFile(name string) []string {
	const key = "rescue.ssh_keys_file"
	path := read(c, key, name, absolutePath)
	if path == "" {
		return nil
	}
	text, err := readFile(path)
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		c.wrong(key, *faultf("the daemon reads it as user rescuebox: keep it in /etc/rescuebox", "cannot read %s: %v", path, pe.Err))
		return nil
	case err != nil:
		c.wrong(key, *faultf("name a file with one public key on each line", "cannot read: %v", err))
		return nil
	case len(text) > maxSize:
		c.wrong(key, *faultf("name a file with one public key on each line", "%s is larger than %d KiB", path, maxSize>>10))
		return nil
	}
	return c.sshKeyLines(path, text)
}

func (c *checker) sshKeyLines(path string, text []byte) []string {
	var keys []string
	if holdsPrivateKey(string(text)) {
		c.wrong("rescue.ssh_keys_file", *faultf("name the .pub file, and make a new key pair if others could read this one", "%s holds a private key", path))
		return nil
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxSize+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, f := sshKey(line)
		if f != nil {
			c.wrong("rescue.ssh_keys_file", *faultf(f.hint, "%s:%d: %s", path, n, f.text))
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

// sshKey checks one line of authorized_keys. What is no public key is not
// repeated in the error: it may be a private one.
func sshKey(s string) (string, *fault) {
	const hint = "one line of a .pub file: ssh-ed25519 AAAA… you@laptop"
	s = strings.TrimSpace(s)
	switch {
	case holdsPrivateKey(s):
		return "", faultf("take the .pub file, and make a new key pair if others could read this one", "this is a private key")
	case s == "" || strings.ContainsAny(s, "\n\r\x00"):
		return "", faultf(hint, "want one public key on one line")
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s))
	switch {
	case err != nil:
		return "", faultf(hint, "this is no SSH public key")
	case key.Type() == "ssh-dss":
		return "", faultf("make one with ssh-keygen -t ed25519", "the rescue system's sshd takes no %s keys", key.Type())
	}
	return s, nil
}

func holdsPrivateKey(s string) bool { return strings.Contains(s, "PRIVATE KEY") }
