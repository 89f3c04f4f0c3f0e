package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/power"
	"rescuebox/appliance/state"
)

// maxSecret is more than any password has.
const maxSecret = 4096

// secret reads a file with a password and nothing else, when it is needed: a changed
// one counts at once. Errors do not say what is in it.
func secret(path string) func() (string, error) {
	return func() (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read the password: %w (it must be readable for user rescuebox)", err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err != nil {
			return "", fmt.Errorf("read the password in %s: %w", path, err)
		}
		password := strings.TrimRight(string(text), "\r\n")
		if password == "" || len(text) > maxSecret || strings.ContainsAny(password, "\r\n\x00") {
			return "", fmt.Errorf("%s does not hold a password and nothing else: write it there in one line", path)
		}
		return password, nil
	}
}

// machinePower is all that switches one machine.
type machinePower struct {
	name     string
	bmc      *bmc.Client     // nil: none
	config   bmc.Config      // of it
	outlet   power.Switch    // nil: none
	texts    bool            // outlet is spoken to by text messages
	shutdown *power.Shutdown // nil: the BMC asks the system (ACPI)
	taken    *taken

	pressing  sync.Mutex // held while its button is pressed for an order
	switching sync.Mutex // held while it is switched off by hand, or on again after a cycle
}

// ask sends a text message to a switch, and gives what it answers until ctx is done.
type ask func(ctx context.Context, number, text string) (<-chan string, error)

// powersOf makes what switches the machines of the file, by their names.
func powersOf(c *config.Config, memory *remembered, taken *taken, ask ask) (map[string]*machinePower, error) {
	all := map[string]*machinePower{}
	for _, m := range c.Machines {
		p := &machinePower{name: m.Name, taken: taken}
		if m.BMC != nil {
			p.config = bmc.Config{Protocol: m.BMC.Protocol, Host: m.BMC.Host, Port: m.BMC.Port, User: m.BMC.User,
				Password: secret(m.BMC.PasswordFile), System: m.BMC.System, MACs: m.MACs, Memory: memory, Taking: func() { taken.take(m.Name, api.ByBMC) }}
			p.bmc = bmc.New(p.config)
		}
		if m.Power != nil {
			to := switchOf(m, c.LAN.Interface, memory)
			to.Taking, to.Ask = func() { taken.take(m.Name, api.BySwitch) }, ask
			outlet, err := power.New(to)
			if err != nil {
				return nil, fmt.Errorf("power of %s: %w", m.Name, err)
			}
			p.outlet, p.texts = outlet, m.Power.Kind == "gsm-socket"
		}
		if s := m.Shutdown; s != nil {
			p.shutdown = &power.Shutdown{Kind: s.Kind, Host: s.Host, User: s.User, Password: secret(s.PasswordFile), Pins: pins{memory},
				Key: func() ([]byte, error) { return os.ReadFile(s.KeyFile) }, HostKey: s.HostKey, KDCs: s.KDC}
		}
		if p.bmc != nil || p.outlet != nil || p.shutdown != nil {
			all[m.Name] = p
		}
	}
	return all, nil
}

func switchOf(m config.Machine, lan string, memory *remembered) power.Config {
	c := m.Power
	to := power.Config{Kind: c.Kind, URL: c.URL, Pins: pins{memory}, User: c.User, Password: secret(c.PasswordFile),
		Host: c.Host, Model: c.Model, Outlet: c.Outlet, Community: secret(c.CommunityFile), Interface: lan,
		On: c.On, Off: c.Off, Cycle: c.Cycle, Status: c.Status, Number: c.Number,
		GSM: power.GSM{On: c.OnText, Off: c.OffText, Cycle: c.CycleText, Status: c.StatusText, SaysOn: c.OnReply, SaysOff: c.OffReply}}
	if c.Kind == "gsm-socket" && c.PasswordFile == "" {
		to.Password = nil
	}
	for _, mac := range m.MACs {
		if hw, err := net.ParseMAC(mac); err == nil { // checked by config
			to.MACs = append(to.MACs, hw)
		}
	}
	return to
}

// switchError is the error of a switch that also says what it is in the words of package
// bmc, by which callers tell a wrong password from silence.
type switchError struct {
	error
	is error
}

func (e switchError) Is(target error) bool { return target == e.is }
func (e switchError) Unwrap() error        { return e.error }

// bySwitch translates the errors of a switch.
func bySwitch(err error) error {
	for of, is := range map[error]error{power.ErrRefused: bmc.ErrRefused, power.ErrSilent: bmc.ErrSilent, power.ErrUnsupported: bmc.ErrUnsupported,
		power.ErrNotTaken: bmc.ErrNotTaken, power.ErrCertificate: bmc.ErrCertificate} {
		if errors.Is(err, of) {
			return switchError{err, is}
		}
	}
	return err
}

// Power is that of button. Where there are a BMC and a switch, the BMC knows better.
func (p *machinePower) Power(ctx context.Context) (bmc.State, error) {
	if p.bmc != nil {
		return p.bmc.Power(ctx)
	}
	if p.outlet != nil {
		state, err := p.outlet.State(ctx)
		return bmc.State(state), bySwitch(err)
	}
	return bmc.Unknown, bmc.ErrUnsupported
}

// ownOrder is what a machine boots from behind a switch, which cannot tell it.
const ownOrder bmc.Device = "its own boot order"

// Start is that of button. A switch cannot say what is booted: the machine's own
// boot order must have the network first.
func (p *machinePower) Start(ctx context.Context, b bmc.Boot) (next bmc.Next, err error) {
	err = p.taken.cycle(p.name, func() error {
		next, err = p.start(ctx, b)
		return err
	})
	return next, err
}

func (p *machinePower) start(ctx context.Context, b bmc.Boot) (bmc.Next, error) {
	if p.bmc != nil {
		return p.bmc.Start(ctx, b)
	}
	next := bmc.Next{Boot: bmc.Boot{Device: ownOrder, UEFI: b.UEFI}, Held: true}
	if p.outlet == nil || b.Device != bmc.Network {
		return next, bmc.ErrUnsupported
	}
	err := p.outlet.Cycle(ctx)
	if errors.Is(err, power.ErrUnsupported) { // Wake-on-LAN
		err = p.outlet.On(ctx)
	}
	return next, bySwitch(err)
}

// PullsPlug is that of puller.
func (p *machinePower) PullsPlug() bool { return p.bmc == nil && power.PullsPlug(p.outlet) }

// Untold is that of puller.
func (p *machinePower) Untold() bool { return p.bmc == nil && p.texts }

// Set takes back what a controller was told; a switch was told nothing.
func (p *machinePower) Set(ctx context.Context, b bmc.Boot) (bmc.Next, error) {
	if p.bmc != nil {
		return p.bmc.Set(ctx, b)
	}
	return bmc.Next{}, bmc.ErrUnsupported
}

// Next is that of button.
func (p *machinePower) Next(ctx context.Context) (bmc.Next, error) {
	if p.bmc != nil {
		return p.bmc.Next(ctx)
	}
	return bmc.Next{}, bmc.ErrUnsupported
}

// ShutDown is that of button: the system itself is asked where that is configured, else
// by the power button (ACPI).
func (p *machinePower) ShutDown(ctx context.Context) error {
	var errs []error
	if p.shutdown != nil {
		err := p.shutdown.Ask(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if p.bmc != nil {
		err := p.bmc.Do(ctx, bmc.SoftOff)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return bmc.ErrUnsupported
	}
	return errors.Join(errs...)
}

// Insert is that of bmc.Media.
func (p *machinePower) Insert(ctx context.Context, url string) error {
	if p.bmc == nil {
		return bmc.ErrUnsupported
	}
	return p.bmc.Insert(ctx, url)
}

// Eject is that of bmc.Media.
func (p *machinePower) Eject(ctx context.Context) error {
	if p.bmc == nil {
		return bmc.ErrUnsupported
	}
	return p.bmc.Eject(ctx)
}

// remembered keeps what is known of controllers in the state; it is bmc's Memory.
type remembered struct {
	table state.Table[knownBMC]

	mu  sync.Mutex
	all map[string]bmc.Known
}

// knownBMC is what is stored of one.
type knownBMC struct {
	Host string
	bmc.Known
}

// bmcMemory reads what the state has. What cannot be read is learned again; a
// certificate that was pinned is not believed anew in silence, so that is said.
func (b *box) bmcMemory() *remembered {
	m := &remembered{table: state.NewTable[knownBMC](b.db, "bmcs", state.Durable), all: map[string]bmc.Known{}}
	list, err := m.table.All()
	if err != nil {
		b.Log.Error("what is known of some BMCs cannot be read: their certificates are pinned anew", zap.NamedError("err", err))
	}
	for _, k := range list {
		m.all[k.Host] = k.Known
	}
	return m
}

func (m *remembered) Get(host string) (bmc.Known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.all[host]
	return k, ok
}

func (m *remembered) Put(host string, k bmc.Known) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[host] = k // counts even where it cannot be stored
	return m.table.Put(host, knownBMC{host, k})
}

// pins are the certificates of what is no BMC: they have names of their own in the same memory.
type pins struct{ *remembered }

func (p pins) Get(host string) string {
	k, _ := p.remembered.Get("switch " + host)
	return k.CertSHA256
}

func (p pins) Put(host, sha256 string) error {
	return p.remembered.Put("switch "+host, bmc.Known{CertSHA256: sha256})
}

// firmwareOf is by which kind of firmware a machine boots: what the file of the site says,
// else as its network card asked.
func (b *box) firmwareOf(machine string) (uefi, known bool) {
	for _, m := range b.Config.Machines {
		if m.Name == machine && m.Firmware != "" {
			return m.Firmware == "uefi", true
		}
	}
	return b.table.BootsUEFI(machine)
}

// powering is the part that presses buttons: an order's machine is powered on when the
// order is made. It goes on after the request that made the order is over, and after a restart of the box.
type powering struct {
	presser
	powers  map[string]*machinePower
	waiting chan boot.Order
	began   time.Time
	all     func() []boot.Order
	disk    func(o boot.Order) (url string, err error) // for the controller's virtual drive
}

// maxWaiting is more orders than a site's machines; who orders more is told so.
const maxWaiting = 256

func newPowering(b *box) *powering {
	return &powering{presser: presser{orders: b.table, progress: b.table, taken: b.taken, firmware: b.firmwareOf,
		lastLine: func(machine string) string { return b.serial.lastLine(machine) },
		spare:    func(machine string) bool { m := b.powers[machine]; return m != nil && m.bmc != nil && m.outlet != nil }}, powers: b.powers,
		waiting: make(chan boot.Order, maxWaiting), began: b.started, all: func() []boot.Order { return b.table.AllOrders(maxOrders) }, disk: b.diskFor}
}

// maxOrders is more than the table keeps.
const maxOrders = 1000

// errBusy is for an order that nobody will press.
var errBusy = errors.New("too many machines are being powered on at once: order again in some minutes")

// Press has the machine of an order powered on, and returns at once.
func (p *powering) Press(o boot.Order) error {
	select {
	case p.waiting <- o:
		return nil
	default:
		return errBusy
	}
}

// Run presses for one order each, side by side, until ctx is done. First it goes on with what
// an earlier run has left.
func (p *powering) Run(ctx context.Context, ready func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, left := range p.left() {
		wg.Go(func() { p.resume(ctx, name, left) })
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-p.waiting:
			if c, ok := p.powers[o.Machine]; ok {
				wg.Go(func() { p.inTurn(ctx, &c.pressing, c, o) })
			}
		case name := <-p.taken.owing:
			if c, ok := p.powers[name]; ok {
				wg.Go(func() { p.giveBack(ctx, name, c) })
			}
		}
	}
}

// left are the presses that are not finished, by their machines, the oldest order first; and the machines whose power was
// taken and not given back.
func (p *powering) left() map[string][]boot.Order {
	all := map[string][]boot.Order{}
	for _, name := range p.taken.machines() {
		all[name] = nil
	}
	for _, o := range slices.Backward(p.all()) {
		if o.Press.Unfinished() {
			all[o.Machine] = append(all[o.Machine], o)
		}
	}
	return all
}

// resume goes on with one machine. An order that stands gives its power back as it needs it: before that,
// nobody else does.
func (p *powering) resume(ctx context.Context, machine string, left []boot.Order) {
	c, ok := p.powers[machine]
	if !ok {
		for _, o := range left {
			p.fail(ctx, o, fmt.Sprintf("%s has neither a BMC nor a switch in the file of the site any more", machine))
		}
		p.taken.back(machine)
		return
	}
	for _, o := range left {
		p.inTurn(ctx, &c.pressing, c, o)
	}
	p.giveBack(ctx, machine, c)
}

// inTurn presses a machine's button for one order at a time, as long as the order stands. One
// that was replaced has its disk ejected late, and that must not be the new order's; one that was
// cancelled while its BMC was busy must not cut power any more.
func (p *powering) inTurn(ctx context.Context, turn *sync.Mutex, c button, o boot.Order) {
	turn.Lock()
	defer turn.Unlock()
	eject := true // unless the press does
	if now, open := p.orders.OpenOrder(o.Machine); open && now.ID == o.ID {
		eject = now.Press.Past(boot.PressWait)
		p.whileStands(ctx, now, func(ctx context.Context) { p.pressOnce(ctx, now, c) })
	}
	if ctx.Err() != nil {
		return
	}
	p.taken.owe(o.Machine)
	for _, now := range p.all() {
		if now.ID == o.ID && now.Press.Unfinished() {
			p.tidy(ctx, now, c, eject)
		}
	}
}

// pressOnce presses unless that was done before, and waits until the order is over.
func (p *powering) pressOnce(ctx context.Context, o boot.Order, c button) {
	if o.Press.Past(boot.PressWait) {
		return
	}
	if o.Press.Since.Before(p.began) {
		p.resumed(o)
	}
	disk := ""
	if o.Press.Media {
		var err error
		if disk, err = p.disk(o); err != nil {
			p.fail(ctx, o, err.Error())
			return
		}
	}
	p.press(ctx, o, c, disk)
}

// whileStands does something, and waits until the order is over; ctx ends when it is.
func (p *powering) whileStands(ctx context.Context, o boot.Order, do func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	events, stop := p.orders.Watch()
	defer stop()
	wg.Go(func() {
		defer cancel()
		for ctx.Err() == nil && p.stands(o) {
			select {
			case <-events:
			case <-ctx.Done():
			}
		}
	})
	do(ctx)
	<-ctx.Done()
}
