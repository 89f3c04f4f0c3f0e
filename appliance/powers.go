package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"go.uber.org/zap"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
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

// controllersOf makes a client for each machine's BMC, by the machine's name.
func controllersOf(c *config.Config, memory bmc.Memory) map[string]*bmc.Client {
	all := map[string]*bmc.Client{}
	for _, m := range c.Machines {
		if m.BMC == nil {
			continue
		}
		all[m.Name] = bmc.New(bmc.Config{Protocol: m.BMC.Protocol, Host: m.BMC.Host, Port: m.BMC.Port, User: m.BMC.User,
			Password: secret(m.BMC.PasswordFile), MACs: m.MACs, Memory: memory})
	}
	return all
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

// uefi is by which kind of firmware a machine boots: what the file of the site says,
// else as its network card asked, else UEFI.
func (b *box) uefi(machine string) bool {
	for _, m := range b.Config.Machines {
		if m.Name == machine && m.Firmware != "" {
			return m.Firmware == "uefi"
		}
	}
	uefi, known := b.table.BootsUEFI(machine)
	return uefi || !known
}

// powering is the part that presses buttons: an order's machine is powered on when the
// order is made. It goes on after the request that made the order is over.
type powering struct {
	presser
	controllers map[string]*bmc.Client
	waiting     chan pressed
}

type pressed struct {
	order boot.Order
	way   way
}

// maxWaiting is more orders than a site's machines; who orders more is told so.
const maxWaiting = 256

func newPowering(b *box) *powering {
	return &powering{presser: presser{orders: b.table, uefi: b.uefi}, controllers: controllersOf(b.Config, b.bmcMemory()),
		waiting: make(chan pressed, maxWaiting)}
}

// errBusy is for an order that nobody will press.
var errBusy = errors.New("too many machines are being powered on at once: order again in some minutes")

// Press has the machine of an order powered on, and returns at once.
func (p *powering) Press(o boot.Order, w way) error {
	select {
	case p.waiting <- pressed{o, w}:
		return nil
	default:
		return errBusy
	}
}

// Run presses for one order each, side by side, until ctx is done.
func (p *powering) Run(ctx context.Context, ready func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case next := <-p.waiting:
			if c, ok := p.controllers[next.order.Machine]; ok {
				wg.Go(func() { p.press(ctx, next.order, c, next.way) })
			}
		}
	}
}
