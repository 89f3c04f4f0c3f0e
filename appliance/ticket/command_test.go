package ticket

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// commandForm is every command that may ever be printed.
var commandForm = regexp.MustCompile(`^ssh( -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o 'KnownHostsCommand=/bin/echo %H [a-z0-9@.-]+ [A-Za-z0-9+/=]+')?( -p [0-9]+)? [a-z_][a-z0-9_.-]*@[0-9a-f:.]+$`)

func TestChoose(t *testing.T) {
	for _, c := range []struct{ name, from, reported, want string }{
		{"the LAN's own address", "10.9.9.9", "172.16.0.5 192.168.77.100", "192.168.77.100"},
		{"of two the one seen to work", "192.168.77.101", "192.168.77.100 192.168.77.101", "192.168.77.101"},
		{"seen on the LAN, not reported", "192.168.77.103", "192.168.77.100", "192.168.77.103"},
		{"behind a relay", "10.9.9.9", "172.16.0.5 10.9.9.9", "10.9.9.9"},
		{"through a socket for both families", "::ffff:192.168.77.101", "", "192.168.77.101"},
		{"IPv6 source", "2001:db8::1", "fd00::1", "2001:db8::1"},
		{"link-local source", "fe80::1%eth1", "fe80::1 fd00::1 169.254.3.4 10.1.1.1", "10.1.1.1"},
		{"only IPv6 is left", "127.0.0.1", "::1 fe80::1 fd00::1 0.0.0.0 224.0.0.1", "fd00::1"},
		{"nothing", "127.0.0.1", "169.254.3.4 fe80::1", "invalid IP"},
	} {
		var reported []netip.Addr
		for _, s := range strings.Fields(c.reported) {
			reported = append(reported, netip.MustParseAddr(s))
		}
		tk := Ticket{From: netip.MustParseAddr(c.from), Addresses: reported}
		_ = tk.parseReport(where{lan: netip.MustParsePrefix("192.168.77.1/24")}) // of no report: what was known stays
		got := tk.Address
		if got.String() != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestCommandOpenSSH gives the command to a shell with the real ssh: it must
// reach the server that has the ticket's host key, and no other.
func TestCommandOpenSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("ssh is missing: install the Debian package openssh-client")
		}
		t.Skip("no ssh here (Debian package openssh-client)")
	}
	signer, line, print := testKey(t, 'a')
	_, otherLine, otherPrint := testKey(t, 'b')
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ssh.NewSignerFromKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	addr, user := serveSSH(t, signer, ec)
	ticket := Ticket{User: "root", Port: int(addr.Port()), Address: addr.Addr(), HostKeys: []string{print}, HostKeyLines: []string{line}}

	out, err := runSSH(t, Command(ticket))
	if got := <-user; got != "root" || !strings.Contains(out, "Permission denied") {
		t.Errorf("user %q came as far as the login: %v\n%s", got, err, out)
	}
	// ssh must ask the server for the key that it was told, not for its own favourite.
	ticket.HostKeys, ticket.HostKeyLines = []string{ssh.FingerprintSHA256(ec.PublicKey())}, []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ec.PublicKey())))}
	out, err = runSSH(t, Command(ticket))
	if got := <-user; got != "root" || !strings.Contains(out, "Permission denied") {
		t.Errorf("by the second host key, user %q came as far as the login: %v\n%s", got, err, out)
	}
	ticket.HostKeys, ticket.HostKeyLines = []string{otherPrint}, []string{otherLine}
	out, err = runSSH(t, Command(ticket))
	if err == nil || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("a server with another host key: %v\n%s", err, out)
	}
	if got := <-user; got != "" {
		t.Errorf("a server with another host key heard of user %q", got)
	}
}

// runSSH runs a command with a terminal's prompts off.
func runSSH(t *testing.T, command string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", strings.Replace(command, "ssh ", "ssh -F none -o IdentityAgent=none -o BatchMode=yes ", 1)).CombinedOutput()
	return string(out), err
}

// serveSSH accepts connections, lets nobody in, and says who wanted to ("" for
// one that left before it said).
func serveSSH(t *testing.T, hostKeys ...ssh.Signer) (netip.AddrPort, <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	users := make(chan string, 10)
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			user := ""
			conf := &ssh.ServerConfig{PublicKeyCallback: func(m ssh.ConnMetadata, _ ssh.PublicKey) (*ssh.Permissions, error) {
				return nil, os.ErrPermission
			}, AuthLogCallback: func(m ssh.ConnMetadata, _ string, _ error) { user = m.User() }}
			for _, key := range hostKeys {
				conf.AddHostKey(key)
			}
			ssh.NewServerConn(c, conf)
			users <- user
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort(), users
}

func TestCommandText(t *testing.T) {
	_, line, _ := testKey(t, 'a')
	rsa := "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ=="
	full := Ticket{User: "root", Port: 22, Address: netip.MustParseAddr("192.168.77.100"), HostKeyLines: []string{rsa, line}}
	if cmd := Command(full); !commandForm.MatchString(cmd) || !strings.Contains(cmd, line) || strings.Contains(cmd, "ssh-rsa") {
		t.Errorf("command %s", cmd)
	}
	if got, want := KnownHosts(full), "192.168.77.100 "+rsa+"\n192.168.77.100 "+line+"\n"; got != want {
		t.Errorf("known hosts %q, want %q", got, want)
	}
	full.Port, full.Address, full.HostKeyLines = 2222, netip.MustParseAddr("fd00::1"), nil
	if got, want := Command(full), "ssh -p 2222 root@fd00::1"; got != want {
		t.Errorf("without a host key: %s, want %s", got, want)
	}
	if got, want := full.Endpoint(), "[fd00::1]:2222"; got != want {
		t.Errorf("endpoint %s, want %s", got, want)
	}
	full.HostKeyLines = []string{line}
	if got, want := KnownHosts(full), "[fd00::1]:2222 "+line+"\n"; got != want {
		t.Errorf("known hosts %q, want %q", got, want)
	}
	for name, tk := range map[string]Ticket{"unread": {Address: full.Address}, "nowhere": {User: "root", Port: 22}} {
		if got := Command(tk); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// viewerForm is every command of DaRT's viewer that may ever be printed.
var viewerForm = regexp.MustCompile(`^(DartRemoteViewer\.exe -ticket=[A-Za-z0-9+/=][A-Za-z0-9+/=_.-]* -ipaddress=[0-9a-f.:]+ -port=[0-9]+)?$`)

func TestViewerCommand(t *testing.T) {
	tk := Ticket{Kind: DaRT, Raw: sample(t, "dart.xml")}
	tk.parse(where{})
	if got, want := Command(tk), "DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=10.5.14.52 -port=49161"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	tk.Address = netip.Addr{}
	if got := Command(tk); got != "" {
		t.Errorf("a ticket without an address: %s", got)
	}
}
