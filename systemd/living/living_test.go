package living

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rescuebox/appliance/link/linktest"
)

const site = `site = "living"
[lan]
interface = "lan0"
address = "192.168.77.1/24"
dhcp = "off"
`

// The sandbox leaves the way in what it needs: the hub reaches the box over the wire, and over
// the metered uplink when that is gone; the rescue LAN is shared; nothing was forbidden on the way.
func TestWayInLivesInItsSandbox(t *testing.T) {
	w := linktest.New(t)
	h := w.Hub(t)
	lan(t, w)
	key, err := wgtypes.GeneratePrivateKey()
	must(t, err)
	must(t, h.Admit(key.PublicKey().String(), ""))
	b := boot(t, map[string]string{"etc/rescuebox/rescuebox.toml": site + fmt.Sprintf(`
[[uplink]]
name = "wan"
interface = "wan0"
[[uplink]]
name = "lte"
interface = "lte0"
metered = true
[vpn]
address = "10.99.0.2/24"
share_lan = true
[[vpn.hub]]
public_key = %q
endpoint = [%q]
`, h.PublicKey, h.Endpoint)})
	b.run("install", "-d", "-o", "rescuebox", "-g", "rescuebox", "-m", "700", "/var/lib/rescuebox/secrets")
	b.run("sh", "-c", `umask 077; echo "$0" >/var/lib/rescuebox/secrets/vpn.key; chown rescuebox: /var/lib/rescuebox/secrets/vpn.key`, key.String())
	b.daemon()
	reached := func() bool { return h.Command("ping", "-c", "1", "-W", "1", linktest.BranchInner).Run() == nil }
	b.until("the hub reaches the box", reached)
	t.Logf("VPN up: %s", b.memory())
	must(t, w.Unplug("wan"))
	b.until("the hub reaches the box over LTE", reached)

	tables := b.run("nft", "list", "tables")
	for _, name := range []string{"rescuebox_vpn", "rescuebox_link"} {
		if !strings.Contains(tables, name) {
			t.Errorf("there is no table %s: %q", name, tables)
		}
	}
	if got := b.run("cat", "/proc/sys/net/ipv4/conf/lan0/forwarding"); got != "1" {
		t.Errorf("the LAN is not shared: forwarding is %s", got)
	}
	b.bounds()
	b.run("systemctl", "stop", "rescueboxd.service")
	if left := b.run("nft", "list", "tables") + b.run("ip", "rule"); strings.Contains(left, "rescuebox") || strings.Contains(left, "710") {
		t.Errorf("left over: %s", left)
	}
	log := b.run("journalctl", "--no-pager", "-o", "cat", "-u", "rescueboxd")
	for _, line := range strings.Split(log, "\n") {
		for _, word := range []string{"permission denied", "operation not permitted", "read-only file system", "panic"} {
			if strings.Contains(strings.ToLower(line), word) {
				t.Error(line)
			}
		}
	}
}

// bounds checks what of the kernel's own files the daemon may write, if they are given to it.
func (b *box) bounds() {
	b.Helper()
	daemon := b.run("systemctl", "show", "--property=MainPID", "--value", "rescueboxd.service")
	for file, open := range map[string]bool{
		"/proc/sys/net/ipv6/conf/lan0/accept_ra_defrtr": true,
		"/sys/devices/virtual/net/lan0/ifalias":         true,
		"/proc/sys/net/ipv4/ip_forward":                 false,
		"/proc/sys/kernel/hostname":                     false,
		"/sys/kernel/profiling":                         false,
		"/usr/lib/rescuebox":                            false,
		"/etc/rescuebox/rescuebox.toml":                 false,
	} {
		err := b.try("nsenter", "--target="+daemon, "--mount", "sh", "-c", `v=$(cat "$0" 2>/dev/null) || v=; echo "$v" >"$0"`, file)
		if (err == nil) != open {
			b.Errorf("%s: may be written: %v, want %v: %v", file, err == nil, open, err)
		}
	}
}

// Somebody else's VPN is started when it is down.
func TestExternalVPNIsStarted(t *testing.T) {
	lan(t, linktest.New(t))
	b := boot(t, map[string]string{
		"etc/rescuebox/rescuebox.toml":              site + "[vpn]\nexternal = \"tailscale0\"\nunit = \"tailscaled.service\"\n",
		"usr/lib/systemd/system/tailscaled.service": oneshot("ip link add tailscale0 type veth peer name ts1"),
	})
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "tailscale0").Run() }) // with its namespace at the latest
	b.daemon()
	b.until("the unit was started", func() bool { return exec.Command("ip", "link", "show", "tailscale0").Run() == nil })
}

func oneshot(command string) string {
	return "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '" + command + "'\n"
}

// The daemon's user may have done what it needs, and nothing else; other users may nothing of it.
func TestPolkit(t *testing.T) {
	linktest.New(t)
	files := map[string]string{}
	for _, unit := range []string{"tailscaled", "openvpn-client@", "wg-quick@", "rescuebox-power-modem", "victim"} {
		files["run-units/"+unit+".service"] = oneshot("true")
	}
	b := boot(t, files)
	b.run("sh", "-c", "cp /run-units/* /run/systemd/system; systemctl daemon-reload")
	for _, c := range []struct {
		verb, unit string
		may        bool
	}{
		{"start", "tailscaled.service", true},
		{"start", "openvpn-client@office.service", true},
		{"start", "wg-quick@wg0.service", true},
		{"start", "rescuebox-power-modem.service", true},
		{"stop", "tailscaled.service", false},
		{"restart", "tailscaled.service", false},
		{"start", "victim.service", false},
		{"start", "rescuebox-ppp@1.service", false},
		{"start", "emergency.target", false},
	} {
		if err := b.as("rescuebox", "systemctl", c.verb, c.unit); (err == nil) != c.may {
			t.Errorf("%s %s: %v, want leave %v", c.verb, c.unit, err, c.may)
		}
		if b.as("nobody", "systemctl", c.verb, c.unit) == nil {
			t.Errorf("nobody may %s %s", c.verb, c.unit)
		}
	}
	// The daemon may not ask the kernel whether the clock is right, and systemd says it.
	if err := b.as("rescuebox", "busctl", "get-property", "org.freedesktop.timedate1", "/org/freedesktop/timedate1", "org.freedesktop.timedate1", "NTPSynchronized"); err != nil {
		t.Error(err)
	}
	check := func(action string) []string {
		return []string{"sh", "-c", `pkcheck --action-id "$0" --process $$`, action}
	}
	for action, may := range map[string]bool{
		"org.freedesktop.ModemManager1.Device.Control": true,
		"org.freedesktop.ModemManager1.Messaging":      true,
		"org.freedesktop.ModemManager1.Control":        false,
		"org.freedesktop.login1.reboot":                true,
		"org.freedesktop.login1.power-off":             false,
		"org.freedesktop.login1.reboot-ignore-inhibit": false,
		"org.freedesktop.systemd1.manage-unit-files":   false,
	} {
		if err := b.as("rescuebox", check(action)...); (err == nil) != may {
			t.Errorf("%s: %v, want leave %v", action, err, may)
		}
		if b.as("nobody", check(action)...) == nil {
			t.Errorf("nobody may %s", action)
		}
	}
}

// A connection has pppd run as root, within its unit's bounds, for the daemon's user alone. Where
// the kernel has no PPP, pppd ends by saying so; past that point it comes to nothing at a line
// where nobody is.
func TestPPPIsTheDaemonsAlone(t *testing.T) {
	linktest.New(t)
	b := boot(t, nil)
	b.run("systemctl", "start", "rescuebox-ppp.socket")
	b.run("systemd-run", "--quiet", "--unit=line", "socat", "pty,raw,echo=0,link=/dev/line", "pty,raw,echo=0")
	b.until("a line", func() bool { return b.try("test", "-e", "/dev/line") == nil })
	out := b.ask("rescuebox", fmt.Sprintf(`{"device":%q,"interface":"ppp-lte","v4":true}`, b.run("readlink", "-f", "/dev/line")))
	if !slices.Contains([]string{"4", "8", "10", "15", "16"}, strings.TrimPrefix(out, "rescuebox: pppd exit ")) { // pppd(8)
		t.Errorf("pppd did not come as far as its line: %q", out)
	}
	if out := b.ask("nobody", "{}"); !strings.Contains(out, "Permission denied") {
		t.Errorf("nobody may have pppd run: %q", out)
	}
}

// ask has pppd run for a user, and returns what is said last. The connection is pppd's life: it
// stays open until pppd has ended.
func (b *box) ask(user, request string) string {
	b.Helper()
	cmd := b.command("runuser", "-u", user, "--", "socat", "-", "UNIX-CONNECT:/run/rescuebox-ppp.sock")
	in, err := cmd.StdinPipe()
	must(b.T, err)
	out, err := cmd.StdoutPipe()
	must(b.T, err)
	cmd.Stderr = cmd.Stdout
	must(b.T, cmd.Start())
	defer cmd.Wait()
	defer in.Close()
	fmt.Fprintln(in, request) // what is refused is in the answer
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); strings.HasPrefix(last, "rescuebox: ") {
			break
		}
	}
	return last
}

// lan is the rescue LAN.
func lan(t *testing.T, w *linktest.World) {
	t.Helper()
	must(t, w.Branch.IP("link add lan0 type veth peer name lan1", "link set lan1 up", "address add 192.168.77.1/24 dev lan0", "link set lan0 up"))
	t.Cleanup(func() { _ = w.Branch.IP("link del lan0") }) // with its namespace at the latest
}

// A modem that is not there, an uplink without an interface and a hub that is dead cost the branch
// nothing: the daemon is ready at once, and gives addresses and files.
func TestDeadWaysInCostNothing(t *testing.T) {
	linktest.Need(t, "busybox", "busybox")
	lan(t, linktest.New(t))
	b := boot(t, map[string]string{"etc/rescuebox/rescuebox.toml": strings.Replace(site, `dhcp = "off"`, `dhcp = "full"
range = ["192.168.77.100", "192.168.77.199"]`, 1) + `
[[uplink]]
name = "wan"
interface = "gone0"
[[uplink]]
name = "lte"
modem = "lte"
[[modem]]
name = "lte"
port = "/dev/ttyUSB99"
[vpn]
address = "10.99.0.2/24"
[[vpn.hub]]
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
endpoint = ["192.0.2.99:51820", "hub.example.org:51820"]
[[text.sender]]
number = "+79161234567"
[[notify.text]]
to = ["+79161234567"]
`})
	began := time.Now()
	b.daemon()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("ready after %v", took)
	} else {
		t.Logf("ready after %v, %s", took.Round(time.Millisecond), b.memory())
	}
	run(t, "busybox", "udhcpc", "-i", "lan1", "-f", "-n", "-q", "-t", "10", "-T", "1", "-s", "/bin/true")
	answer := b.run("bash", "-c", `exec 3<>/dev/tcp/192.168.77.1/80 && printf 'GET /boot/ HTTP/1.0\r\n\r\n' >&3 && head -1 <&3`)
	if !strings.HasPrefix(answer, "HTTP/1.") {
		t.Errorf("HTTP: %q", answer)
	}
	began = time.Now()
	b.run("systemctl", "stop", "rescueboxd.service")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stopped after %v", took)
	}
}

// memory is the daemon's.
func (b *box) memory() string {
	return b.run("sh", "-c", `grep VmRSS /proc/$(systemctl show --property=MainPID --value rescueboxd.service)/status`)
}

// From within the sandbox a unit of the admin's is started as root, and the box rebooted.
func TestUnitsAndRebootFromTheSandbox(t *testing.T) {
	linktest.New(t)
	daemon, err := os.ReadFile("../rescueboxd.service")
	must(t, err)
	within := func(command string) string {
		text := strings.NewReplacer("Type=notify", "Type=oneshot", "Restart=always", "", "WatchdogSec=30s", "", "NotifyAccess=main", "").Replace(string(daemon))
		return regexp.MustCompile(`(?m)^ExecStart=.*$`).ReplaceAllString(text, "ExecStart="+command)
	}
	b := boot(t, map[string]string{
		"etc/rescuebox/rescuebox.toml":                         site,
		"usr/lib/systemd/system/rescuebox-power-modem.service": oneshot("id -u >/run/trial/power"),
		"usr/lib/systemd/system/within-power.service":          within("/usr/bin/systemctl start rescuebox-power-modem.service"),
		"usr/lib/systemd/system/within-victim.service":         within("/usr/bin/systemctl stop dbus.service"),
		"usr/lib/systemd/system/within-reboot.service":         within("/usr/bin/systemctl reboot"),
	})
	b.run("systemctl", "start", "within-power.service")
	if got := b.run("cat", "/run/trial/power"); got != "0" {
		t.Errorf("the unit runs as user %s", got)
	}
	if b.try("systemctl", "start", "within-victim.service") == nil {
		t.Error("the sandbox may stop another service")
	}
	b.try("systemctl", "start", "within-reboot.service") // it may end before it answers
	b.until("the box is rebooting", func() bool { return syscall.Kill(b.number(), 0) != nil })
}

func (b *box) number() int {
	n, err := strconv.Atoi(b.pid)
	must(b.T, err)
	return n
}
