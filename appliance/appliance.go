// Package appliance makes every part of the box from the configuration, wires
// them together, and runs them. It is the only place where parts know of each other.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/dhcp"
	"rescuebox/appliance/httpboot"
	"rescuebox/appliance/notify"
	"rescuebox/appliance/state"
	"rescuebox/appliance/tftp"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// Options is what Run needs from the program around it.
type Options struct {
	Config  *config.Config
	Version string
	Log     *zap.Logger
	Notify  func(state string) // tells systemd, in the words of sd_notify(3); may be nil
}

// Bounds of what the daemon keeps and takes.
const (
	keptEvents  = 20000
	keptAudit   = 20000
	bootSet     = "ipxe"
	stopTimeout = 1500 * time.Millisecond // for all parts to end; the state is closed after that
	// cyclePatience is how long a power cycle is waited for when the box stops: off and on take some
	// controllers a minute each.
	cyclePatience = 150 * time.Second
	// heapGrowth is in percent of the live heap, less than half of Go's default: it is a
	// few MB, and a small box has other things to do with its memory.
	heapGrowth = 40
)

// box is the wired appliance.
type box struct {
	Options
	started time.Time
	metrics *prometheus.Registry
	db      *state.DB
	library *images.Library
	table   *boot.Table
	tickets *ticket.Desk
	outbox  *notify.Outbox
	dhcp    *dhcp.Server
	powers  map[string]*machinePower // what switches the machines, by their names
	taken   *taken                   // whose power was taken by it
	press   *powering
	serial  consoles
	in      *wayIn
	sup     *supervisor

	scouting scouting // what other DHCP servers said last
	carrier  int      // carrier changes of the LAN's interface at the start
}

// Run runs the appliance until ctx is done. An error means that it could not
// start at all; a part that fails is restarted while the others go on.
func Run(ctx context.Context, o Options) error {
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	debug.SetGCPercent(heapGrowth)
	for _, w := range o.Config.Warnings {
		o.Log.Warn("the configuration works, but look at this", zap.NamedError("err", w))
	}
	b, err := assemble(o)
	if err != nil {
		return err
	}
	defer func() {
		if err := b.db.Close(); err != nil {
			o.Log.Error("state not closed cleanly", zap.NamedError("err", err))
		}
	}()
	return b.run(ctx)
}

// assemble opens the state and makes the parts; nothing listens yet.
func assemble(o Options) (*box, error) {
	dir := o.Config.State.Dir
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("state directory: %w: make it, owned by the daemon's user, or set [state] dir", err)
	}
	db, err := state.Open(filepath.Join(dir, "rescuebox.db"))
	if err != nil {
		return nil, err
	}
	if w := db.Warning(); w != nil {
		o.Log.Error("state was damaged", zap.NamedError("err", w))
	}
	b := &box{Options: o, started: time.Now(), metrics: prometheus.NewRegistry(), db: db,
		library: &images.Library{Dir: filepath.Join(dir, "images")}, carrier: carrierChanges(o.Config.LAN.Interface)}
	b.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	b.sup = newSupervisor(o.Log, replacing{b.metrics})
	b.table = b.bootTable()
	b.outbox = &notify.Outbox{Store: state.NewTable[notify.Entry](db, "outbox", state.Durable), Targets: b.targetsOf(o.Config.Notify), Log: b.logOf("notify")}
	b.tickets = &ticket.Desk{LAN: o.Config.LAN.Address, Store: state.NewTable[ticket.Ticket](db, "tickets", state.Durable),
		Reachable: ticket.Routed, Log: b.logOf("ticket"), Metrics: replacing{b.metrics}, Announce: b.announce}
	b.dhcp = b.dhcpServer()
	b.taken = newTaken(state.NewTable[takenPower](db, "powers", state.Durable), b.logOf("power"))
	if b.powers, err = powersOf(o.Config, b.bmcMemory(), b.taken, b.askByText); err != nil {
		return nil, err
	}
	b.press = newPowering(b)
	b.serial = newConsoles(b)
	if b.in, err = newWayIn(b); err != nil {
		return nil, err
	}
	return b, nil
}

// run starts the parts, tells systemd when they have settled, and waits for their end.
func (b *box) run(ctx context.Context) error {
	b.importLoaders() // before anybody is told that we are ready: an order needs them
	b.sup.start(ctx, b.parts())
	if b.sup.settle(ctx) {
		b.Log.Info("rescuebox is ready", zap.String("site", b.Config.Site), zap.String("version", b.Version),
			zap.Duration("after", time.Since(b.started)))
		b.Notify("READY=1\nSTATUS=" + b.summary())
	}
	b.watchdog(ctx)
	b.Notify("STOPPING=1")
	return b.stop()
}

// stop waits for all parts to end. That takes no time, but where a machine's power is taken at the moment:
// a box that stopped there would leave it off. What even then is not done is done at the next start.
func (b *box) stop() error {
	ended := make(chan struct{})
	go func() { b.sup.wait(); close(ended) }()
	told, quiet := time.Time{}, true
	for begun := time.Now(); time.Since(begun) < cyclePatience; {
		over := endsWithin(stopTimeout, ended)
		busy := b.taken.underWay()
		switch {
		case len(busy) == 0 && over:
			return nil
		case len(busy) == 0 && quiet:
			return fmt.Errorf("parts did not end within %s: %s", time.Since(begun).Round(time.Second/10), b.summary())
		case time.Since(told) >= stopTimeout:
			told = time.Now()
			b.Notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\nSTATUS=stops when %s has its power back", (4 * stopTimeout).Microseconds(), strings.Join(busy, ", ")))
		}
		quiet = len(busy) == 0 // after a cycle the parts have their time once more
		if over {
			time.Sleep(stopTimeout / 10)
		}
	}
	return fmt.Errorf("power was not back within %s: the next start looks after %s", cyclePatience, strings.Join(b.taken.underWay(), ", "))
}

// endsWithin waits for an end in small steps. While the whole machine stands still, as a virtual one does whose host
// is busy, one of them passes: nothing can end then.
func endsWithin(d time.Duration, ended <-chan struct{}) bool {
	const steps = 15
	for range steps {
		select {
		case <-ended:
			return true
		case <-time.After(d / steps):
		}
	}
	return false
}

// parts are in the order in which a boot meets them.
func (b *box) parts() []part {
	c := b.Config
	lan := c.LAN.Address.Addr()
	metrics := replacing{b.metrics}
	tftpd := &tftp.Server{Addr: netip.AddrPortFrom(lan, uint16(c.TFTP.Port)), BlockSize: c.TFTP.BlockSize,
		Tree: b.table, Tickets: agents{b}, Log: b.logOf("tftp"), Metrics: metrics}
	httpd := &httpboot.Server{Site: c.Site, Addr: netip.AddrPortFrom(lan, uint16(c.HTTP.Port)), RateLimit: c.HTTP.RateLimit,
		Tree: b.table, Agents: agents{b}, Tickets: agents{b}, Log: b.logOf("http"), Metrics: metrics}
	parts := []part{
		{"orders", b.table.Run},
		{"dhcp", b.dhcp.Run},
		{"tftp", tftpd.Run},
		{"http", httpd.Run},
		{"power", b.press.Run},
		{"consoles", b.serial.run(b.table)},
		{"notices", notices{b}.Run},
		{"notify", b.outbox.Run},
		{"admin", b.adminServer().Run},
	}
	parts = append(parts, b.in.parts()...)
	if c.Ticket.DropDir != "" {
		drop := &ticket.Drop{Dir: c.Ticket.DropDir, Desk: b.tickets, MachineOf: b.machineAt, Named: b.table.Named, Log: b.logOf("drop")}
		parts = append(parts, part{"drop", drop.Run})
	}
	return parts
}

func (b *box) logOf(task string) *zap.Logger { return b.Log.With(zap.String("task", task)) }

func (b *box) bootTable() *boot.Table {
	c := b.Config
	return boot.New(boot.Config{
		Machines: machinesOf(c), Unknown: c.Boot.Unknown, TTL: c.Boot.TTL, Server: serverURL(c),
		Chain: chainOf(c.Boot.Chain), BootSet: c.Boot.BootSet,
		Images:    b.library,
		Orders:    state.NewTable[boot.Order](b.db, "orders", state.Durable),
		Events:    state.NewLog[boot.Event](b.db, "events", state.Relaxed, keptEvents),
		Adopted:   state.NewTable[boot.Machine](b.db, "machines", state.Durable),
		Firmware:  state.NewTable[boot.FirmwareState](b.db, "firmware", state.Relaxed),
		MACOf:     func(a netip.Addr) (boot.MAC, bool) { return b.dhcp.MACOf(a) },
		LAN:       b.lan,
		AgentFor:  windowsAgent,
		BlockSize: func(mac boot.MAC) int { return b.dhcp.BlockSize(mac) },
		Fetched:   func(mac boot.MAC, whole bool) { b.dhcp.Fetched(mac, whole) },
		Log:       b.logOf("boot"), Metrics: replacing{b.metrics},
	})
}

func (b *box) dhcpServer() *dhcp.Server {
	c := b.Config
	s := &dhcp.Server{Interface: c.LAN.Interface, Address: c.LAN.Address, Mode: dhcp.Mode(c.LAN.DHCP),
		Range: dhcp.Range(c.LAN.Range), Router: c.LAN.Router, DNS: c.LAN.DNS, Domain: c.LAN.Domain,
		Lease: c.LAN.Lease, KnownShare: c.LAN.KnownShare, HTTPPort: c.HTTP.Port,
		Machines: b.table.Machines, Boot: b.table,
		// Committed before the ACK leaves, on the disk within a second (DESIGN
		// section 4): a power cut costs at most a lease that its client renews.
		Store:   state.NewTable[dhcp.Lease](b.db, "leases", state.Relaxed),
		Learned: state.NewTable[dhcp.Learned](b.db, "dialects", state.Relaxed),
		Log:     b.logOf("dhcp"), Metrics: replacing{b.metrics}}
	for _, r := range c.LAN.Relays {
		s.Relays = append(s.Relays, dhcp.Relay{Network: r.Network, Range: dhcp.Range(r.Range), Router: r.Router})
	}
	return s
}

func (b *box) adminServer() *admin.Server {
	c := b.Config
	s := newSwitches(c, b.powers)
	to := &admin.Server{Socket: c.Admin.Socket, Group: c.Admin.Group, Listen: c.Admin.Listen, Floating: floating(c), StateDir: c.State.Dir,
		Version: b.Version, Boot: b.table, Images: b.library, Tickets: b.tickets,
		Tokens: state.NewTable[admin.Token](b.db, "tokens", state.Durable),
		Audit:  state.NewLog[admin.AuditEntry](b.db, "audit", state.Durable, keptAudit),
		Relays: newRelays(c), Notifier: notifier{b}, Consoles: b.serial,
		Powers: s, BMCs: s, Press: b.pressFor,
		Status: b.status, Leases: b.leases, Checks: b.checks(), Gather: b.metrics,
		Log: b.logOf("admin"), Metrics: replacing{b.metrics}}
	if b.in.watch != nil || b.in.tunnel != nil {
		to.Links = b.in
	}
	if len(b.in.modems) > 0 {
		to.Modems = b.in
	}
	return to
}

// floating reports whether the API listens on an address of the VPN, which is there when that is up.
func floating(c *config.Config) bool {
	v := c.VPN
	return v != nil && (v.Kind == "external" || v.Address.Addr() == c.Admin.Listen.Addr())
}

// machinesOf translates the checked machines of the file.
func machinesOf(c *config.Config) (list []boot.Machine) {
	for _, m := range c.Machines {
		to := boot.Machine{Name: m.Name, Image: m.Image, Address: m.Address}
		for _, text := range m.MACs {
			mac, _ := boot.ParseMAC(text) // checked by config
			to.MACs = append(to.MACs, mac)
		}
		if m.UUID != "" {
			to.UUID, _ = boot.ParseUUID(m.UUID)
		}
		to.Chain, to.BootSet, to.Dialect, to.SecureBoot = chainOf(m.Chain), m.BootSet, m.Dialect, boot.SecureBoot(m.SecureBoot)
		to.LoaderCA = m.LoaderCA
		list = append(list, to)
	}
	return list
}

// chainOf is a chain of the file of the site; "auto" leaves the choice to the next above.
func chainOf(name string) boot.Chain {
	if name == "auto" {
		return ""
	}
	return boot.Chain(name)
}

// serverURL is the base of the URLs that clients get. It is an IP literal:
// firmware often has no DNS (ipxe#1316).
func serverURL(c *config.Config) string {
	if c.HTTP.Port == 80 {
		return "http://" + c.LAN.Address.Addr().String()
	}
	return "http://" + netip.AddrPortFrom(c.LAN.Address.Addr(), uint16(c.HTTP.Port)).String()
}

// importLoaders gives the library Debian's boot programs, so that the first
// order boots, and follows their packages. What is missing keeps only those
// machines from booting that need it.
func (b *box) importLoaders() {
	for _, set := range []struct {
		name, packages string
		ensure         func(*images.Library, string) (bool, error)
	}{
		{"ipxe", "ipxe", images.EnsureIPXE},
		{"shim", "shim-signed grub-efi-amd64-signed", images.EnsureShim},
	} {
		added, err := set.ensure(b.library, set.name)
		switch {
		case err != nil && !errors.As(err, new(*images.Missing)):
			b.Log.Error("boot programs are not as their package has them", zap.String("image", set.name), zap.NamedError("err", err))
		case err != nil:
			b.Log.Warn("boot programs are missing: apt-get install "+set.packages, zap.String("image", set.name), zap.NamedError("err", err))
		case added:
			b.Log.Info("imported Debian's boot programs", zap.String("image", set.name))
		}
	}
}

// watchdog tells systemd twice in each interval that the decision can be made:
// a table that is locked for good would leave machines without an answer.
func (b *box) watchdog(ctx context.Context) {
	interval := watchdogInterval()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.table.OpenOrder("")
			b.Notify("WATCHDOG=1\nSTATUS=" + b.summary())
		}
	}
}

// replacing is a registry in which a part that is restarted registers its
// metrics anew.
type replacing struct{ *prometheus.Registry }

// Register puts c in the place of an older collector of the same metrics.
func (r replacing) Register(c prometheus.Collector) error {
	err := r.Registry.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		r.Unregister(already.ExistingCollector)
		return r.Registry.Register(c)
	}
	return err
}

// MustRegister is Register for several; it panics on what can only be a mistake in the program.
func (r replacing) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}
