package modem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// dataPart is what the data bearer keeps in a Modem.
type dataPart struct {
	Volumes Volumes // what its SIMs have carried; nil: counted until the next restart
	// PPPSocket is where rescuebox-ppp.socket listens, for a daemon that is not root.
	PPPSocket string

	dataOnce sync.Once
	dataErr  error // why there is no bearer
	data     *data
	quota    *quota
	fence    *fence

	fenceMu  sync.Mutex
	fenceErr error // why the fence does not stand though the quota is used up
	fenced   bool  // it stands
	usedUp   bool  // was told; owned by guard
	bearerUp chan struct{}
}

// DefaultPPPSocket is where rescuebox-ppp.socket listens.
const DefaultPPPSocket = "/run/rescuebox-ppp.sock"

// prepareData makes the parts of the bearer, once: they stay over restarts of Run.
func (m *Modem) prepareData() error {
	m.dataOnce.Do(func() {
		m.quota = newQuota(m.Quota, m.BillingDay, m.Volumes, m.quotaWarning, m.log)
		if m.Now != nil {
			m.quota.now = m.Now
		}
		m.fence = &fence{modem: m.Name}
		m.bearerUp = make(chan struct{}, 1)
		var d driver
		if d, m.dataErr = m.driver(); m.dataErr == nil && d != nil {
			m.data = newData(d, m.mayDial, m.bearerChanged, m.log)
		}
	})
	return m.dataErr
}

// driver is the one of the file.
func (m *Modem) driver() (driver, error) {
	switch m.Data {
	case "none":
		return nil, nil
	case "netdev":
		return newNetdev(m.NetDevice, m.IPType)
	case "ncm":
		return newNCM(m.Config, m, m.Status, m.bearerNews)
	case "", "ppp":
		lend := m.lend
		if m.PPPDevice != "" && m.PPPDevice != m.Device {
			lend = func(_ context.Context, use func(string) error) error { return use(m.PPPDevice) }
		}
		return newPPP(m.Config, lend, m.pppSocket()), nil
	case "modemmanager":
		g := newManaged(m.Config, m.pppSocket())
		if m.PIN != nil {
			g.claim = m.claimTry
		}
		return g, nil
	}
	return nil, fmt.Errorf("data = %q is no driver: want netdev, ncm, ppp, modemmanager or none", m.Data)
}

func (m *Modem) pppSocket() string {
	if m.PPPSocket != "" {
		return m.PPPSocket
	}
	return DefaultPPPSocket
}

// bearerNews is the session's: the bearer may be lost.
func (m *Modem) bearerNews() <-chan struct{} {
	s, err := m.session()
	if err != nil {
		return nil
	}
	return s.bearer
}

// keepData has the bearer be as Want says until ctx is done.
func (m *Modem) keepData(ctx context.Context) error {
	if err := m.prepareData(); err != nil {
		return err
	}
	if m.data == nil {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &group{cancel: cancel}
	defer g.wait()
	defer cancel(nil)
	g.run(func() error { return m.follow(ctx) })
	g.run(func() error { return m.quota.run(ctx, m.dataDevice) })
	g.run(func() error { return m.guard(ctx) })
	if mm, ok := m.data.driver.(*managed); ok {
		g.run(func() error { m.keepManaged(ctx, mm); return nil })
	}
	g.run(func() error { m.data.run(ctx); return nil })
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// follow passes on what Want said and what the modem's life brings.
func (m *Modem) follow(ctx context.Context) error {
	for {
		moved := m.change()
		if sim := m.account(); sim != "" {
			if err := m.quota.use(sim); err != nil {
				return err
			}
		}
		m.data.want(m.wanted())
		m.data.nudge()
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		}
	}
}

// account is whose volume it is: the SIM's, or the modem's where that does not say which SIM it has. "" is: nobody
// knows yet.
func (m *Modem) account() string {
	s := m.Status()
	switch {
	case s.ICCID != "":
		return s.ICCID
	case m.Device == "" && m.Data != "modemmanager", s.State == Registered:
		return "modem " + m.Name
	}
	return ""
}

// dataDevice is the network device that is counted: that of the bearer, or the one that
// it will be. ModemManager's is not known before.
func (m *Modem) dataDevice() string {
	if l := m.data.state(); l.Device != "" {
		return l.Device
	}
	if m.NetDevice == "" && (m.Data == "" || m.Data == "ppp") {
		return pppName(m.Name)
	}
	return m.NetDevice
}

// guard has the fence stand while the quota is used up.
func (m *Modem) guard(ctx context.Context) error {
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if m.fence.up != "" {
			_ = m.fence.remove(end)
		}
	}()
	for first := true; ; first = false {
		m.guardOnce(ctx, first)
		t := time.NewTimer(countEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-m.bearerUp: // its device may not have been known before
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (m *Modem) guardOnce(ctx context.Context, first bool) {
	stopped, device := m.quota.status().Stopped, m.dataDevice()
	var err error
	switch {
	case stopped && device != "":
		err = m.fence.put(ctx, device, time.Now())
	case m.fence.up != "" || first && m.Quota > 0:
		err = m.fence.remove(ctx)
		if !stopped {
			err = nil // a fence too many is no reason to be down
		}
	}
	m.fenceMu.Lock()
	changed := !sameError(m.fenceErr, err)
	changed = changed || m.fenced != (m.fence.up != "")
	m.fenceErr, m.fenced = err, m.fence.up != ""
	m.fenceMu.Unlock()
	if changed {
		m.data.nudge()
	}
	if stopped != m.usedUp {
		m.usedUp = stopped
		m.data.again()
	}
}

var errRoaming = errors.New("the modem is in a foreign network, where data is not allowed: set roaming = true to pay for it")

// mayDial is why the bearer must be down now.
func (m *Modem) mayDial() error {
	m.fenceMu.Lock()
	err, fenced := m.fenceErr, m.fenced
	m.fenceMu.Unlock()
	if err != nil {
		return fmt.Errorf("the quota is used up, and the bearer cannot be held to it: %w", err)
	}
	if !m.data.wasUp() && !fenced && m.dataDevice() != "" && m.quota.status().Stopped {
		return errUsedUp // the fence stands in a moment, before the first packet
	}
	s := m.Status()
	switch {
	case s.Roaming && !m.Roaming: // ModemManager is told too, but one rule is enough for a bill
		return errRoaming
	case m.Data == "modemmanager" || m.Device == "":
		return nil // whoever has the modem says so itself
	case m.Data == "netdev", s.State == Registered, s.State == Lent:
		return nil
	case s.State == Locked, s.State == LowPower: // no bearer survives that
		return errors.New(orText(s.Why, string(s.State)))
	}
	return notNow(s.Why)
}

// bearerChanged keeps a change for the status, and passes it on.
func (m *Modem) bearerChanged(l Link) {
	if l.Up() && l.Err == nil && m.quota.status().Stopped {
		l.Err = errUsedUp
		poke(m.bearerUp)
	}
	m.mu.Lock()
	m.status.Data.Link, m.status.Data.Why = l, ""
	if l.Err != nil {
		m.status.Data.Why = l.Err.Error()
	}
	m.mu.Unlock()
	if m.Changed != nil {
		m.Changed(l)
	}
}

var errUsedUp = errors.New("the quota is used up: text messages and the VPN's own messages only, until the next billing month or until somebody allows more")

// quotaWarning tells a person, once for each percentage.
func (m *Modem) quotaWarning(percent int, s VolumeStatus) {
	text := fmt.Sprintf("%d %% of the data quota are used: %d of %d MB; it begins anew on %s", percent, s.Used/1e6, s.Quota/1e6, s.Resets.Format(time.DateOnly))
	if s.Stopped {
		text = fmt.Sprintf("the data quota of %d MB is used up: text messages and the VPN's own messages only, until %s", s.Quota/1e6, s.Resets.Format(time.DateOnly))
	}
	if m.Event != nil {
		m.Event(Event{Time: time.Now(), Modem: m.Name, Kind: "quota", Text: text})
	}
}

// Volume is how much of the SIM's quota is used.
func (m *Modem) Volume() VolumeStatus {
	if m.prepareData() != nil || m.quota == nil {
		return VolumeStatus{}
	}
	return m.quota.status()
}

// AllowData lifts the quota until the next billing month: by so many bytes, or with 0 altogether.
func (m *Modem) AllowData(extra int64) error {
	if err := m.prepareData(); err != nil {
		return err
	}
	return m.quota.allow(extra)
}

// Redial takes the bearer down and up again: it is up, and nothing comes through.
func (m *Modem) Redial() {
	if m.prepareData() == nil && m.data != nil {
		m.data.redial()
	}
}

// dataUp says whether the bearer is up.
func (m *Modem) dataUp() bool {
	if m.prepareData() != nil || m.data == nil {
		return false
	}
	return m.data.wasUp()
}

// keepManaged has the status and the text messages of a modem that ModemManager owns.
func (m *Modem) keepManaged(ctx context.Context, mm *managed) {
	for ctx.Err() == nil {
		took := m.receive
		if m.Received == nil {
			took = nil
		}
		err := mm.keep(ctx, m.managedIs, took)
		if err != nil && ctx.Err() == nil {
			m.setState(Absent, err.Error())
		}
		_ = wait(ctx, 10*time.Second)
	}
}

// managedIs shows what ModemManager says.
func (m *Modem) managedIs(s Status) {
	m.show(func(to *Status) {
		to.Device, to.Manufacturer, to.Model, to.Firmware = s.Device, s.Manufacturer, s.Model, s.Firmware
		to.IMEI, to.ICCID, to.IMSI = s.IMEI, s.ICCID, s.IMSI
		to.Operator, to.PLMN, to.Technology, to.Roaming = s.Operator, s.PLMN, s.Technology, s.Roaming
	})
	m.setState(s.State, s.Why)
	if s.State == Registered {
		m.opened(s.ICCID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.State == Registered {
		m.status.Signal = s.Signal
	}
	if s.Signal.Known() {
		m.status.History = remember(m.status.History, s.Signal)
	}
	m.texts.Why = s.Texts.Why
	m.movedLocked() // the SIM may be another one
}
