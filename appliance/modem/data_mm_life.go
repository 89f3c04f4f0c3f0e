package modem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// What ModemManager says of a modem (MMModemState and its neighbours).
const (
	mmFailed       = -1
	mmLocked       = 2
	mmDisabled     = 3
	mmRegistered   = 8
	mmConnecting   = 10
	mmDenied       = 3 // MMModem3gppRegistrationState
	mmRoaming      = 5
	mmPowerLow     = 2 // MMModemPowerState
	mmSMSReceiving = 2 // MMSmsState: a part of a long one
	mmSMSReceived  = 3
	mmLockPIN      = 2 // MMModemLock
)

const (
	mmMessaging = mmModem + ".Messaging"
	mmSMS       = mmService + ".Sms"
	mmSIM       = mmService + ".Sim"
)

// lookAgain is how often ModemManager is asked without news.
const lookAgain = 30 * time.Second

// keep has the modem's status and its text messages as ModemManager has them, until ctx is
// done. said gets each status, took each message, which is deleted when it returns.
func (g *managed) keep(ctx context.Context, said func(Status), took func(Text)) error {
	m, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var texts post
	for ctx.Err() == nil {
		s, at, err := g.look(ctx, m)
		if err != nil {
			s = Status{State: Absent, Why: err.Error()}
		} else if took != nil {
			if err := texts.take(ctx, m, at, took); err != nil {
				s.Texts.Why = err.Error()
			}
		}
		said(s)
		if !m.conn.Connected() {
			return errors.New("the connection to D-Bus was lost")
		}
		select {
		case <-ctx.Done():
		case <-m.news:
		case <-tick.C:
		}
	}
	return nil
}

// look reads the modem's status; a modem that is disabled is enabled.
func (g *managed) look(ctx context.Context, m *manager) (Status, dbus.ObjectPath, error) {
	at, p, err := g.find(ctx, m)
	if err != nil {
		return Status{}, "", err
	}
	s := Status{
		Device: p.text("PrimaryPort"), Manufacturer: p.text("Manufacturer"), Model: p.text("Model"), Firmware: p.text("Revision"),
		IMEI: p.text("EquipmentIdentifier"), Technology: technology(p.count("AccessTechnologies")),
	}
	s.Signal = signalOf(p)
	s.Signal.Technology = s.Technology
	net, err := m.properties(ctx, at, mm3GPP)
	if err == nil {
		s.Operator, s.PLMN = net.text("OperatorName"), net.text("OperatorCode")
		s.Roaming = net.count("RegistrationState") == mmRoaming
	}
	if sim := p.path("Sim"); len(sim) > 1 {
		if sp, err := m.properties(ctx, sim, mmSIM); err == nil {
			s.ICCID, s.IMSI = sp.text("SimIdentifier"), sp.text("Imsi")
		}
	}
	s.State, s.Why = managedState(p, net)
	if valueOf[int32](p["State"]) == mmLocked && p.count("UnlockRequired") == mmLockPIN && g.claim != nil {
		if err := g.unlock(ctx, m, p, s.ICCID); err != nil {
			s.Why = err.Error()
		} else {
			s.Why = "the SIM took its PIN"
		}
	}
	if valueOf[int32](p["State"]) == mmDisabled {
		if err := busReason(m.call(ctx, connectTimeout, at, mmModem+".Enable", true).Err); err != nil {
			s.Why = fmt.Sprintf("ModemManager does not enable the modem: %v", err)
		}
	}
	return s, at, nil
}

// unlock gives the SIM its PIN by the rules of enterPIN: once, and never the last try.
func (g *managed) unlock(ctx context.Context, m *manager, modem properties, iccid string) error {
	tries, _ := modem["UnlockRetries"].Value().(map[uint32]uint32)
	left, known := tries[mmLockPIN]
	pin, err := g.claim(iccid, int(left), known)
	if err != nil {
		return err
	}
	if err := m.call(ctx, connectTimeout, modem.path("Sim"), mmSIM+".SendPin", pin).Err; err != nil {
		return fmt.Errorf("the SIM %s did not take the PIN in pin_file: correct it: %w", iccid, busReason(err))
	}
	return nil
}

// managedState is ModemManager's state in our words.
func managedState(p, net properties) (State, string) {
	switch state := valueOf[int32](p["State"]); {
	case state == mmFailed:
		return Locked, "ModemManager gave the modem up: " + map[uint32]string{2: "no SIM", 3: "the SIM does not work", 5: "the eSIM has no profile"}[p.count("StateFailedReason")]
	case state == mmLocked:
		return Locked, "the SIM wants its PIN (pin_file names it), or its PUK: mmcli -i any --puk=… --pin=…"
	case p.count("PowerState") == mmPowerLow:
		return LowPower, "the radio is off: a modem with an FCC lock needs a link in /etc/ModemManager/fcc-unlock.d (ModemManager's documentation, \"FCC unlock\")"
	case net.count("RegistrationState") == mmDenied:
		return Denied, "the network refuses this SIM: " + hintSIM
	case state >= mmRegistered:
		return Registered, ""
	}
	return Searching, "no network yet"
}

// signalOf is the modem's SignalQuality, of which ModemManager makes a percentage of the usual range of +CSQ,
// -113 to -51 dBm; what it says of a modem that is in no network is not recent.
func signalOf(p properties) Signal {
	pair, _ := p["SignalQuality"].Value().([]any)
	if len(pair) != 2 {
		return Signal{}
	}
	percent, known := pair[0].(uint32)
	if recent, _ := pair[1].(bool); !known || percent == 0 || percent > 100 || !recent && valueOf[int32](p["State"]) < mmRegistered {
		return Signal{}
	}
	return Signal{Time: time.Now(), RSSI: -113 + int(percent)*62/100}
}

// technology is the best of ModemManager's bits (MMModemAccessTechnology).
func technology(bits uint32) string {
	for _, t := range []struct {
		bits uint32
		name string
	}{{1 << 15, "5G"}, {1 << 14, "LTE"}, {0x3e0, "UMTS"}, {0x1e, "GSM"}} {
		if bits&t.bits != 0 {
			return t.name
		}
	}
	return ""
}

// post is what one look at ModemManager's text messages has the next one know.
type post struct {
	taken map[string]bool               // those that were taken and could not be deleted
	half  map[dbus.ObjectPath]time.Time // long ones that are not whole, and since when
}

// take hands over the messages that have come whole, the oldest first, and deletes each one that was taken, and those whose
// rest does not come: a full store takes no more. One that makes difficulties keeps no other back.
func (b *post) take(ctx context.Context, m *manager, modem dbus.ObjectPath, took func(Text)) (failed error) {
	var list []dbus.ObjectPath
	if err := m.call(ctx, busTimeout, modem, mmMessaging+".List").Store(&list); err != nil {
		return nil // a modem without messages, or not enabled yet
	}
	remove := func(at dbus.ObjectPath) error {
		if err := m.call(ctx, busTimeout, modem, mmMessaging+".Delete", at).Err; err != nil {
			return fmt.Errorf("delete a text message: %w", busReason(err))
		}
		return nil
	}
	type message struct {
		at dbus.ObjectPath
		Text
	}
	var whole []message
	before := *b
	*b = post{taken: map[string]bool{}, half: map[dbus.ObjectPath]time.Time{}}
	for _, at := range list {
		p, err := m.properties(ctx, at, mmSMS)
		switch since, known := before.half[at]; {
		case err != nil:
		case p.count("State") == mmSMSReceived:
			whole = append(whole, message{at, textOf(p)})
		case p.count("State") == mmSMSReceiving && !known:
			b.half[at] = time.Now()
		case p.count("State") == mmSMSReceiving:
			b.half[at] = since
			if time.Since(since) > partsWait {
				failed = cmp.Or(failed, remove(at))
			}
		}
	}
	slices.SortFunc(whole, func(x, y message) int { return cmp.Or(x.Time.Compare(y.Time), cmp.Compare(x.at, y.at)) })
	for _, t := range whole {
		key := fmt.Sprint(t) // its path alone may be another one's, after a restart of ModemManager
		if !before.taken[key] {
			took(t.Text)
		}
		if err := remove(t.at); err != nil {
			b.taken[key] = true
			failed = cmp.Or(failed, err)
		}
	}
	return failed
}

// textOf is a message as ModemManager has it. It has joined the parts already.
func textOf(p properties) Text {
	t := Text{From: p.text("Number"), Text: p.text("Text"), Parts: 1, Class0: valueOf[int32](p["Class"]) == 0}
	t.Numeric = t.From != "" && !slices.ContainsFunc([]byte(t.From), func(b byte) bool { return (b < '0' || b > '9') && b != '+' })
	if data := valueOf[[]byte](p["Data"]); len(data) > 0 && t.Text == "" {
		t.Binary, t.Text = true, fmt.Sprintf("%x", data)
	}
	for _, form := range []string{"2006-01-02T15:04:05Z07", "2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05"} {
		if at, err := time.Parse(form, p.text("Timestamp")); err == nil {
			t.Time = at
			break
		}
	}
	return t
}

// validity is how long the network shall try (MMSmsValidityType and, of a relative one, minutes).
type validity struct {
	Type  uint32
	Value dbus.Variant
}

const mmRelative = 1

// isOpen reports whether an error of ModemManager's, or of the bus, leaves open what became of a message.
func isOpen(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && slices.ContainsFunc([]string{"Timeout", "Aborted", "Cancelled", "NoReply", "Disconnected", "UnknownObject", "ServiceUnknown", "Serial.SendFailed"},
		func(end string) bool { return strings.HasSuffix(e.Name, end) })
}

// send sends a message. A time-out, of ours or of ModemManager's, leaves open whether it went out; and so does any
// failure of a long one, whose first parts may have gone.
func (g *managed) send(ctx context.Context, number, text string, valid time.Duration) (SendResult, error) {
	parts, err := encode(number, text, "", valid, 0) // ModemManager makes its own
	if err != nil {
		return TextFailed, err
	}
	m, err := g.open(ctx)
	if err != nil {
		return TextFailed, err
	}
	defer m.close()
	modem, _, err := g.find(ctx, m)
	if err != nil {
		return TextFailed, err
	}
	var at dbus.ObjectPath
	wish := map[string]dbus.Variant{"number": dbus.MakeVariant(number), "text": dbus.MakeVariant(text)}
	if valid > 0 {
		wish["validity"] = dbus.MakeVariant(validity{mmRelative, dbus.MakeVariant(uint32(max(valid, 5*time.Minute) / time.Minute))})
	}
	if err := m.call(ctx, busTimeout, modem, mmMessaging+".Create", wish).Store(&at); err != nil {
		return TextFailed, fmt.Errorf("make a text message: %w", busReason(err))
	}
	defer func() { _ = m.call(context.WithoutCancel(ctx), busTimeout, modem, mmMessaging+".Delete", at).Err }()
	switch err := m.call(ctx, connectTimeout, at, mmSMS+".Send").Err; {
	case err == nil:
		return TextSent, nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, dbus.ErrClosed), isOpen(err), len(parts) > 1:
		return TextUnknown, fmt.Errorf("send a text message: %w", busReason(err))
	default:
		return TextFailed, fmt.Errorf("send a text message: %w", busReason(err))
	}
}
