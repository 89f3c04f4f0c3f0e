package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func readOrder() (order, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return order{}, fmt.Errorf("read the kernel command line: %w", err)
	}
	return parseOrder(string(b))
}

func newAgent(o order) *agent {
	return &agent{
		boxClient: boxClient{order: o, client: newClient()},
		keep:      func(keys []byte) error { return writeKeys("/root/.ssh/authorized_keys", keys) },
		system:    &linux{root: "/", server: o.Server.Host, sshd: "127.0.0.1:22"},
		out:       os.Stdout,
		console:   consoles{dir: "/dev", sys: "/sys/class/tty"},
		local:     "Administrators at this console: press Enter for a shell.",
		poll:      5 * time.Second,
		minDelay:  time.Second,
		maxDelay:  30 * time.Second,
	}
}

// linux is the machine the agent runs on; root is "/" but in tests.
type linux struct {
	root   string
	server string // host:port of the box
	sshd   string
}

// Addresses lists global addresses, the one that reaches the box first.
func (l *linux) Addresses() []string { return addresses(l.server) }

// Ready asks sshd for its greeting: a port that is open need not have a server yet.
func (l *linux) Ready() bool {
	c, err := net.DialTimeout("tcp", l.sshd, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(io.LimitReader(c, 255)).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "SSH-2.0-")
}

// Facts reads host keys, DMI and names. Only the host key must be there.
func (l *linux) Facts() (report, error) {
	r := report{
		Kind: "ssh", User: "root", Port: 22,
		Serial: l.line("sys/class/dmi/id/product_serial"),
		UUID:   strings.ToLower(l.line("sys/class/dmi/id/product_uuid")),
		System: l.osName(),
		Kernel: l.line("proc/sys/kernel/osrelease"),

		SecureBoot: l.secureBoot(),
	}
	r.Hostname, _ = os.Hostname()
	files, _ := filepath.Glob(filepath.Join(l.root, "etc/ssh/ssh_host_*_key.pub"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return report{}, fmt.Errorf("read the SSH host key: %w", err)
		}
		line, print, err := hostKey(string(b))
		if err != nil {
			return report{}, fmt.Errorf("read the SSH host key %s: %w", f, err)
		}
		r.HostKeyLines = append(r.HostKeyLines, line)
		r.HostKeys = append(r.HostKeys, print)
	}
	if len(r.HostKeys) == 0 {
		return report{}, errors.New("sshd has no host key in /etc/ssh")
	}
	return r, nil
}

// line is a file's first line, "" where the machine does not have it.
func (l *linux) line(name string) string {
	b, err := os.ReadFile(filepath.Join(l.root, name))
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

// secureBoot reads UEFI's variable: four bytes of attributes, then 1 or 0 (UEFI
// 2.10, section 3.3). Firmware with UEFI but without the variable knows no Secure
// Boot; only where variables can be read at all is its absence worth something.
func (l *linux) secureBoot() string {
	const vars = "sys/firmware/efi/efivars"
	b, err := os.ReadFile(filepath.Join(l.root, vars, "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	switch {
	case err == nil && len(b) == 5 && b[4] == 1:
		return "enabled"
	case err == nil && len(b) == 5:
		return "disabled"
	}
	if list, _ := os.ReadDir(filepath.Join(l.root, vars)); errors.Is(err, os.ErrNotExist) && len(list) > 0 {
		return "disabled"
	}
	return ""
}

func (l *linux) osName() string {
	b, _ := os.ReadFile(filepath.Join(l.root, "etc/os-release"))
	for _, s := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(s, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// writeKeys replaces the file in one step: sshd never reads half of it.
func writeKeys(path string, keys []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".keys-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(keys); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// hostKey reads a public key file: the line without its comment, and the
// fingerprint as ssh-keygen -l writes it.
func hostKey(text string) (line, fingerprint string, err error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return "", "", errors.New("no public key")
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(blob)
	return words[0] + " " + words[1], "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
}

// consoles writes to every console the kernel has: the screen of the person on
// site and the serial line of the BMC, whichever of them is there. The kernel takes
// one ttyS only; a second port that is really there is one more, as many BMCs use it.
type consoles struct{ dir, sys string }

func (c consoles) Write(p []byte) (int, error) {
	b, err := os.ReadFile(filepath.Join(c.sys, "console/active"))
	if err != nil {
		return 0, err
	}
	names := strings.Fields(string(b))
	const second = "ttyS1"
	kind, err := os.ReadFile(filepath.Join(c.sys, second, "type")) // 0: there is no such port
	if err == nil && strings.TrimSpace(string(kind)) != "0" && !strings.Contains(string(b), second) {
		names = append(names, second)
	}
	for _, name := range names {
		if name == "tty0" {
			name = "tty1" // tty0 is whichever is in front
		}
		c.writeTo(filepath.Join(c.dir, name), p)
	}
	return len(p), nil
}

// writeTo does not wait for a serial line that nobody reads, and an
// error on one console must not keep the text from the next.
func (c consoles) writeTo(path string, p []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	f.SetWriteDeadline(time.Now().Add(5 * time.Second))
	f.Write(p)
}
