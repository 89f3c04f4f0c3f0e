package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
	"rescuebox/appliance/notify"
	"rescuebox/appliance/state"
	"rescuebox/appliance/text"
	"rescuebox/appliance/vpn"
)

// wayIn is how admins reach the box whatever died at the branch: the uplinks, the VPN over
// them, the modems and their text messages. What the file of the site does not name is nil.
type wayIn struct {
	tunnel *vpn.Tunnel
	watch  *link.Watch
	modems []*modem.Modem
	desk   *text.Desk
	alarms *alarms
	clock  networkClock
	// modemOf is whose data an uplink is, by its name.
	modemOf map[string]string
}

// newWayIn makes the parts; nothing is touched yet.
func newWayIn(b *box) (*wayIn, error) {
	c := b.Config
	w := &wayIn{modemOf: map[string]string{}, alarms: b.newAlarms()}
	for _, u := range c.Uplinks {
		w.modemOf[u.Name] = u.Modem
	}
	secrets := filepath.Join(c.State.Dir, "secrets")
	if c.VPN != nil || len(c.Modems) > 0 {
		if err := os.MkdirAll(secrets, 0o700); err != nil {
			return nil, fmt.Errorf("directory of the box's own secrets: %w", err)
		}
	}
	for _, m := range c.Modems {
		w.modems = append(w.modems, b.newModem(m))
	}
	if c.VPN != nil {
		t, err := vpn.New(tunnelOf(c, secrets), b.logOf("vpn"))
		if err != nil {
			return nil, err
		}
		w.tunnel = t
	}
	if len(c.Uplinks) > 0 {
		watch, err := link.New(b.linkOf(w))
		if err != nil {
			return nil, err
		}
		w.watch = watch
	}
	if len(c.Modems) > 0 {
		w.desk = &text.Desk{Site: c.Site, Senders: sendersOf(c.Text), Devices: socketsOf(c), Secrets: secrets,
			Store: state.NewTable[text.Text](b.db, "texts", state.Durable), Acts: texting{b}, Plug: b.pullsPlug, Out: w.send, Budget: c.Text.Budget,
			Clock: w.clock.now, Log: b.logOf("text")}
	}
	w.join(b)
	return w, nil
}

// parts are in the order in which they are needed.
func (w *wayIn) parts() (list []part) {
	for _, m := range w.modems {
		list = append(list, part{"modem " + m.Name, m.Run})
	}
	if w.tunnel != nil {
		list = append(list, part{"vpn", w.tunnel.Run})
	}
	if w.watch != nil {
		list = append(list, part{"link", w.watch.Run})
	}
	if w.desk != nil {
		list = append(list, part{"text", w.desk.Run})
	}
	if len(list) > 0 {
		list = append(list, part{"alarms", w.alarms.Run})
	}
	return list
}

// join lets the parts hear of each other.
func (w *wayIn) join(b *box) {
	for _, m := range w.modems {
		uplink := uplinkOf(b.Config, m.Name)
		m.Changed = func(l modem.Link) { w.bearer(uplink, l) }
		m.Event = func(e modem.Event) {
			b.modemEvent(e)
			if m.Status().State == modem.Registered {
				w.desk.Retry()
			}
		}
		m.Clock, m.Now = w.clock.hear, w.clock.now
		m.Deaf = func() bool { return w.deaf(uplink) }
		m.Received = func(t modem.Text) {
			w.desk.Received(text.Message{From: t.From, Numeric: t.Numeric && t.Damaged == "", Time: t.Time, Text: t.Text, Parts: t.Parts,
				Class0: t.Class0, Binary: t.Binary || t.Damaged != ""})
		}
	}
}

// bearer tells of a change of a modem's data.
func (w *wayIn) bearer(uplink string, l modem.Link) {
	if uplink == "" {
		return
	}
	if w.tunnel != nil {
		w.tunnel.SetDNS(uplink, l.DNS)
		w.tunnel.SetDevice(uplink, l.Device)
	}
	if w.watch != nil {
		w.watch.Bearer(uplink, link.BearerState{Device: l.Device, Addresses: l.Addresses, Gateway: l.Gateway, Gateway6: l.Gateway6, DNS: l.DNS, MTU: l.MTU, Err: l.Err})
	}
}

// deaf says that an uplink is there and nothing answers by it.
func (w *wayIn) deaf(uplink string) bool {
	if w.watch == nil || uplink == "" {
		return false
	}
	list := w.watch.Status().Uplinks
	return slices.ContainsFunc(list, func(u link.UplinkStatus) bool { return u.Name == uplink && u.Health == link.Dead })
}

// uplinkOf is the uplink that a modem's data is, or "".
func uplinkOf(c *config.Config, modem string) string {
	for _, u := range c.Uplinks {
		if u.Modem == modem {
			return u.Name
		}
	}
	return ""
}

// tunnelOf translates the VPN of the file.
func tunnelOf(c *config.Config, secrets string) vpn.Config {
	v := c.VPN
	if v.Kind == "external" {
		return vpn.Config{External: v.Interface, Unit: v.Unit}
	}
	to := vpn.Config{Interface: v.Interface, Address: v.Address, MTU: v.MTU, ListenPort: v.ListenPort, Kernel: v.Kind == "kernel",
		KeyFile: filepath.Join(secrets, "vpn.key"), CacheFile: filepath.Join(c.State.Dir, "hubs.json"), ClockFile: filepath.Join(c.State.Dir, "clock")}
	for _, h := range v.Hubs {
		to.Hubs = append(to.Hubs, vpn.Hub(h))
	}
	for i, u := range c.Uplinks {
		to.Uplinks = append(to.Uplinks, vpn.Uplink{Name: u.Name, Device: u.Interface, Metered: u.Metered, Table: link.Table(i)})
	}
	if v.ShareLAN {
		to.ShareLAN, to.LANInterface = []netip.Prefix{c.LAN.Address.Masked()}, c.LAN.Interface
	}
	return to
}

// linkOf translates the uplinks of the file.
func (b *box) linkOf(w *wayIn) link.Config {
	c := b.Config
	to := link.Config{Mode: link.Mode(c.Link.Mode), Failback: c.Link.Failback, MaxSwitches: c.Link.MaxSwitches,
		Store: state.NewTable[link.Kept](b.db, "uplinks", state.Durable), Bearers: map[string]link.Bearer{},
		Changed: b.linkEvent, Metrics: replacing{b.metrics}, Log: b.logOf("link")}
	if v := c.VPN; v != nil && v.Kind != "external" {
		to.Tunnel, to.InnerDevice, to.Ports = w.tunnel, v.Interface, w.tunnel.Ports
		to.Inner, to.Hubs = w.tunnel.Inner, w.tunnel.Outer
	}
	for _, u := range c.Uplinks {
		up := link.Uplink{Name: u.Name, Device: u.Interface, Metered: u.Metered, Gateway: u.Gateway}
		if u.Metered {
			up.Check = u.Interval
		} else {
			up.Interval = u.Interval
		}
		for _, p := range u.Probes {
			up.Probes = append(up.Probes, link.Probe{Kind: link.Kind(p.Kind), Host: p.Host, Port: p.Port, Path: p.Path})
		}
		to.Uplinks = append(to.Uplinks, up)
		for _, m := range w.modems {
			if m.Name == u.Modem {
				to.Bearers[u.Name] = m
			}
		}
	}
	return to
}

// newModem translates a modem of the file.
func (b *box) newModem(m config.Modem) *modem.Modem {
	c := modem.Config{Name: m.Name, Device: m.Port, Roaming: m.Roaming, Data: m.Data, Profile: m.Profile, APN: m.APN, User: m.User,
		Auth: m.Auth, IPType: m.IP, NetDevice: m.Interface, PPPDevice: m.PPPPort, Quota: m.Quota, BillingDay: m.BillingDay}
	if m.Profile == "generic" {
		c.Profile = "" // it is asked who it is
	}
	if m.PINFile != "" {
		c.PIN = secret(m.PINFile)
	}
	if m.PasswordFile != "" {
		c.Password = secret(m.PasswordFile)
	}
	if m.Power != nil {
		c.Recovery.Power = [][]string{m.Power}
	}
	if m.Reboot {
		c.Recovery.Reboot = reboot
	}
	to := modem.New(c, b.logOf("modem"))
	to.Memory = state.NewTable[modem.Record](b.db, "modems", state.Durable)
	to.Volumes = state.NewTable[modem.Volume](b.db, "volumes", state.Durable)
	return to
}

// reboot asks systemd, as a polkit rule of the package lets the daemon's user.
func reboot(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "systemctl", "reboot").CombinedOutput()
	if err != nil {
		return fmt.Errorf("reboot the box: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sendersOf translates who may order by text message.
func sendersOf(t config.Text) (list []text.Sender) {
	for _, s := range t.Senders {
		list = append(list, text.Sender{Number: s.Number, May: s.May})
	}
	return list
}

// socketsOf are the numbers of the GSM sockets.
func socketsOf(c *config.Config) (list []string) {
	for _, m := range c.Machines {
		if m.Power != nil && m.Power.Number != "" && !slices.Contains(list, m.Power.Number) {
			list = append(list, m.Power.Number)
		}
	}
	return list
}

// pullsPlug reports whether an order to boot a machine pulls its plug.
func (b *box) pullsPlug(machine string) bool {
	p := b.powers[machine]
	return p != nil && p.PullsPlug()
}

// send sends a text message by the first modem that is in a network.
func (w *wayIn) send(ctx context.Context, number, body string, valid time.Duration) (text.Result, error) {
	err := errNoModem
	for _, m := range w.modems {
		if s := m.Status(); s.State != modem.Registered && s.State != modem.Lent && s.State != modem.NoPort {
			err = fmt.Errorf("modem %s: %s", m.Name, strings.TrimSpace(string(s.State)+" "+s.Why))
			continue
		}
		var r modem.SendResult
		if r, err = m.Send(ctx, number, body, valid); r != modem.TextFailed {
			return text.Result(r), err
		}
	}
	return text.ResultFailed, err
}

var errNoModem = errors.New("there is no modem to send text messages with")

// askByText asks a switch by text message.
func (b *box) askByText(ctx context.Context, number, body string) (<-chan string, error) {
	if b.in == nil || b.in.desk == nil {
		return nil, errNoModem
	}
	return b.in.desk.Ask(ctx, number, body)
}

// tell sends news by text message, in the words of package notify.
func (w *wayIn) tell(ctx context.Context, number, body string, urgent bool, mark func()) error {
	if w.desk == nil {
		return errNoModem
	}
	kind := text.Notice
	if urgent {
		kind = text.Alarm
	}
	err := w.desk.Say(ctx, number, body, kind, mark)
	var spent *text.Spent
	switch {
	case errors.As(err, &spent):
		return &notify.Later{After: spent.After, Err: err}
	case errors.Is(err, text.ErrUnknown):
		return &notify.Unsure{Err: err}
	}
	return err
}

// linkEvent puts what happened to the uplinks into the log of events, and tells people.
func (b *box) linkEvent(e link.Event) {
	b.table.Record(boot.Event{Time: e.At, Step: boot.StepLink, Text: e.Reason, Key: string(e.Kind)})
	b.in.alarms.link(e)
}

// modemEvent is the same of a modem. Of its own recovery it tells nobody.
func (b *box) modemEvent(e modem.Event) {
	b.table.Record(boot.Event{Time: e.Time, Step: boot.StepModem, Text: e.Text, Key: e.Kind})
	if slices.Contains([]string{"quota", "sim", "roaming"}, e.Kind) {
		b.in.alarms.modem(e)
	}
}

// newAlarms tells through the outbox.
func (b *box) newAlarms() *alarms {
	a := &alarms{store: state.NewTable[subject](b.db, "alarms", state.Durable), tell: b.outbox.Put, site: b.Config.Site,
		subjects: map[string]*subject{}, wake: make(chan struct{}, 1), log: b.logOf("alarms"), handshake: b.handshake}
	if b.Config.VPN != nil {
		for _, h := range b.Config.VPN.Hubs {
			a.hub += h.PublicKey
		}
	}
	return a
}

// handshake is the VPN's last one.
func (b *box) handshake() time.Time {
	if b.in == nil || b.in.tunnel == nil {
		return time.Time{}
	}
	return b.in.tunnel.Handshake()
}

// networkClock is whether the box knows the time. A small box has no clock of its own
// that lives without power: until somebody told it the time, its own is not relied upon.
type networkClock struct {
	mu    sync.Mutex
	heard time.Time // by the network, at
	at    time.Time

	asked         time.Time // whether NTP has set it
	synced, known bool
}

// clockAgain is how often the system is asked: that may be a call to another service.
const clockAgain = time.Minute

// hear takes the network's time.
func (c *networkClock) hear(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard, c.at = t, time.Now()
}

// now is the time, and whether it can be relied upon: NTP has set the system's clock, or the mobile
// network, whose time anybody with a transmitter can forge, stands in for it.
func (c *networkClock) now() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.asked.IsZero() || now.Sub(c.asked).Abs() > clockAgain {
		c.synced, c.known = clockSynced()
		c.asked = now
	}
	if !c.synced && !c.at.IsZero() {
		return c.heard.Add(now.Sub(c.at)), true
	}
	return now, c.synced || !c.known
}
