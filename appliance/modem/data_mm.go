package modem

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// managed is a modem that ModemManager owns: one that speaks QMI or MBIM, most often. We
// tell it by D-Bus what we want; what it does with its own bearers beside ours is its own
// matter. Every call has a time-out of ours: ModemManager may hang as its modem does.
type managed struct {
	modem  string // a port, the device's path or the IMEI; "" the first there is
	access access
	v4, v6 bool
	roam   bool
	bus    string // address; "" the system's
	ppp    *ppp   // for bearers that speak PPP
	// claim is the PIN of a SIM, if it may be tried; nil: it is not.
	claim func(iccid string, left int, known bool) (string, error)
}

// Names of ModemManager's.
const (
	mmService = "org.freedesktop.ModemManager1"
	mmPath    = "/org/freedesktop/ModemManager1"
	mmModem   = mmService + ".Modem"
	mm3GPP    = mmModem + ".Modem3gpp"
	mmSimple  = mmModem + ".Simple"
	mmBearer  = mmService + ".Bearer"
	busProps  = "org.freedesktop.DBus.Properties"
)

// The bounds of calls.
const (
	busTimeout     = 15 * time.Second
	connectTimeout = 170 * time.Second // MM asks the network within it
)

// How ModemManager says that a bearer is set up (MMBearerIpMethod).
const (
	methodPPP    = 1
	methodStatic = 2
	methodDHCP   = 3
)

func newManaged(c Config, socket string) *managed {
	v4, v6 := families(c.IPType)
	nobody := func(context.Context, func(string) error) error { return errors.New("no port") }
	return &managed{
		modem: c.Device, access: access{c.APN, c.User, c.Auth, c.IPType, c.Password}, v4: v4, v6: v6,
		roam: c.Roaming, bus: c.ModemManagerBus, ppp: newPPP(c, nobody, socket),
	}
}

// manager is an open way to ModemManager.
type manager struct {
	conn *dbus.Conn
	news chan struct{} // something changed at ModemManager's
}

// open connects to the bus and listens.
func (g *managed) open(ctx context.Context) (*manager, error) {
	var conn *dbus.Conn
	var err error
	if g.bus == "" {
		conn, err = dbus.ConnectSystemBus(dbus.WithContext(ctx))
	} else {
		conn, err = dbus.Connect(g.bus, dbus.WithContext(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("reach D-Bus, on which ModemManager is: %w", err)
	}
	m := &manager{conn: conn, news: make(chan struct{}, 1)}
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(mmService))
	if err == nil {
		err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, mmService))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen to ModemManager: %w", err)
	}
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	go func() { // ends with the connection, which closes the channel
		for range signals {
			poke(m.news)
		}
		poke(m.news)
	}()
	return m, nil
}

func (m *manager) close() { m.conn.Close() }

// call calls a method, within a time of ours.
func (m *manager) call(ctx context.Context, timeout time.Duration, at dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return m.conn.Object(mmService, at).CallWithContext(ctx, method, 0, args...)
}

// properties are an object's properties.
type properties map[string]dbus.Variant

func (p properties) text(name string) string { return valueOf[string](p[name]) }
func (p properties) flag(name string) bool   { return valueOf[bool](p[name]) }
func (p properties) count(name string) uint32 {
	return valueOf[uint32](p[name])
}
func (p properties) path(name string) dbus.ObjectPath { return valueOf[dbus.ObjectPath](p[name]) }

// group is a property that is properties itself.
func (p properties) group(name string) properties {
	return properties(valueOf[map[string]dbus.Variant](p[name]))
}

// valueOf is the value, or zero where it is of another type or not there.
func valueOf[T any](v dbus.Variant) T {
	t, _ := v.Value().(T)
	return t
}

func (m *manager) properties(ctx context.Context, at dbus.ObjectPath, iface string) (properties, error) {
	var p map[string]dbus.Variant
	if err := m.call(ctx, busTimeout, at, busProps+".GetAll", iface).Store(&p); err != nil {
		return nil, busReason(err)
	}
	return p, nil
}

// find is the modem's path.
func (g *managed) find(ctx context.Context, m *manager) (dbus.ObjectPath, properties, error) {
	var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := m.call(ctx, busTimeout, mmPath, "org.freedesktop.DBus.ObjectManager.GetManagedObjects").Store(&all); err != nil {
		return "", nil, busReason(err)
	}
	paths := make([]dbus.ObjectPath, 0, len(all))
	for at := range all {
		paths = append(paths, at)
	}
	slices.Sort(paths)
	for _, at := range paths {
		if p, ok := all[at][mmModem]; ok && g.is(p) {
			return at, p, nil
		}
	}
	if g.modem == "" {
		return "", nil, notNow("ModemManager has no modem: is it plugged in? see mmcli -L")
	}
	return "", nil, notNow("ModemManager has no modem " + g.modem + ": see mmcli -L, and mmcli -m any for its ports")
}

// is reports whether the modem is the one of the file.
func (g *managed) is(p properties) bool {
	want := strings.TrimPrefix(g.modem, "/dev/")
	if g.modem == "" || p.text("Device") == g.modem || p.text("EquipmentIdentifier") == g.modem || p.text("PrimaryPort") == want {
		return true
	}
	ports, _ := p["Ports"].Value().([][]any)
	return slices.ContainsFunc(ports, func(port []any) bool { return len(port) > 0 && port[0] == want })
}

// hold has ModemManager connect, and sets the interface up as it says.
func (g *managed) hold(ctx context.Context, changed func(Link)) error {
	m, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	modem, _, err := g.find(ctx, m)
	if err != nil {
		return err
	}
	wishes, err := g.wishes()
	if err != nil {
		return err
	}
	var bearer dbus.ObjectPath
	if err := m.call(ctx, connectTimeout, modem, mmSimple+".Connect", wishes).Store(&bearer); err != nil {
		return fmt.Errorf("dial: %w", busReason(err))
	}
	p, err := m.properties(ctx, bearer, mmBearer)
	if err != nil {
		return err
	}
	b := bearerOf(p)
	if b.name == "" {
		return errors.New("ModemManager connected and names no interface")
	}
	alive := func(ctx context.Context) error { return stillConnected(ctx, m, bearer) }
	if b.ppp {
		return g.holdPPP(ctx, m, modem, b, alive, changed)
	}
	s := &setup{
		name: b.name, v4: g.v4 && b.four, v6: g.v6 && b.adverts, noDHCP: !b.dhcp, alive: alive, news: func() <-chan struct{} { return m.news },
		static: func(context.Context) (Link, error) { return b.given, nil }, local: b.local,
	}
	if !s.v4 && !s.v6 { // given IPv6 addresses only
		s.v4, s.noDHCP = true, true
	}
	return s.keep(ctx, changed)
}

// down has ModemManager disconnect all its bearers of this modem. No modem, no bearer.
func (g *managed) down(ctx context.Context) error {
	m, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	modem, p, err := g.find(ctx, m)
	if nothing := notNow(""); errors.As(err, &nothing) {
		return nil
	}
	if err != nil {
		return err
	}
	if valueOf[int32](p["State"]) < mmConnecting {
		return nil
	}
	return busReason(m.call(ctx, downTimeout, modem, mmSimple+".Disconnect", dbus.ObjectPath("/")).Err)
}

// wishes are the properties of Connect.
func (g *managed) wishes() (map[string]dbus.Variant, error) {
	w := map[string]dbus.Variant{
		"apn":           dbus.MakeVariant(g.access.apn),
		"allow-roaming": dbus.MakeVariant(g.roam),
		"ip-type":       dbus.MakeVariant(map[string]uint32{"IP": 1, "IPV6": 2, "IPV4V6": 4}[pdpType(g.access.ipType)]),
	}
	if g.access.user != "" {
		password, err := g.access.secret()
		if err != nil {
			return nil, err
		}
		w["user"], w["password"] = dbus.MakeVariant(g.access.user), dbus.MakeVariant(password)
	}
	if auth, ok := map[string]uint32{"none": 1, "pap": 2, "chap": 4}[g.access.auth]; ok && g.access.user != "" {
		w["allowed-auth"] = dbus.MakeVariant(auth)
	}
	return w, nil
}

// connected is a bearer of ModemManager's.
type connected struct {
	name    string // of the interface; with ppp, of the tty
	ppp     bool
	four    bool // IPv4 is set up by us, by DHCP or as given
	dhcp    bool
	adverts bool // IPv6 comes by router advertisements
	local   netip.Prefix
	given   Link
}

// bearerOf reads the properties of a bearer.
func bearerOf(p properties) connected {
	four, six := p.group("Ip4Config"), p.group("Ip6Config")
	b := connected{name: p.text("Interface")}
	b.ppp = four.count("method") == methodPPP || six.count("method") == methodPPP
	b.dhcp = four.count("method") == methodDHCP
	b.four = b.dhcp || four.count("method") == methodStatic
	b.adverts = six.count("method") == methodDHCP
	for _, c := range []properties{four, six} {
		b.take(c)
	}
	return b
}

// take adds what one family was given.
func (b *connected) take(c properties) {
	addr, err := netip.ParseAddr(c.text("address"))
	bits := int(c.count("prefix"))
	if pre := netip.PrefixFrom(addr.Unmap(), bits); err == nil && pre.IsValid() {
		switch {
		case addr.IsLinkLocalUnicast():
			b.local = netip.PrefixFrom(addr, 64)
		case usable(addr) && c.count("method") == methodStatic:
			b.given.Addresses = append(b.given.Addresses, pre)
		}
	}
	if gw, err := netip.ParseAddr(c.text("gateway")); err == nil && usable(gw) {
		b.given.via(gw.Unmap())
	}
	for _, key := range []string{"dns1", "dns2", "dns3"} {
		if s, err := netip.ParseAddr(c.text(key)); err == nil && usable(s) {
			b.given.DNS = append(b.given.DNS, s.Unmap())
		}
	}
	if mtu := int(c.count("mtu")); mtu >= 576 && mtu <= 65535 {
		b.given.MTU = mtu
	}
}

// stillConnected is an error once the bearer is not connected, or not there.
func stillConnected(ctx context.Context, m *manager, bearer dbus.ObjectPath) error {
	p, err := m.properties(ctx, bearer, mmBearer)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case !p.flag("Connected"):
		why := p.group("ConnectionError").text("message")
		if list, ok := p["ConnectionError"].Value().([]any); ok && len(list) > 1 {
			why, _ = list[1].(string)
		}
		return fmt.Errorf("%w: ModemManager disconnected it: %s", errLost, or(oneLine(why), "the network took it down"))
	}
	return nil
}

// holdPPP has pppd speak on the tty on which ModemManager has dialled.
func (g *managed) holdPPP(ctx context.Context, m *manager, modem dbus.ObjectPath, b connected, alive func(context.Context) error, changed func(Link)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	group := &group{cancel: cancel}
	defer group.wait()
	defer cancel(nil)
	group.run(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-m.news:
			}
			if err := alive(ctx); err != nil {
				return err
			}
		}
	})
	err := g.ppp.speak(ctx, "/dev/"+path.Base(b.name), nil, changed)
	// ModemManager does not see that PPP ended, and would hand out the dead call again.
	_ = m.call(context.WithoutCancel(ctx), downTimeout, modem, mmSimple+".Disconnect", dbus.ObjectPath("/")).Err
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// busReason puts an error of ModemManager's, or of the bus, into words.
func busReason(err error) error {
	var e dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: ModemManager hangs", errNoAnswer)
	case !errors.As(err, &e):
		return err
	}
	said := oneLine(e.Error())
	switch {
	case strings.HasSuffix(e.Name, ".ServiceUnknown"), strings.HasSuffix(e.Name, ".NameHasNoOwner"):
		return notNow("ModemManager does not run: systemctl enable --now ModemManager (Debian package modemmanager)")
	case strings.HasSuffix(e.Name, ".AccessDenied"), strings.HasSuffix(e.Name, ".Unauthorized"):
		return notNow("ModemManager does not let this user: rescuebox's polkit rule must be installed, and polkitd run")
	case strings.HasSuffix(e.Name, ".UnknownObject"), strings.HasSuffix(e.Name, ".UnknownMethod"):
		return notNow("the modem went away")
	}
	if r := wordOf(strings.ToLower(said + " " + e.Name)); r != nil {
		return r
	}
	return &Refusal{Why: "ModemManager says: " + said}
}

// oneLine is a foreign text, short and without line ends.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(quoted(strings.ToValidUTF8(s, "?"))), " ")
	return s[:min(len(s), 200)]
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
