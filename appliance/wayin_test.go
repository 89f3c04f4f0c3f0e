package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
	"rescuebox/appliance/modem/modemtest"
	"rescuebox/appliance/notify"
	"rescuebox/appliance/state"
)

const (
	anna    = "+79161234567"
	hubsKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	ways    = `
[[uplink]]
name = "wan"
interface = "nosuch1"
[[uplink]]
name = "lte"
modem = "lte"
`
	ourVPN = `
[vpn]
address = "10.99.0.2/24"
share_lan = true
[[vpn.hub]]
public_key = "` + hubsKey + `"
endpoint = ["192.0.2.1:51820"]
`
)

// wired is the box of a file, with more than what site has; nothing runs yet.
func wired(t *testing.T, more string) *box {
	t.Helper()
	dir := t.TempDir()
	usual := site(t, dir)
	cfg, err := config.Parse("test.toml", fmt.Appendf(nil, `
site = "test"
[lan]
interface = "nosuch0"
address = "127.0.0.1/8"
dhcp = "off"
[http]
port = %d
[tftp]
port = %d
[state]
dir = %q
[admin]
socket = %q
[[machine]]
name = "bare"
mac = ["52:54:00:12:34:57"]
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
%s`, usual.HTTP.Port, usual.TFTP.Port, dir, filepath.Join(dir, "api.sock"), more))
	if err != nil {
		t.Fatal(err)
	}
	b, err := assemble(Options{Config: cfg, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	return b
}

// Which parts a file makes of the way in.
func TestWayInParts(t *testing.T) {
	modemOf := func(more string) string { return "[[modem]]\nname = \"lte\"\n" + more }
	const port = "port = \"/dev/ttyUSB2\"\n"
	external := "[vpn]\nexternal = \"tailscale0\"\nunit = \"tailscaled.service\"\n"
	for _, c := range []struct{ name, more, parts string }{
		{"nothing", "", ""},
		{"a wire", "[[uplink]]\nname = \"wan\"\ninterface = \"eth0\"\n", "link alarms"},
		{"external VPN", external, "vpn alarms"},
		{"external VPN, watched uplinks", ways + modemOf(port) + external, "modem lte, vpn link text alarms"},
		{"text messages only", modemOf(port + `data = "none"`), "modem lte, text alarms"},
		{"PPP", ways + modemOf(port) + ourVPN, "modem lte, vpn link text alarms"},
		{"NCM", ways + modemOf(port+"data = \"ncm\"\nprofile = \"huawei\"\ninterface = \"wwan0\"\n") + ourVPN, "modem lte, vpn link text alarms"},
		{"a router of its own", ways + modemOf("data = \"netdev\"\ninterface = \"usb0\"\n") + ourVPN, "modem lte, vpn link text alarms"},
		{"ModemManager", ways + modemOf("data = \"modemmanager\"\n") + ourVPN, "modem lte, vpn link text alarms"},
		{"two modems", ways + modemOf(port) + "[[modem]]\nname = \"two\"\nport = \"/dev/ttyUSB5\"\n" + ourVPN, "modem lte, modem two, vpn link text alarms"},
	} {
		var names []string
		for _, p := range wired(t, c.more).in.parts() {
			name := p.name
			if strings.HasPrefix(name, "modem ") {
				name += ","
			}
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != c.parts {
			t.Errorf("%s: %q, want %q", c.name, got, c.parts)
		}
	}
}

// The file for sites with LTE, as the parts are told of it.
func TestFileOfSitesWithLTE(t *testing.T) {
	cfg, err := config.Load("../configs/lte.toml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.State.Dir = t.TempDir()
	b, err := assemble(Options{Config: cfg, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.db.Close()
	v := tunnelOf(cfg, "/secrets")
	if v.Kernel || v.KeyFile != "/secrets/vpn.key" || v.LANInterface != "eth1" || !slices.Equal(v.ShareLAN, []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}) {
		t.Errorf("tunnel: %+v", v)
	}
	type uplink struct {
		Name, Device string
		Metered      bool
		Table        int
	}
	var got []uplink
	for _, u := range v.Uplinks {
		got = append(got, uplink{u.Name, u.Device, u.Metered, u.Table})
	}
	if diff := cmp.Diff([]uplink{{"wan", "eth0", false, link.Table(0)}, {"lte", "", true, link.Table(1)}}, got); diff != "" {
		t.Error(diff)
	}
	l := b.linkOf(b.in)
	if l.Mode != link.Standby || l.InnerDevice != "rescuevpn" || l.Bearers["lte"] != link.Bearer(b.in.modems[0]) || l.Bearers["wan"] != nil {
		t.Errorf("link: %+v", l)
	}
	m := b.in.modems[0]
	if m.Data != "ppp" || m.APN != "internet" || m.Quota != 1e9 || m.PIN != nil || m.Recovery.Reboot != nil || m.Recovery.Power != nil {
		t.Errorf("modem: %+v", m.Config)
	}
	if !floating(cfg) {
		t.Error("the API listens at the VPN's address, and waits for nothing")
	}
	if got := b.outbox.Targets; len(got) != 1 || !slices.Equal(got[0].Sender.Addresses(), []string{anna}) {
		t.Errorf("who is told: %+v", got)
	}
}

// What a file does not name is not there, for whoever asks for it: with a reason, and without a panic.
func TestPartsThatAreNotThere(t *testing.T) {
	b := wired(t, "")
	w, o := b.in, texting{b}
	if l := w.Link(); l.VPN != nil || len(l.Uplinks) != 0 || l.Active != "" {
		t.Errorf("%+v", l)
	}
	w.bearer("lte", modem.Link{Device: "ppp0"})
	w.bearer("", modem.Link{})
	b.linkEvent(link.Event{At: time.Now(), Kind: link.Hub, Reason: "the hub is silent on every uplink"})
	b.modemEvent(modem.Event{Time: time.Now(), Modem: "lte", Kind: "state", Text: "registered"})
	if b.floatsOrPanics(); len(w.Modems()) != 0 {
		t.Error("modems")
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"change":   w.Change(api.LinkAction{Action: "fail", Uplink: "wan"}, 0),
		"drill":    second(w.Drill(ctx, "wan", time.Minute)),
		"ask":      second(b.askByText(ctx, anna, "on")),
		"tell":     w.tell(ctx, anna, "hello", true, func() {}),
		"send":     second(w.send(ctx, anna, "hello", time.Hour)),
		"reset":    second(o.ResetModem(ctx)),
		"link":     second(o.Link(ctx, "lte")),
		"vpn":      second(o.VPN(ctx)),
		"boot":     second(o.Boot(ctx, "nosuch", "rescue")),
		"no image": second(o.Boot(ctx, "srv01", "nosuch")),
		"power":    second(o.Power(ctx, "nosuch", "on")),
		"bare":     second(o.Power(ctx, "bare", "cycle")),
		"state":    second(o.Power(ctx, "bare", "status")),
		"ticket":   second(o.Ticket(ctx, "nosuch")),
	} {
		if err == nil || strings.Contains(err.Error(), "nil") {
			t.Errorf("%s: %v, want a reason", name, err)
		}
	}
	if s := o.Status(ctx); strings.Contains(s, "VPN") {
		t.Errorf("status: %q", s)
	}
	// With a tunnel and uplinks that have no device.
	b = wired(t, ways+"[[modem]]\nname = \"lte\"\nport = \"/dev/nosuch\"\n"+ourVPN)
	if s := (texting{b}).Status(ctx); !strings.HasPrefix(s, "VPN down, wan down") {
		t.Errorf("status: %q", s)
	}
	if _, err := (texting{b}).Link(ctx, "nosuch"); err == nil {
		t.Error("an uplink that is not there is used")
	}
}

func (b *box) floatsOrPanics() bool { return b.adminServer().Links != nil }

func second[T any](_ T, err error) error { return err }

// person sends text messages to a box, as a phone does, and reads what comes back.
type person struct {
	*testing.T
	fake   *modemtest.Modem
	secret string
	next   uint64
	read   int
}

func (p *person) code() string {
	p.Helper()
	c, err := hotp.GenerateCodeCustom(p.secret, p.next, hotp.ValidateOpts{Digits: otp.DigitsEight, Algorithm: otp.AlgorithmSHA256})
	if err != nil {
		p.Fatal(err)
	}
	p.next++
	return c
}

// says sends a command with its code, and waits for an answer with the words.
func (p *person) says(command string, words ...string) string {
	p.Helper()
	if err := p.fake.Deliver(anna, command+" "+p.code()); err != nil {
		p.Fatal(err)
	}
	answer := ""
	p.fake.Wait(p.T, "answer to "+command, func() bool {
		sent := p.fake.Sent()
		if len(sent) <= p.read {
			return false
		}
		answer = sent[p.read].Text
		return true
	})
	p.read++
	for _, word := range words {
		if !strings.Contains(answer, word) {
			p.Errorf("%s: %q does not say %q", command, answer, word)
		}
	}
	return answer
}

// Every command of a text message, over the real desk and a modem, at the real box.
func TestCommandsByText(t *testing.T) {
	fake := modemtest.Start(t)
	done := filepath.Join(t.TempDir(), "done")
	switched := func(what string) string { return fmt.Sprintf(`["/bin/sh", "-c", "echo %s >>%s"]`, what, done) }
	b := wired(t, `
  [machine.power]
  kind = "command"
  on = `+switched("on")+`
  off = `+switched("off")+`
  cycle = `+switched("cycle")+ways+ourVPN+`
[[modem]]
name = "lte"
port = "`+fake.Path+`"
data = "netdev"
interface = "nosuch2"
[[text.sender]]
number = "`+anna+`"
`)
	addRescue(t, filepath.Join(b.Config.State.Dir, "images"))
	uri, err := b.in.desk.Enroll(anna)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{T: t, fake: fake, secret: u.Query().Get("secret")}
	fmt.Sscan(u.Query().Get("counter"), &p.next)
	runParts(t, b, "orders", "power", "modem lte", "text")

	p.says("status", "VPN down", "wan down", "lte", "Testnet")
	p.says("help", "boot")
	p.says("boot nosuch rescue", "no machine is called nosuch")
	p.says("boot srv01 nosuch", "nosuch")
	p.says("power nosuch on", "nosuch")
	p.says("ticket srv01", "no ticket of srv01")
	p.says("link nosuch", "no uplink is called nosuch")
	p.says("link lte", "lte is used as soon as it answers")
	p.says("link wan", "wan is used as soon as it answers")
	p.says("vpn up", "VPN is being brought up")

	p.says("boot bare rescue", "as soon as somebody switches it on")
	ask := p.says("boot srv01 rescue", "pulls its plug", "yes ")
	_, yes, _ := strings.Cut(ask, "yes ")
	p.says("yes "+strings.Fields(yes)[0], "srv01 is being booted into rescue")
	waitFor(t, "the press", func() bool { text, _ := os.ReadFile(done); return bytes.Contains(text, []byte("cycle")) })
	p.says("status", "srv01 rescue")
	ask = p.says("power srv01 off", "yes ")
	_, yes, _ = strings.Cut(ask, "yes ")
	p.says("yes "+strings.Fields(yes)[0], "srv01: power off done")
	if text, _ := os.ReadFile(done); !strings.HasSuffix(string(text), "off\n") {
		t.Errorf("the switch was told %q", text)
	}
	order, _ := b.table.OpenOrder("srv01")
	if order.By != byText {
		t.Errorf("ordered by %q", order.By)
	}
	b.tickets.LAN = netip.MustParsePrefix("192.168.77.1/24")
	addr := netip.MustParseAddr("192.168.77.101")
	const inv32 = `<E><A ID="118-497-589"/><C><T ID="1" SID="1"><L P="49161" N="192.168.77.101"/></T></C></E>`
	if _, err := b.tickets.DaRT("srv01", order.ID, true, addr, []byte(inv32)); err != nil {
		t.Fatal(err)
	}
	p.says("ticket srv01", "118-497-589")

	if err := fake.Deliver(anna, "reset modem "+p.code()); err != nil { // its answer comes when there is a modem again
		t.Fatal(err)
	}
	fake.Wait(t, "restart", func() bool { return fake.Count("+CFUN=1,1") == 1 })

	var no *boot.Refusal
	if err := b.in.Forget("+79160000777"); !errors.As(err, &no) || no.Hint == "" {
		t.Errorf("a number without a secret is forgotten: %v", err)
	}
	if err := b.in.Forget(anna); err != nil || b.in.Texting().Senders[0].Enrolled {
		t.Errorf("a phone that was lost commands the box: %v, %+v", err, b.in.Texting())
	}
}

// runParts runs some parts of a box until the test ends.
func runParts(t *testing.T, b *box, names ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, p := range b.parts() {
		if !slices.Contains(names, p.name) {
			continue
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == p.name })
		wg.Go(func() {
			if err := p.run(ctx, func() {}); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	if len(names) > 0 {
		t.Fatalf("there are no parts %q", names)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// What happens to uplinks and modems is in the timeline; people are told of what they must know, and the
// VPN's hub is not missed before it was heard.
func TestEventsOfTheWayIn(t *testing.T) {
	b := wired(t, ways+"[[modem]]\nname = \"lte\"\nport = \"/dev/nosuch\"\n"+ourVPN+"[[notify.text]]\nto = [\""+anna+"\"]\n")
	runParts(t, b, "alarms")
	now := time.Now()
	waitFor(t, "alarms", func() bool { b.in.alarms.mu.Lock(); defer b.in.alarms.mu.Unlock(); return true })
	b.linkEvent(link.Event{At: now, Kind: link.Hub, Reason: "the hub is silent on every uplink"})
	b.linkEvent(link.Event{At: now, Kind: link.Turned, Uplink: "wan", Reason: "wan is dead"})
	b.linkEvent(link.Event{At: now, Kind: link.Switched, From: "wan", Uplink: "lte", Reason: "wan is dead, lte is used"})
	b.modemEvent(modem.Event{Time: now, Modem: "lte", Kind: "recovery", Text: "modem lte: restarts the modem"})
	b.modemEvent(modem.Event{Time: now, Modem: "lte", Kind: "quota", Text: "half of the volume of lte is used"})
	told := func() (list []string) {
		for _, e := range b.outbox.List() {
			if e.Kind != notify.Alarm {
				t.Errorf("%+v is no alarm", e)
			}
			list = append(list, e.Text)
		}
		slices.Sort(list)
		return list
	}
	waitFor(t, "two alarms", func() bool { return len(told()) >= 2 })
	if got := told(); !slices.Equal(got, []string{"half of the volume of lte is used", "wan is dead, lte is used"}) {
		t.Errorf("told %q", got)
	}
	var events []string
	list, err := b.table.EventsAfter(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		events = append(events, string(e.Step)+" "+e.Key)
	}
	if got := strings.Join(events, ", "); got != "link hub, link health, link switch, modem recovery, modem quota" {
		t.Errorf("timeline: %s", got)
	}
	stored, err := state.NewTable[subject](b.db, "alarms", state.Durable).All()
	if err != nil || len(stored) == 0 {
		t.Errorf("what people know is not stored: %v, %v", stored, err)
	}
}
