package modem

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warthog618/sms"
	"github.com/warthog618/sms/encoding/tpdu"

	"rescuebox/appliance/modem/modemtest"
)

const correspondent = "+79160000000"

// inbox is who gets the messages.
type inbox struct {
	mu   sync.Mutex
	list []Text
}

func (b *inbox) take(t Text) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, t)
}

func (b *inbox) texts() (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.list {
		list = append(list, t.Text)
	}
	return list
}

func (b *inbox) all() []Text {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

// receiving is a modem on the fake whose messages come into an inbox.
func receiving(t *testing.T, fake *modemtest.Modem) (*Modem, *inbox) {
	t.Helper()
	b := &inbox{}
	m, _ := start(t, fake, func(m *Modem) { m.Received = b.take })
	return m, b
}

func deliver(t *testing.T, fake *modemtest.Modem, text string) {
	t.Helper()
	if err := fake.Deliver(correspondent, text); err != nil {
		t.Fatal(err)
	}
}

// wait waits until so many messages came and the store is empty.
func (b *inbox) wait(t *testing.T, fake *modemtest.Modem, n int) []Text {
	t.Helper()
	fake.Wait(t, fmt.Sprintf("%d messages", n), func() bool { return len(b.texts()) >= n && fake.Stored() == 0 })
	return b.all()
}

func TestReceive(t *testing.T) {
	fake := modemtest.Start(t)
	deliver(t, fake, "was there before us")
	m, b := receiving(t, fake)
	b.wait(t, fake, 1)
	long := strings.Repeat("Сервер не отвечает. ", 12) + "🙂"
	deliver(t, fake, "status 12345678")
	deliver(t, fake, "Привет")
	deliver(t, fake, long)
	deliver(t, fake, strings.Repeat("0123456789€", 40))
	got := b.wait(t, fake, 5)
	for i, want := range []Text{{Text: "was there before us", Parts: 1}, {Text: "status 12345678", Parts: 1}, {Text: "Привет", Parts: 1},
		{Text: long, Parts: 4}, {Text: strings.Repeat("0123456789€", 40), Parts: 4}} {
		if got[i].Text != want.Text || got[i].Parts != want.Parts || got[i].From != correspondent || !got[i].Numeric || got[i].Class0 || got[i].Binary ||
			got[i].Damaged != "" || time.Since(got[i].Time) > time.Hour {
			t.Errorf("got %+v, want %+v", got[i], want)
		}
	}
	if s := m.Texts(); s.Received != 5 || s.Damaged != 0 || s.Why != "" || s.Of != fake.Capacity {
		t.Errorf("%+v", s)
	}
	if n := fake.Count("AT+CNMI=1,2") + fake.Count("AT+CNMA"); n != 0 {
		t.Errorf("messages are to be handed over at once, %d times", n)
	}
}

// A modem that shows one store under two names: a part of a long message stays in it until the message is whole, and
// nothing is deleted twice.
func TestPartUnderTwoNames(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, b := receiving(t, fake)
	fake.Wait(t, "the modem's first list", func() bool { return fake.Count("+CMGL") >= 2 })
	parts, err := sms.Encode([]byte(strings.Repeat("0123456789", 20)), sms.AsDeliver, sms.From(correspondent))
	if err != nil || len(parts) != 2 {
		t.Fatal(parts, err)
	}
	for i := range parts {
		parts[i].SCTS = tpdu.Timestamp{Time: time.Now()}
	}
	before := fake.Count("+CMGL")
	if err := fake.DeliverTPDU(parts[0]); err != nil {
		t.Fatal(err)
	}
	fake.Wait(t, "both names", func() bool { return fake.Count("+CMGL") >= before+2 })
	before = fake.Count("+CMGL")
	fake.URC(`+CMTI: "SM",1`) // the end of the first look
	fake.Wait(t, "both names again", func() bool { return fake.Count("+CMGL") >= before+2 })
	if n := fake.Stored(); n != 1 {
		t.Errorf("%d parts are in the modem while the message is not whole", n)
	}
	if err := fake.DeliverTPDU(parts[1]); err != nil {
		t.Fatal(err)
	}
	b.wait(t, fake, 1)
	fake.Wait(t, "an end without a complaint", func() bool { return m.Texts().Why == "" })
	if n := fake.Count("+CMGD"); n != 2 {
		t.Errorf("%d deletions of two parts", n)
	}
}

// A message is in the modem's store as long as it is not in ours.
func TestStoreFirst(t *testing.T) {
	fake := modemtest.Start(t)
	b := &inbox{}
	stored := make(chan int, 10)
	start(t, fake, func(m *Modem) {
		m.Received = func(text Text) {
			stored <- fake.Stored()
			b.take(text)
		}
	})
	deliver(t, fake, "status")
	b.wait(t, fake, 1)
	if n := <-stored; n != 1 {
		t.Errorf("while it was received, %d messages were in the modem", n)
	}
}

// deliverTPDU is one message with what Deliver cannot make.
func deliverTPDU(t *testing.T, fake *modemtest.Modem, text string, change func(*tpdu.TPDU)) {
	t.Helper()
	list, err := sms.Encode([]byte(text), sms.AsDeliver, sms.From(correspondent))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	p := list[0]
	p.SCTS = tpdu.Timestamp{Time: time.Now()}
	change(&p)
	if err := fake.DeliverTPDU(p); err != nil {
		t.Fatal(err)
	}
}

func TestReceiveOddities(t *testing.T) {
	fake := modemtest.Start(t)
	_, b := receiving(t, fake)
	fake.Wait(t, "its store to be read", func() bool { return fake.Count("AT+CMGL=4") > 0 || fake.Count("+CMGL=4") > 0 })
	for i, c := range []struct {
		change func(*tpdu.TPDU)
		is     func(Text) bool
	}{
		{func(p *tpdu.TPDU) { p.OA = tpdu.Address{TOA: 0xd0, Addr: "Beeline"} }, func(t Text) bool { return t.From == "Beeline" && !t.Numeric }},
		{func(p *tpdu.TPDU) { p.OA = tpdu.Address{TOA: 0xd0, Addr: correspondent[1:]} }, func(t Text) bool { return !t.Numeric }},
		{func(p *tpdu.TPDU) { p.OA = tpdu.Address{TOA: 0x81, Addr: "111"} }, func(t Text) bool { return t.From == "111" && t.Numeric }},
		{func(p *tpdu.TPDU) { p.SetDCS(0x10) }, func(t Text) bool { return t.Class0 }},
		{func(p *tpdu.TPDU) { p.SetPID(0x40) }, func(t Text) bool { return t.Class0 }},
		{func(p *tpdu.TPDU) { p.SetDCS(0x04); p.SetUD([]byte{0xde, 0xad}) }, func(t Text) bool { return t.Binary && t.Text == "dead" }},
		{func(p *tpdu.TPDU) {
			p.SetUDH(tpdu.UserDataHeader{{ID: 5, Data: []byte{0x0b, 0x84, 0, 0}}})
			p.SetDCS(0x04)
			p.SetUD([]byte{1})
		}, func(t Text) bool { return t.Binary }},
		{func(p *tpdu.TPDU) { p.SetDCS(0x08); p.SetUD([]byte{0xd8, 0x3d, 0, 'a'}) }, func(t Text) bool { return t.Text == "\ufffda" && t.Damaged == "" }},
		{func(p *tpdu.TPDU) { p.SetUDH(tpdu.UserDataHeader{{ID: 0, Data: []byte{7, 3, 9}}}) }, func(t Text) bool { return t.Parts == 1 && t.Text == "hello" }},
		{func(p *tpdu.TPDU) { p.SetUD(nil) }, func(t Text) bool { return t.Text == "" && t.Damaged == "" }},
	} {
		deliverTPDU(t, fake, "hello", c.change)
		got := b.wait(t, fake, i+1)
		if !c.is(got[i]) {
			t.Errorf("case %d: got %+v", i, got[i])
		}
	}
}

func TestReceiveDamaged(t *testing.T) {
	fake := modemtest.Start(t)
	m, b := receiving(t, fake)
	bad := []string{"00", "0004", "0791", "00FFFFFFFF", "00040B919761000000F00000"}
	for _, pdu := range bad {
		raw, err := hex.DecodeString(pdu)
		if err != nil {
			t.Fatal(err)
		}
		fake.DeliverPDU(raw)
	}
	report, _ := hex.DecodeString("00060B0B919761000000F062112321000021621123210000210000"[:54])
	fake.DeliverPDU(report)
	deliver(t, fake, "after them")
	got := b.wait(t, fake, len(bad)+1)
	seen := map[string]bool{}
	for _, text := range got {
		if text.Damaged != "" {
			seen[text.Text] = true
		}
	}
	for _, pdu := range bad {
		if !seen[pdu] {
			t.Errorf("%s is not kept: %+v", pdu, got)
		}
	}
	if s := m.Texts(); s.Damaged < len(bad) || s.Why != "" {
		t.Errorf("%+v", s)
	}
}

// long makes the parts of a message.
func long(t *testing.T, from, text string, ref byte) []tpdu.TPDU {
	t.Helper()
	e := sms.NewEncoder(sms.AsDeliver, sms.From(from))
	e.ConcatRef = fixed(ref)
	list, err := e.Encode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].SCTS = tpdu.Timestamp{Time: time.Now()}
	}
	return list
}

// Parts come in any order, twice, and mixed with those of others.
func TestReceiveParts(t *testing.T) {
	fake := modemtest.Start(t)
	_, b := receiving(t, fake)
	one, two := strings.Repeat("one ", 100), strings.Repeat("two ", 100)
	x, y := long(t, correspondent, one, 7), long(t, "+79160000002", two, 7)
	for _, p := range []tpdu.TPDU{x[2], x[2], y[1], x[0], y[0], x[0], y[2], x[1]} {
		if err := fake.DeliverTPDU(p); err != nil {
			t.Fatal(err)
		}
	}
	got := b.wait(t, fake, 2)
	texts := []string{got[0].Text, got[1].Text}
	slices.Sort(texts)
	if len(got) != 2 || texts[0] != one || texts[1] != two || got[0].Parts != 3 {
		t.Errorf("got %+v", got)
	}
}

// What is not whole after 10 minutes is handed over with its gaps; many such do not fill the store, nor memory.
func TestPartsThatDoNotCome(t *testing.T) {
	b := &mailbox{sets: map[string]*set{}, stuck: map[string]bool{}}
	list := long(t, correspondent, strings.Repeat("0123456789", 60), 1)
	letters := func(parts ...tpdu.TPDU) (l []letter) {
		for i, p := range parts {
			raw, err := p.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			l = append(l, letter{index: i + 1, pdu: "00" + hex.EncodeToString(raw)})
		}
		return l
	}
	in := letters(list[1], list[3])
	if todo := b.sort(in, "SM", false); len(todo) != 0 {
		t.Errorf("at first: %+v", todo)
	}
	if todo := b.sort(in, "SM", false); len(todo) != 0 { // listed again
		t.Errorf("again: %+v", todo)
	}
	todo := b.sort(in, "SM", true) // the store fills up
	if len(todo) != 2 || todo[0].text != nil || todo[1].text != nil {
		t.Errorf("full: %+v", todo)
	}
	for _, s := range b.sets {
		s.since = s.since.Add(-partsWait - time.Second)
	}
	todo = b.sort(nil, "SM", false)
	if len(todo) != 1 || len(todo[0].letters) != 0 {
		t.Fatalf("too late: %+v", todo)
	}
	text := todo[0].text
	if want := "[…]" + strings.Repeat("0123456789", 60)[153:306] + "[…]" + strings.Repeat("0123456789", 60)[459:]; text.Text != want || text.Parts != 4 {
		t.Errorf("%d parts: %q, want %q", text.Parts, text.Text, want)
	}
	if len(b.sets) != 0 {
		t.Errorf("%d sets are left", len(b.sets))
	}
	handed := 0
	for i := range 1000 {
		forged := long(t, fmt.Sprintf("+7916%07d", i), strings.Repeat("x", 161), byte(i))
		handed += len(b.sort(letters(forged[0]), "SM", true))
	}
	if len(b.sets) > maxPieces+1 || handed < 1000 {
		t.Errorf("%d sets of forged parts, %d handed over or deleted", len(b.sets), handed)
	}
}

// A store that is full is emptied, and what the network held back comes, though the modem announces nothing.
func TestFullStore(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Fault("AT+CNMI", modemtest.Answer{Result: "ERROR"})
	fake.Fault("+CNMI", modemtest.Answer{Result: "ERROR"})
	for i := range 95 {
		deliver(t, fake, fmt.Sprint(i))
	}
	_, b := receiving(t, fake)
	fake.Wait(t, "all messages", func() bool { return len(b.texts()) == 95 && fake.Stored() == 0 && fake.Waiting() == 0 })
}

// Modems that list only by the word, or not at all.
func TestListOddities(t *testing.T) {
	for name, spoil := range map[string]func(*modemtest.Modem){
		"by word":   func(m *modemtest.Modem) { refuse(m, "+CMGL=4", "+CMS ERROR: 303") },
		"by hand":   func(m *modemtest.Modem) { refuse(m, "+CMGL", "+CMS ERROR: 303") },
		"no stores": func(m *modemtest.Modem) { refuse(m, "+CPMS", "+CMS ERROR: 303") },
	} {
		t.Run(name, func(t *testing.T) {
			fake := modemtest.Start(t)
			spoil(fake)
			deliver(t, fake, "one")
			deliver(t, fake, "two")
			m, b := receiving(t, fake)
			b.wait(t, fake, 2)
			deliver(t, fake, "three")
			if got := b.wait(t, fake, 3); got[2].Text != "three" {
				t.Errorf("got %+v", got)
			}
			if s := m.Texts(); s.Why != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func refuse(m *modemtest.Modem, cmd, result string) {
	for _, at := range []string{"", "AT"} {
		m.Fault(at+cmd, modemtest.Answer{Lines: []string{}, Result: result})
	}
}

// The parts of a long message may lie in two stores: each is deleted where it lies, and not what is in the other one at its
// place. A modem that was busy with its SIM when it was asked for its stores is asked again.
func TestTwoStores(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Apart = true
	fake.Fault("+CPMS=?", modemtest.Answer{Lines: []string{}, Result: "+CMS ERROR: 314", Times: 1})
	parts := long(t, correspondent, strings.Repeat("0123456789", 20), 7)
	deliverPart := func(i int) {
		t.Helper()
		if err := fake.DeliverTPDU(parts[i]); err != nil {
			t.Fatal(err)
		}
	}
	deliverPart(0) // on the SIM, where the modem stores until it is told another place
	_, b := receiving(t, fake)
	fake.Wait(t, "the first look", func() bool { return fake.Count("+CMGL") >= 1 })
	fake.URC(`+CMTI: "SM",1`)
	fake.Wait(t, "the other store", func() bool { return fake.Count(`+CPMS="SM"`) >= 1 }) // what comes goes to ME by then
	deliverPart(1)
	b.wait(t, fake, 1)
	if got := b.all(); got[0].Parts != 2 || len(got[0].Text) != 200 {
		t.Errorf("got %+v", got)
	}
}

// Why messages do not come is the modem's reason, and not that the session was ended.
func TestEndIsNoReason(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Fault("+CMGL", modemtest.Answer{Delay: 3 * time.Second})
	b := &inbox{}
	m, stop := start(t, fake, func(m *Modem) { m.Received = b.take })
	fake.Wait(t, "a look", func() bool { return fake.Count("+CMGL") > 0 })
	stop()
	if why := m.Texts().Why; why != "" {
		t.Errorf("messages do not come: %s", why)
	}
}

// A message that cannot be deleted is received once, and it is said why no more will come.
func TestUndeletable(t *testing.T) {
	fake := modemtest.Start(t)
	refuse(fake, "+CMGD", "+CMS ERROR: 500")
	deliver(t, fake, "stays")
	m, b := receiving(t, fake)
	fake.Wait(t, "the reason", func() bool { return strings.Contains(m.Texts().Why, "store is full") })
	deliver(t, fake, "second")
	fake.Wait(t, "the second", func() bool { return len(b.texts()) == 2 })
	if got := b.texts(); got[0] != "stays" || got[1] != "second" {
		t.Errorf("got %q", got)
	}
	fake.Heal("")
	deliver(t, fake, "third")
	b.wait(t, fake, 3)
	if got := b.texts(); len(got) != 3 {
		t.Errorf("got %q", got)
	}
	fake.Wait(t, "that all is well", func() bool { return m.Texts().Why == "" })
}

// 2,000 messages in a burst: each is received once, and in the end the store is empty.
func TestBurst(t *testing.T) {
	fake := modemtest.Start(t)
	_, b := receiving(t, fake)
	began := time.Now()
	const many = 2000
	for i := range many {
		deliver(t, fake, fmt.Sprintf("power srv01 off %08d", i))
	}
	fake.Wait(t, "all of them", func() bool { return len(b.texts()) >= many && fake.Stored() == 0 && fake.Waiting() == 0 })
	seen := map[string]bool{}
	for _, text := range b.texts() {
		if seen[text] {
			t.Errorf("%q came twice", text)
		}
		seen[text] = true
	}
	t.Logf("%d messages in %v", many, time.Since(began))
}

func TestSend(t *testing.T) {
	fake := modemtest.Start(t)
	m, _ := receiving(t, fake)
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	for i, text := range []string{"#01#0#", "Сервер не отвечает", strings.Repeat("0123456789", 40), strings.Repeat("Сервер не отвечает. ", 10), "a\nb €[]{}~|^\\ @£$¥"} {
		result, err := m.Send(t.Context(), correspondent, text, 5*time.Minute)
		if err != nil || result != TextSent {
			t.Fatalf("%q: %s, %v", text, result, err)
		}
		got := fake.Sent()
		if len(got) != i+1 || got[i].Text != text || got[i].Number != correspondent {
			t.Errorf("the network has %+v, want %q", got, text)
		}
	}
	if parts := fake.Sent()[2].Parts; parts != 3 {
		t.Errorf("400 characters are %d parts", parts)
	}
	if s := m.Texts(); s.Sent != 5 || s.SendError != "" {
		t.Errorf("%+v", s)
	}
	for _, number := range []string{"", "+", "8 916", "+7916000000000000000000", "#01#", "+7;AT"} {
		if result, err := m.Send(t.Context(), number, "hello", 0); result != TextFailed || err == nil {
			t.Errorf("%q: %s, %v", number, result, err)
		}
	}
	if result, err := m.Send(t.Context(), "111", "balance", 0); result != TextSent || fake.Sent()[5].Number != "111" {
		t.Errorf("a short number: %s, %v, %+v", result, err, fake.Sent()[5])
	}
}

// What was certainly not sent failed; where the answer does not come it is unknown, and sent once.
func TestSendFaults(t *testing.T) {
	fake := modemtest.Start(t)
	m, _ := receiving(t, fake)
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	send := func(want SendResult, why string) {
		t.Helper()
		result, err := m.Send(t.Context(), correspondent, "hello", 0)
		if result != want || err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s, %v; want %s, %q", result, err, want, why)
		}
	}
	refuse(fake, "+CMGS", "+CMS ERROR: 21")
	send(TextFailed, "is there money on the SIM")
	fake.Heal("")
	refuse(fake, "+CMGS", "+CMS ERROR: 332")
	send(TextUnknown, "did not answer in time")
	fake.Heal("")
	fake.Register(modemtest.Searching, 7)
	send(TextFailed, "")
	fake.Register(modemtest.Home, 7)
	fake.Unplug()
	fake.Wait(t, "the loss to be seen", func() bool { _, err := m.session(); return err != nil })
	send(TextFailed, "")
	if n := len(fake.Sent()); n != 0 {
		t.Errorf("%d were sent", n)
	}
}

// The modem vanishes after the network took the message and before it said so: unknown, and sent once.
func TestSendUnknown(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := receiving(t, fake)
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	answer := held(t, fake, "+CMGS PDU")
	type outcome struct {
		result SendResult
		err    error
	}
	done := make(chan outcome)
	go func() {
		result, err := m.Send(t.Context(), correspondent, "hello", 0)
		done <- outcome{result, err}
	}()
	fake.Wait(t, "the network to have it", func() bool { return len(fake.Sent()) == 1 })
	fake.Unplug()
	if o := <-done; o.result != TextUnknown || o.err == nil {
		t.Errorf("%s, %v", o.result, o.err)
	}
	answer()
	if err := fake.Plug(); err != nil {
		t.Fatal(err)
	}
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	fake.Wait(t, "a message after it", func() bool {
		result, err := m.Send(t.Context(), correspondent, "second", 0)
		return err == nil && result == TextSent
	})
	if sent := fake.Sent(); len(sent) != 2 || sent[1].Text != "second" {
		t.Errorf("the network has %+v", sent)
	}
}

// A part of a long message that the network refuses is tried anew; the others are not sent twice.
func TestSendPartRefused(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := receiving(t, fake)
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	text := strings.Repeat("0123456789", 40)
	fake.Fault("+CMGS=", modemtest.Answer{Lines: []string{}, Result: "+CMS ERROR: 42", Times: 1})
	if result, err := m.Send(t.Context(), correspondent, text, 0); result != TextSent || err != nil {
		t.Errorf("%s, %v", result, err)
	}
	if sent := fake.Sent(); len(sent) != 1 || sent[0].Text != text || sent[0].Parts != 3 {
		t.Errorf("the network has %+v", sent)
	}
}

// A long message of which a part is refused, and others have gone, is not said to have failed: it would be sent, and
// paid, again and again.
func TestSendPartRefusedForGood(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := receiving(t, fake)
	until(t, m, "registration", func(s Status) bool { return s.State == Registered })
	text := strings.Repeat("0123456789", 40)
	refuse(fake, "+CMGS=", "+CMS ERROR: 21")
	fake.Fault("+CMGS=", modemtest.Answer{Times: 1}) // but for the first
	if result, err := m.Send(t.Context(), correspondent, text, 0); result != TextUnknown || err == nil || !strings.Contains(err.Error(), "part 2 of 3") {
		t.Errorf("%s, %v", result, err)
	}
}

// The service centre of the file goes with the message, and does not change the SIM.
func TestServiceCentre(t *testing.T) {
	list, err := encode(correspondent, "hello", "+79160000999", 24*time.Hour, 1)
	if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].pdu, "07919761000099F9") || list[0].length*2 != len(list[0].pdu)-16 {
		t.Fatalf("%+v, %v", list, err)
	}
	raw, err := hex.DecodeString(list[0].pdu[16:])
	if err != nil {
		t.Fatal(err)
	}
	p, err := sms.Unmarshal(raw, sms.AsMO)
	if err != nil || p.VP.Format != tpdu.VpfRelative || p.VP.Duration != 24*time.Hour || p.DA.Number() != correspondent {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := encode(correspondent, "hello", "centre", 0, 1); err == nil {
		t.Error("a service centre that is no number is taken")
	}
	if _, err := encode(correspondent, strings.Repeat("ж", 671), "", 0, 1); err == nil {
		t.Error("eleven parts are taken")
	}
	if _, err := encode(correspondent, "", "", 0, 1); err == nil {
		t.Error("nothing is taken for a message")
	}
}

// The first messages of a process may be of many at once.
func TestFirstMessagesAtOnce(t *testing.T) {
	const mark = "RESCUEBOX_TEST_FRESH"
	if os.Getenv(mark) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestFirstMessagesAtOnce$", "-test.count=1")
		cmd.Env = append(os.Environ(), mark+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := encode(correspondent, "10 €", "", 0, 1); err != nil {
				t.Error(err)
			}
			if text, _, err := decode("07919761000099F9040B919761000000F000006211232100002105E8329BFD06"); err != nil || text.Text != "hello" {
				t.Errorf("%+v, %v", text, err)
			}
		})
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"00", "07919761000099F9040B919761000000F000006211232100002105E8329BFD06", "0004", "00060B0B9197"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pdu string) {
		text, part, err := decode(pdu)
		if err == nil && (text == nil || part.of > 1 && (part.no < 1 || part.no > part.of)) {
			t.Errorf("%q is %+v, %+v", pdu, text, part)
		}
		b := &mailbox{sets: map[string]*set{}, stuck: map[string]bool{}}
		for range 2 {
			b.sort([]letter{{index: 1, pdu: pdu}, {index: 2, status: 1, pdu: pdu}}, "SM", true)
		}
		for _, s := range b.sets {
			s.join()
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("1,0,,23", "0004")
	f.Add(`-1,"REC UNREAD",`, "")
	f.Fuzz(func(t *testing.T, header, pdu string) {
		for _, l := range lettersOf([]entry{{header, pdu}}) {
			if l.index < 0 {
				t.Errorf("%q is place %d", header, l.index)
			}
		}
	})
}
