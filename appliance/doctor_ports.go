package appliance

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/dhcp"
)

// port is one that a boot needs.
type port struct {
	proto string // "udp" or "tcp"
	num   int
	part  string
}

func (p port) String() string { return fmt.Sprintf("%s port %d", strings.ToUpper(p.proto), p.num) }

// ports are those that machines boot through.
func (b *box) ports() (list []port) {
	if dhcp.Mode(b.Config.LAN.DHCP) != dhcp.Off {
		list = append(list, port{"udp", 67, "dhcp"}, port{"udp", 4011, "dhcp"})
	}
	return append(list, port{"udp", b.Config.TFTP.Port, "tftp"}, port{"tcp", b.Config.HTTP.Port, "http"})
}

// checkPorts looks who owns them on this host.
func (b *box) checkPorts(context.Context) []admin.Finding {
	var list []admin.Finding
	for _, p := range b.ports() {
		sockets, err := socketsOn(p, b.Config.LAN.Address.Addr())
		if err != nil {
			return admin.Skip("the sockets of this host cannot be read: %s", err)
		}
		mine := ownInodes()
		switch {
		case slices.ContainsFunc(sockets, func(s socket) bool { return mine[s.inode] }):
		case len(sockets) > 0:
			list = append(list, admin.Fault(admin.Failed, "port-taken",
				fmt.Sprintf("stop it, or keep it off %s: ss -lnp%c sport = :%d", b.Config.LAN.Interface, p.proto[0], p.num),
				"%s belongs to %s, so that %s of this box does not run", p, sockets[0].owner(), p.part)...)
		default:
			list = append(list, admin.Fault(admin.Failed, "port-closed", "journalctl -u rescueboxd",
				"nobody listens on %s: %s of this box does not run", p, p.part)...)
		}
	}
	if len(list) > 0 {
		return list
	}
	return admin.Fine("all %d ports that machines boot through are ours", len(b.ports()))
}

// socket is a listening socket of this host.
type socket struct {
	inode string
	uid   string
}

// owner names the process, where the kernel lets us see it, else its user.
func (s socket) owner() string {
	if name := processOf(s.inode); name != "" {
		return name
	}
	who := "user " + s.uid
	if u, err := user.LookupId(s.uid); err == nil {
		who = u.Username
	}
	return "a process of " + who
}

// socketsOn lists the sockets that take what comes to a port of an address.
func socketsOn(p port, self netip.Addr) (list []socket, err error) {
	for _, table := range []string{p.proto, p.proto + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + table)
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if s, at, ok := parseSocket(p.proto, lines.Text()); ok && int(at.Port()) == p.num && (at.Addr().IsUnspecified() || at.Addr().Unmap() == self) {
				list = append(list, s)
			}
		}
		f.Close()
		if lines.Err() != nil {
			return nil, lines.Err()
		}
	}
	return list, nil
}

// stateListen is TCP_LISTEN in /proc/net/tcp; a UDP socket has no such state.
const stateListen = "0A"

// parseSocket reads a line of /proc/PID/net/udp or tcp (proc_pid_net(5)).
func parseSocket(proto, line string) (socket, netip.AddrPort, bool) {
	f := strings.Fields(line)
	if len(f) < 10 || proto == "tcp" && f[3] != stateListen {
		return socket{}, netip.AddrPort{}, false
	}
	addr, num, _ := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(num, 16, 16)
	raw, hexErr := hex.DecodeString(addr)
	if err != nil || hexErr != nil || len(raw)%4 != 0 {
		return socket{}, netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 { // each word is in the host's order, which is little-endian wherever we run
		slices.Reverse(raw[i : i+4])
	}
	a, ok := netip.AddrFromSlice(raw)
	return socket{inode: f[9], uid: f[7]}, netip.AddrPortFrom(a, uint16(n)), ok
}

// ownInodes are the sockets of this process.
func ownInodes() map[string]bool {
	own := map[string]bool{}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return own
	}
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil {
			own[inodeIn(target)] = true
		}
	}
	return own
}

// inodeIn is the number in "socket:[12345]".
func inodeIn(target string) string {
	n, _ := strings.CutPrefix(target, "socket:[")
	return strings.TrimSuffix(n, "]")
}

// processOf names who holds a socket, "" where it is not to be seen.
func processOf(inode string) string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, l := range links {
		if target, err := os.Readlink(l); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			return "process " + filepath.Base(dir)
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return ""
}
