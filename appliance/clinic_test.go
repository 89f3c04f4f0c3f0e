package appliance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/boottest"
	"rescuebox/appliance/config"
	"rescuebox/images"
)

// inside tells the test that it runs in its own network namespace.
const inside = "RESCUEBOX_APPLIANCE_TEST_NETNS"

// TestMain moves the whole test into a network namespace of its own, where a
// box can run on a LAN full of faults that nobody outside hears.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		if os.Getenv(inside) != "" && os.Getenv(daemonFile) == "" { // a daemon is in its parent's
			if err := furnish(); err != nil {
				fmt.Fprintln(os.Stderr, "the namespace of the tests:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "no network namespace for the tests:", err)
		}
		os.Exit(1)
	}
}

// furnish gives the namespace a loopback, and a /sys that shows its interfaces.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("sysfs", "/sys", "sysfs", 0, ""))
}

// clinic is a branch with a fault, and the box that is to find it:
//
//	srv 192.168.77.1 (the box) ──┬── machines
//	                             └── hosts with real programs
type clinic struct {
	t      *testing.T
	lan    *boottest.LAN
	box    *box
	leases string // file of the site's own DHCP server

	// To be set before open; zero is what most clinics have.
	last     string // address of the range, which begins with .100
	lanMore  string // of [lan]
	state    string // directory
	machines string // of the file of the site, in place of srv01

	powered bool           // a machine was on
	api     *api.Client    // of the API's own checks
	card    *boottest.Card // of srv01, once it was plugged in
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	if os.Getenv(inside) == "" {
		skip(t, "needs root for network namespaces")
	}
	lan, err := boottest.NewLAN()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lan.Close)
	return plug(t, lan)
}

// plug connects the box with a LAN.
func plug(t *testing.T, lan *boottest.LAN) *clinic {
	t.Helper()
	remove, err := lan.Port("srv", "192.168.77.1/24")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return &clinic{t: t, lan: lan}
}

// open runs the box until the test ends. It returns when the parts have settled, whether they run or not.
func (c *clinic) open(mode, tail string) {
	c.t.Helper()
	dir := cmp.Or(c.state, c.t.TempDir())
	text := fmt.Sprintf("site = \"clinic\"\n[lan]\ninterface = \"srv\"\naddress = \"192.168.77.1/24\"\ndhcp = %q\n"+
		"range = [\"192.168.77.100\", %q]\n%s\n[rescue]\nssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Eq3w1V0G5m2Q8m0K4c7pI5l8R8dS5W3m6m2x9c1yT admin\"]\n"+
		"[state]\ndir = %q\n[admin]\nsocket = %q\ngroup = \"root\"\n"+
		"%s%s", mode, cmp.Or(c.last, "192.168.77.199"), c.lanMore, dir, filepath.Join(socketDir(c.t), "api.sock"),
		cmp.Or(c.machines, "[[machine]]\nname = \"srv01\"\nmac = [\"52:54:00:12:34:56\"]\n"), tail)
	cfg, err := config.Parse("clinic.toml", []byte(text))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.box, err = assemble(Options{Config: cfg, Log: zap.NewNop(), Notify: func(string) {}}); err != nil {
		c.t.Fatal(err)
	}
	c.box.scouting.wait = 300 * time.Millisecond
	if c.leases != "" {
		c.box.scouting.wait = 2 * time.Second // the site's server does not ping before it offers
	}
	c.stock()
	ctx, cancel := context.WithCancel(context.Background())
	c.box.sup.start(ctx, c.box.parts())
	c.t.Cleanup(func() {
		cancel()
		c.box.sup.wait()
		if err := c.box.db.Close(); err != nil {
			c.t.Error(err)
		}
	})
	c.box.sup.settle(ctx)
}

// socketDir is a directory with a short name: the path of a socket has 108 bytes, and those of a test's may be long.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stock fills the library with programs for simulated machines.
func (c *clinic) stock() {
	kernel := boottest.Program(boottest.Kernel, "amd64", 20_000)
	const isoAt, isoPlace = 32 << 10, 2 << 10
	iso := bytes.Repeat([]byte("\n"), 64<<10)
	c.add(images.Image{Name: "rescue", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Up: images.Agent,
		Cmdline: "token={{.Token}}", ISO: &images.ISO{File: "rescue.iso", ConfigAt: isoAt, ConfigSize: isoPlace}},
		map[string][]byte{"vmlinuz": kernel, "initrd.img": bytes.Repeat([]byte("i"), 50_000), "root.squashfs": bytes.Repeat([]byte("r"), 1000), "rescue.iso": iso})
	c.add(images.Image{Name: "ipxe", Kind: images.BootSet}, map[string][]byte{"undionly.kpxe": boottest.Program(boottest.IPXE1, "", 7_000),
		"snponly.efi": boottest.Program(boottest.IPXE1, "amd64", 7_000)})
	c.add(images.Image{Name: "shim", Kind: images.BootSet}, map[string][]byte{"shimx64.efi": boottest.Program(boottest.Shim, "amd64", 9_000),
		"grubx64.efi": boottest.Program(boottest.GRUB, "amd64", 9_000)})
}

func (c *clinic) add(i images.Image, files map[string][]byte) {
	c.t.Helper()
	content := map[string]io.Reader{}
	for name, b := range files {
		content[name] = bytes.NewReader(b)
	}
	if _, err := c.box.library.Add(i, content); err != nil {
		c.t.Fatal(err)
	}
}

// host is something else on the LAN.
func (c *clinic) host(address string) *boottest.Host {
	c.t.Helper()
	h, err := c.lan.Host(address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(h.Close)
	return h
}

// dnsmasq is the site's own DHCP server.
func (c *clinic) dnsmasq(address string, args ...string) *boottest.Host {
	c.t.Helper()
	need(c.t, "dnsmasq", "dnsmasq-base")
	need(c.t, "nsenter", "util-linux")
	h := c.host(address)
	c.leases = filepath.Join(c.t.TempDir(), "leases")
	said := spawn(c.t, append(h.Command("dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--no-ping", "--user=root",
		"--dhcp-leasefile="+c.leases), args...)...)
	eventually(c.t, "dnsmasq runs", func() bool { return strings.Contains(said(), "DHCP, ") })
	return h
}

// ask runs one of the doctor's checks on its own.
func (c *clinic) ask(name string) []admin.Finding {
	c.t.Helper()
	for _, check := range c.box.checks() {
		if check.Name == name {
			ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
			defer cancel()
			return check.Run(ctx)
		}
	}
	c.t.Fatalf("no check %q", name)
	return nil
}

// expect wants exactly these keys of a check, sooner or later.
func (c *clinic) expect(check string, keys ...string) {
	c.t.Helper()
	var found []admin.Finding
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		if found = c.ask(check); slices.Equal(keysOf(found), slices.Sorted(slices.Values(keys))) {
			for _, f := range found {
				if f.Key != "" {
					c.says(f.Key, f.Text, f.Hint)
				}
			}
			return
		}
	}
	c.t.Errorf("%s: keys %q, want %q: %+v", check, keysOf(found), keys, found)
}

func keysOf(list []admin.Finding) (keys []string) {
	for _, f := range list {
		if f.Key != "" && !slices.Contains(keys, f.Key) {
			keys = append(keys, f.Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// machine is srv01, whose firmware hurries and soon gives up.
func (c *clinic) machine(f boottest.Faults) *boottest.Machine {
	c.t.Helper()
	if c.card == nil {
		c.card = c.plug(srv01)
	}
	f.Repeats = 1
	return &boottest.Machine{Card: c.card, UUID: [16]byte{1, 2, 3}, Hurry: 3, Restless: true, Faults: f}
}

// plug connects a card with the LAN, until the test ends or it is taken away.
func (c *clinic) plug(mac boot.MAC) *boottest.Card {
	c.t.Helper()
	card, err := c.lan.Plug(mac[:])
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(card.Unplug)
	return card
}

// power powers a machine on.
func (c *clinic) power(m *boottest.Machine, personality string) boottest.Outcome {
	c.t.Helper()
	p, ok := boottest.PersonalityOf(personality)
	if !ok {
		c.t.Fatalf("no personality %q", personality)
	}
	if c.powered { // no machine restarts within the two seconds in which DHCP takes a packet for a repetition
		time.Sleep(2500 * time.Millisecond)
	}
	c.powered = true
	out := m.PowerOn(p)
	c.t.Logf("%s: %v, %v, in %s", personality, out.Stages, out.Err, out.Took.Round(time.Millisecond))
	return out
}

// boot powers a sound srv01 on.
func (c *clinic) boot(personality string) boottest.Outcome {
	c.t.Helper()
	return c.power(c.machine(boottest.Faults{}), personality)
}

// diagnose wants a cause for an order, as it would be told in three minutes,
// whose sentence and advice have these words.
func (c *clinic) diagnose(o boot.Order, key string, words ...string) {
	c.t.Helper()
	var cause boot.Cause
	// The box sees the last acknowledgement after the machine sent it, and gives a silent machine half a minute.
	for end := time.Now().Add(45 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var ok bool
		if cause, ok = c.box.table.Cause(c.t.Context(), o.ID, time.Now().Add(4*time.Minute)); ok && cause.Key == key && cause.Text != "" && cause.Hint != "" && lacks(cause.Text+"\n"+cause.Hint, words) == "" {
			return
		}
	}
	c.t.Errorf("cause %+v, want %s with the words %q", cause, key, words)
	events, _ := c.box.table.Timeline(o.ID)
	for _, e := range events {
		c.t.Logf("%s %s %s", e.Step, e.Key, e.Text)
	}
}

// says wants a sentence, what to do, and these words in them.
func (c *clinic) says(key, text, hint string, words ...string) {
	c.t.Helper()
	if text == "" || hint == "" {
		c.t.Errorf("%s: says %q, and to do %q", key, text, hint)
	}
	if w := lacks(text+"\n"+hint, words); w != "" {
		c.t.Errorf("%s does not say %q: %s\n%s", key, w, text, hint)
	}
}

// lacks is the first of the words that a text does not have, or "".
func lacks(text string, words []string) string {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return w
		}
	}
	return ""
}

// filter gives the box's packet filter a rule, as an admin would who means well: in its
// chain "in" or "out".
func (c *clinic) filter(chain, rule string) {
	c.t.Helper()
	need(c.t, "nft", "nftables")
	hook := map[string]string{"in": "input", "out": "output"}[chain]
	run(c.t, "nft", fmt.Sprintf("add table inet clinic; add chain inet clinic %s { type filter hook %s priority 0; }; add rule inet clinic %[1]s %[3]s", chain, hook, rule))
	c.t.Cleanup(func() { run(c.t, "nft", "flush", "ruleset") })
}

// run runs a command to its end.
func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := output(args...); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// output runs a command to its end, and gives what it says.
func output(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// spawn runs a command until the test ends, and gives what it says.
func spawn(t *testing.T, args ...string) (said func() string) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel ends the child with the thread that began it, and simulated
	// machines throw threads away: it gets one of its own.
	started, ended := make(chan error), make(chan bool)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	return func() string {
		text, _ := os.ReadFile(out.Name())
		return string(text)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}

// need skips a test whose tool is missing; CI must have it.
func need(t *testing.T, tool, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		skip(t, fmt.Sprintf("%s is missing: apt-get install %s", tool, debianPackage))
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
