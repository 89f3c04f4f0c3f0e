package trial

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rescuebox/appliance"
	"rescuebox/appliance/config"
	"rescuebox/appliance/link"
	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/vpn"
)

// boxEnv tells a child of the program that it is a box, and how.
const boxEnv = "LINK_BOX"

func TestMain(m *testing.M) {
	if text := os.Getenv(boxEnv); text != "" {
		if err := runBox(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	linktest.Main(m)
}

// boxConfig is what a box is told. The kinds are:
//
//	daemon  rescueboxd as a whole, the program of LINK_DAEMON
//	ours    the tunnel and what watches the uplinks, alone
//	three   our tunnel, switched after three probes of 200 ms had no answer
//	metric  WireGuard as it is, and a script that swaps the routes' metrics after three of a second, or when the carrier goes
//	lte     WireGuard as it is, on LTE alone
type boxConfig struct {
	Kind, Dir, HubKey string
	Hub               string // where it is; of a daemon also several, separated by spaces
	LTE               string // of a daemon, for its file: how LTE's data comes about. "": lte0 is there
	Mode              string // of a daemon, "": standby
}

// box is the process at the branch's end.
type box struct{ cmd *exec.Cmd }

// startBox starts a box that the hub has let in.
func (m *measurement) startBox(kind string) { m.startBoxOf(boxConfig{Kind: kind}) }

// startBoxOf is startBox where there is more to say.
func (m *measurement) startBoxOf(c boxConfig) {
	dir, err := os.MkdirTemp("", "rb") // short: the path of the box's socket has 108 bytes
	m.must(err)
	m.Cleanup(func() { m.must(os.RemoveAll(dir)) })
	c.Dir, c.HubKey, c.Hub = dir, m.h.PublicKey, cmp.Or(c.Hub, m.h.Endpoint.String())
	private, err := wgtypes.GeneratePrivateKey()
	m.must(err)
	m.must(os.WriteFile(filepath.Join(c.Dir, "vpn.key"), []byte(private.String()+"\n"), 0o600))
	m.public, m.config = private.PublicKey().String(), c
	m.must(m.h.Admit(m.public, ""))
	m.restartBox()
}

// restartBox starts the box's process.
func (m *measurement) restartBox() {
	c := m.config
	text, err := json.Marshal(c)
	m.must(err)
	var cmd *exec.Cmd
	if c.Kind == "daemon" {
		cmd = m.daemon(c)
	} else {
		cmd = exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), boxEnv+"="+string(text))
	}
	log, err := os.Create(filepath.Join(c.Dir, "log"))
	m.must(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when this thread ends, and others do with Place.Do
		started <- cmd.Start()
		select {}
	}()
	m.must(<-started)
	m.box = &box{cmd}
	m.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); err == nil && (m.Failed() || os.Getenv("LINKTEST_LOG") != "") {
			m.Logf("%s", text)
		}
	})
}

// daemon is rescueboxd with the file of a site that has two uplinks.
func (m *measurement) daemon(c boxConfig) *exec.Cmd {
	m.must(m.w.Branch.IP("link add lan0 type veth peer name lan1", "link set lan1 up", "address add 192.168.77.1/24 dev lan0", "link set lan0 up"))
	m.Cleanup(func() { _ = m.w.Branch.IP("link del lan0") }) // with its namespace at the latest
	state := filepath.Join(c.Dir, "state")
	secrets := filepath.Join(state, "secrets")
	m.must(os.MkdirAll(secrets, 0o700))
	m.must(os.Rename(filepath.Join(c.Dir, "vpn.key"), filepath.Join(secrets, "vpn.key")))
	file := filepath.Join(c.Dir, "rescuebox.toml")
	lte := cmp.Or(c.LTE, "interface = \"lte0\"\nmetered = true")
	hubs := `"` + strings.Join(strings.Fields(c.Hub), `", "`) + `"`
	m.must(os.WriteFile(file, fmt.Appendf(nil, siteFile, lte, cmp.Or(c.Mode, "standby"), failback, c.HubKey, hubs, c.Dir, state), 0o644))
	return m.daemonOf(file)
}

// byModem is LTE's data by a modem at a port.
func byModem(port, more string) string {
	return fmt.Sprintf("modem = \"lte\"\n[[modem]]\nname = \"lte\"\nport = %q\napn = \"internet\"\n%s", port, more)
}

const siteFile = `site = "measured"
[lan]
interface = "lan0"
address = "192.168.77.1/24"
dhcp = "off"
[[uplink]]
name = "wan"
interface = "wan0"
[[uplink]]
name = "lte"
%s
[link]
mode = "%s"
failback = "%v"
max_switches = 1000
[vpn]
address = "10.99.0.2/24"
[[vpn.hub]]
public_key = "%s"
endpoint = [%s]
[admin]
socket = "%s/api.sock"
[state]
dir = "%s"
`

// daemonOf is rescueboxd with a file: the program of LINK_DAEMON, or else what that does, in a child of the test.
func (m *measurement) daemonOf(file string) *exec.Cmd {
	if program := os.Getenv("LINK_DAEMON"); program != "" {
		return exec.Command(program, "-config", file)
	}
	text, err := json.Marshal(boxConfig{Kind: "daemon", Dir: file})
	m.must(err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), boxEnv+"="+string(text))
	return cmd
}

func (b *box) stop() {
	_ = b.cmd.Process.Signal(syscall.SIGTERM) // ended already is as good
	_ = b.cmd.Wait()                          // by the signal
}

// memory is a line of the box's status, in MB.
func (b *box) memory(line string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		return "0"
	}
	var kB int
	_, after, _ := strings.Cut(string(text), line+":")
	_, _ = fmt.Sscan(after, &kB) // no number is 0
	return fmt.Sprintf("%.1f", float64(kB)/1024)
}

// runBox is the child.
func runBox(text string) error {
	var c boxConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	switch c.Kind {
	case "daemon":
		return runDaemon(c.Dir)
	case "ours":
		return c.ours()
	case "three":
		return c.three()
	case "metric":
		return c.metric()
	case "lte":
		if err := c.ip("route del default via 192.168.1.1 dev wan0 metric 100"); err != nil {
			return err
		}
		if _, _, err := c.plain(); err != nil {
			return err
		}
		select {}
	}
	return fmt.Errorf("nobody knows the box %q", c.Kind)
}

// runDaemon is what rescueboxd does.
func runDaemon(file string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return appliance.Run(ctx, appliance.Options{Config: cfg, Version: "test", Log: log})
}

// tunnel is ours.
func (c boxConfig) tunnel(log *zap.Logger) (*vpn.Tunnel, error) {
	return vpn.New(vpn.Config{
		Interface: "rescuevpn", Address: netip.MustParsePrefix(linktest.BranchInner + "/24"), KeyFile: filepath.Join(c.Dir, "vpn.key"),
		Hubs: []vpn.Hub{{Name: "hub", PublicKey: c.HubKey, Endpoints: []string{c.Hub}, Keepalive: 25 * time.Second,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}, Ping: netip.MustParseAddr(linktest.HubInner)}},
		Uplinks: []vpn.Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}},
	}, log)
}

func (c boxConfig) ours() error {
	log := logger()
	t, err := c.tunnel(log)
	if err != nil {
		return err
	}
	hub := netip.MustParseAddrPort(c.Hub).Addr()
	w, err := link.New(link.Config{
		Uplinks:  []link.Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}},
		Failback: failback, MaxSwitches: 1000, InnerDevice: "rescuevpn", Tunnel: t, Log: log,
		Inner: func() netip.Addr { return netip.MustParseAddr(linktest.HubInner) },
		Hubs:  func() []netip.Addr { return []netip.Addr{hub} },
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan error)
	go func() { ended <- t.Run(ctx, func() {}) }()
	go func() { ended <- w.Run(ctx, func() {}) }()
	return errors.Join(<-ended, <-ended)
}

func logger() *zap.Logger {
	if os.Getenv("LINKTEST_LOG") == "" {
		return zap.NewNop()
	}
	log, err := zap.NewDevelopment()
	if err != nil {
		return zap.NewNop()
	}
	return log
}

// three is our tunnel with the watch that most would write: the hub's address inside is
// pinged each 200 ms, and three without an answer are the end of the WAN.
func (c boxConfig) three() error {
	t, err := c.tunnel(logger())
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() { ended <- t.Run(context.Background(), func() {}) }()
	go c.follow(200*time.Millisecond, func() error { t.Use("lte"); return nil }, func() error { t.Use("wan"); return nil })
	return <-ended
}

// metric is what a script does: three pings of a second without an answer, or a cable that is
// out, and the default route by LTE is the better one.
func (c boxConfig) metric() error {
	d, hub, err := c.plain()
	if err != nil {
		return err
	}
	// WireGuard in Go would go on by the WAN for ever, where it was last reached
	// (WireGuard/wireguard-go#61). The kernel's looks at the routes anew, and so does this one if it is told its endpoint again.
	again := func() error { return d.IpcSet(fmt.Sprintf("public_key=%x\nendpoint=%s\n", hub, c.Hub)) }
	away := func() error {
		return errors.Join(c.ip("route replace default via 10.64.0.1 dev lte0 metric 50"), again())
	}
	back := func() error {
		return errors.Join(c.ip("route del default via 10.64.0.1 dev lte0 metric 50"), again())
	}
	go c.unplugged(away)
	return c.follow(time.Second, away, back)
}

// plain is WireGuard as it comes, and its hub's public key.
func (c boxConfig) plain() (d *device.Device, hub []byte, err error) {
	t, err := tun.CreateTUN("rescuevpn", 1280)
	if err != nil {
		return nil, nil, err
	}
	d = device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	if hub, err = base64.StdEncoding.DecodeString(c.HubKey); err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(filepath.Join(c.Dir, "vpn.key"))
	if err != nil {
		return nil, nil, err
	}
	private, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, nil, err
	}
	err = d.IpcSet(fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=%s\nallowed_ip=10.99.0.0/24\npersistent_keepalive_interval=25\n",
		private[:], hub, c.Hub))
	if err == nil {
		err = c.ip("address add "+linktest.BranchInner+"/24 dev rescuevpn", "link set rescuevpn up")
	}
	if err == nil {
		err = d.Up()
	}
	return d, hub, err
}

func (c boxConfig) ip(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// follow asks the hub inside; after three questions without an answer it goes away, and after
// three answers to questions by the WAN, outside, it comes back.
func (c boxConfig) follow(every time.Duration, away, back func() error) error {
	inner, outer := fmt.Sprintf("%s:%d", linktest.HubInner, linktest.InnerEcho), fmt.Sprintf("192.0.2.1:%d", linktest.OuterEcho)
	missed, good, gone := 0, 0, false
	for {
		began := time.Now()
		var err error
		if gone {
			go answers(every, inner, "") // the hub hears where we are
			good = counted(answers(every, outer, "wan0"), good)
		} else {
			missed = counted(!answers(every, inner, ""), missed)
		}
		switch {
		case !gone && missed >= 3:
			gone, good, err = true, 0, away()
		case gone && time.Duration(good)*every >= failback:
			gone, missed, err = false, 0, back()
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Until(began.Add(every)))
	}
}

// counted is one more in a row, or none.
func counted(yes bool, n int) int {
	if yes {
		return n + 1
	}
	return 0
}

// answers asks an echo and waits.
func answers(wait time.Duration, address, dev string) bool {
	to := netip.MustParseAddrPort(address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.BindToDevice(fd, dev),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}))
	if err != nil {
		return false
	}
	if _, err := unix.Write(fd, []byte("are you there")); err != nil {
		return false
	}
	n, err := unix.Read(fd, make([]byte, 64))
	return err == nil && n > 0
}

// unplugged calls away when the WAN loses its carrier.
func (c boxConfig) unplugged(away func() error) {
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	for u := range updates {
		if u.Attrs().Name == "wan0" && u.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
			if err := away(); err != nil {
				_, _ = io.WriteString(os.Stderr, err.Error())
			}
		}
	}
}
