package ticket

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// preferred is the order in which host keys are pinned.
var preferred = []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"}

// KnownHosts is the ticket's part of a known_hosts file: a line for each of its
// host keys; "" where the report brought fingerprints only.
func KnownHosts(t Ticket) string {
	if !t.Address.IsValid() {
		return ""
	}
	host := t.Address.String()
	if t.Port != 22 {
		host = "[" + host + "]:" + strconv.Itoa(t.Port)
	}
	var b strings.Builder
	for _, line := range t.HostKeyLines {
		fmt.Fprintf(&b, "%s %s\n", host, line)
	}
	return b.String()
}

// Command is the one command that takes the machine over. It trusts the host
// key of the ticket and no other, whatever the admin's own known_hosts says of
// the address: every rescue system makes new keys. "" where the ticket does not say enough.
//
// KnownHostsCommand (OpenSSH 8.5, 2021) keeps it one line that needs no file.
func Command(t Ticket) string {
	if t.Kind == DaRT {
		return viewer(t)
	}
	if t.User == "" || !t.Address.IsValid() {
		return ""
	}
	args := []string{"ssh"}
	if key := pinned(t.HostKeyLines); key != "" {
		args = append(args, "-o StrictHostKeyChecking=yes", "-o UserKnownHostsFile=/dev/null", "-o GlobalKnownHostsFile=/dev/null",
			"-o 'KnownHostsCommand=/bin/echo %H "+key+"'")
	}
	if t.Port != 22 {
		args = append(args, "-p "+strconv.Itoa(t.Port))
	}
	return strings.Join(append(args, t.User+"@"+t.Address.String()), " ")
}

// viewer is the command of Microsoft's viewer, on the admin's Windows PC. It takes
// the three together or none of them; the ticket's form has nothing that cmd.exe or PowerShell would read anew.
func viewer(t Ticket) string {
	if t.Code == "" || !t.Address.IsValid() {
		return ""
	}
	return fmt.Sprintf("DartRemoteViewer.exe -ticket=%s -ipaddress=%s -port=%d", t.Code, t.Address, t.Port)
}

// pinned is the host key that a command names.
func pinned(lines []string) string {
	for _, kind := range preferred {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, kind+" ") })
		if i >= 0 {
			return lines[i]
		}
	}
	if len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// Endpoint is where the ticket's service listens, for those who dial it themselves.
func (t Ticket) Endpoint() string {
	if !t.Address.IsValid() {
		return ""
	}
	return net.JoinHostPort(t.Address.String(), strconv.Itoa(t.Port))
}
