package modem

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warthog618/modem/at"
	"github.com/warthog618/sms"
	"github.com/warthog618/sms/encoding/pdumode"
	"github.com/warthog618/sms/encoding/tpdu"
)

// SendResult is what became of a message that was to be sent.
type SendResult string

// The results.
const (
	TextSent    SendResult = "sent"    // the network took all of it
	TextFailed  SendResult = "failed"  // it did not
	TextUnknown SendResult = "unknown" // nobody can say; who sends it again may have sent it twice
)

const (
	sendAnswer  = 120 * time.Second // a modem says within it whether the network took a message
	partRetries = 2
	partPause   = 5 * time.Second
	maxSent     = 10 // parts of one message
)

// Send sends a text message, in parts where it is long, in the default alphabet where that has all its
// characters. The network tries for valid to hand it over (0: for as long as it likes); it knows no less than
// 5 minutes. An error is why it is not sent, or nobody knows. One message is sent at a time.
func (m *Modem) Send(ctx context.Context, number, text string, valid time.Duration) (SendResult, error) {
	select {
	case m.turns() <- struct{}{}:
	case <-ctx.Done():
		return TextFailed, fmt.Errorf("send a text message: another one is being sent: %w", ctx.Err())
	}
	defer func() { <-m.turns() }()
	var result SendResult
	var err error
	if g := m.owner(); g != nil {
		result, err = g.send(ctx, number, text, valid)
	} else {
		result, err = m.sendParts(ctx, number, text, valid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts.SendError = ""
	if err != nil {
		err = fmt.Errorf("send a text message: %w", err)
		m.texts.SendError = err.Error()
	} else {
		m.texts.Sent++
	}
	return result, err
}

// owner is ModemManager where that has the modem; else nil.
func (m *Modem) owner() *managed {
	if m.prepareData() != nil || m.data == nil {
		return nil
	}
	g, _ := m.data.driver.(*managed)
	return g
}

// turns has one place: for who is sending.
func (m *Modem) turns() chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sending == nil {
		m.sending = make(chan struct{}, 1)
	}
	return m.sending
}

// sendParts sends all parts. One of which nobody knows does not keep the others back: it may have gone. Where one
// is refused the message is unknown if others have gone: who sent it again would pay for those again and again.
func (m *Modem) sendParts(ctx context.Context, number, text string, valid time.Duration) (SendResult, error) {
	m.ref++
	list, err := encode(number, text, m.SMSC, valid, m.ref)
	if err != nil {
		return TextFailed, err
	}
	s, err := m.session()
	if err != nil {
		return TextFailed, err
	}
	if _, err := s.command(ctx, "+CMGF=0", "", shortAnswer); err != nil {
		return TextFailed, err
	}
	result := TextSent
	var doubt error
	for i, p := range list {
		r, err := sendPart(ctx, s, p, len(list) > 1)
		if err != nil && len(list) > 1 {
			err = fmt.Errorf("part %d of %d: %w", i+1, len(list), err)
		}
		switch {
		case r == TextFailed && i > 0:
			return TextUnknown, err
		case r == TextFailed:
			return TextFailed, err
		case r == TextUnknown:
			result, doubt = TextUnknown, err
		}
	}
	return result, doubt
}

// outgoing is a message as +CMGS wants it.
type outgoing struct {
	length int // without the service centre's address
	pdu    string
}

// sendPart sends one part. Of a long message it is tried anew where the network says no: the parts before it
// are paid.
func sendPart(ctx context.Context, s *session, p outgoing, long bool) (SendResult, error) {
	for try := 0; ; try++ {
		_, err := s.prompt(ctx, fmt.Sprintf("+CMGS=%d", p.length), p.pdu, "+CMGS", sendAnswer)
		switch {
		case err == nil:
			return TextSent, nil
		case isUnknown(err) || isCMS(err, "332"):
			return TextUnknown, explained(err)
		case !long || try == partRetries || ctx.Err() != nil:
			return TextFailed, explained(err)
		}
		select {
		case <-time.After(partPause):
		case <-ctx.Done():
		}
	}
}

// encode makes the messages of a text.
func encode(number, text, smsc string, valid time.Duration, ref byte) (list []outgoing, err error) {
	to, err := address(number)
	if err != nil {
		return nil, err
	}
	var centre pdumode.SMSCAddress
	if smsc != "" {
		if centre.Address, err = address(smsc); err != nil {
			return nil, fmt.Errorf("the service centre: %w", err)
		}
	}
	text = strings.ToValidUTF8(text, "?")
	if text == "" {
		return nil, errors.New("it is empty")
	}
	t, err := tpdu.NewSubmit(tpdu.WithDA(to))
	if err != nil {
		return nil, err
	}
	if valid > 0 {
		vp := tpdu.ValidityPeriod{}
		vp.SetRelative(max(valid, 5*time.Minute))
		t.SetVP(vp)
	}
	e := sms.NewEncoder(sms.WithTemplate(*t))
	e.ConcatRef = fixed(ref)
	parts, err := e.Encode([]byte(text))
	if err != nil {
		return nil, err
	}
	if len(parts) > maxSent {
		return nil, fmt.Errorf("it would be %d messages, more than %d", len(parts), maxSent)
	}
	for _, p := range parts {
		raw, err := p.MarshalBinary()
		if err != nil {
			return nil, err
		}
		whole := pdumode.PDU{SMSC: centre, TPDU: raw}
		b, err := whole.MarshalBinary()
		if err != nil {
			return nil, err
		}
		list = append(list, outgoing{len(raw), strings.ToUpper(hex.EncodeToString(b))})
	}
	return list, nil
}

// fixed is a counter that stands.
type fixed byte

// Count is that of tpdu.Counter.
func (f fixed) Count() int { return int(f) }

// address is a number for the network: international with its plus sign, else as it is dialled (3GPP TS 23.040,
// section 9.1.2.5): the short numbers of operators are no others.
func address(number string) (tpdu.Address, error) {
	digits, international := strings.CutPrefix(number, "+")
	if digits == "" || len(digits) > 20 || strings.Trim(digits, "0123456789") != "" {
		return tpdu.Address{}, fmt.Errorf("%q is no number: write it as +79160000000", number)
	}
	a := tpdu.NewAddress()
	a.Addr = digits
	a.SetNumberingPlan(tpdu.NpISDN)
	if international {
		a.SetTypeOfNumber(tpdu.TonInternational)
	}
	return a, nil
}

func isCMS(err error, code string) bool {
	var cms at.CMSError
	return errors.As(err, &cms) && strings.TrimSpace(string(cms)) == code
}

// reasons are what a network or modem means by its numbers (3GPP TS 27.005, section 3.2.5; 3GPP TS 24.011, annex E-2).
var reasons = map[string]string{
	"8": "the operator bars it: is there money on the SIM?", "10": "the operator bars calls: is there money on the SIM?",
	"21": "the network rejects it: is there money on the SIM, and are text messages in its tariff?", "1": "there is no such number",
	"28": "the number is of nobody", "29": "the operator does not let this SIM send", "30": "the operator does not know this SIM", "38": "the network is out of order",
	"41": "the network fails at the moment", "42": "the network is congested", "47": "the network has no resources", "50": "text messages are not in the SIM's tariff",
	"69": "the network has no text messages", "310": "there is no SIM", "311": "the SIM wants its PIN", "322": "the store is full",
	"330": "the SIM has no service centre: name it in the file of the site", "331": "there is no network", "332": "the network did not answer in time",
}

// explained puts a reason before the modem's number.
func explained(err error) error {
	var cms at.CMSError
	if !errors.As(err, &cms) {
		return err
	}
	if why := reasons[strings.TrimSpace(string(cms))]; why != "" {
		return fmt.Errorf("%s (%w)", why, err)
	}
	return err
}
