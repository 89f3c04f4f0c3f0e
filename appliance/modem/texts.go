package modem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"
)

// Text is a message that came.
type Text struct {
	From    string    // +79160000000, or the name of a sender that has one; "" of a damaged message
	Numeric bool      // From is a number
	Time    time.Time // of the service centre (TP-SCTS)
	Text    string    // hexadecimal where Binary or Damaged
	Parts   int       // of so many it consists; those that did not come in time stand in Text as […]
	Class0  bool      // a message that phones show at once and do not keep, or not at all
	Binary  bool      // for a program: settings, WAP push
	Damaged string    // why it cannot be read
}

// textPart is what the text messages keep in a Modem. Its exported fields are set before Run.
type textPart struct {
	// Received gets each message and has it on disk when it returns; then the modem forgets it. nil: messages
	// are left alone.
	Received func(Text)
	SMSC     string // the service centre, where the SIM has none or a wrong one

	texts   TextStatus // guarded by Modem.mu
	sending chan struct{}
	ref     byte // of the last long message that was sent; owned by who holds sending
}

// receive hands over a message that came, whoever brought it. When it returns the message is on disk.
func (m *Modem) receive(t Text) {
	m.mu.Lock()
	m.texts.Received++
	if t.Damaged != "" {
		m.texts.Damaged++
	}
	m.mu.Unlock()
	if m.Received != nil {
		m.Received(t)
	}
}

// TextStatus is how sending and receiving goes.
type TextStatus struct {
	Why       string // one sentence why messages do not come or go
	Received  int    // since the start of the daemon
	Damaged   int    // of these, that could not be read
	Used, Of  int    // places of the store, as they were before it was emptied last
	Sent      int
	SendError string // of the last message, "" if that went out
}

// Texts is how text messages go.
func (m *Modem) Texts() TextStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.texts
}

const (
	pollTexts = time.Minute
	partsWait = 10 * time.Minute // for the rest of a long message
	// refill bounds the rounds in which a store that was full is emptied: the network holds messages back, and
	// hands them over as soon as there is room.
	refill = 50
)

// keepTexts receives text messages by an initialised session until ctx is done or the session ended. The
// session tells of each +CMTI by s.arrived. Whatever it says, the store is looked at each minute: modems forget
// to announce.
func (m *Modem) keepTexts(ctx context.Context, s *session) {
	if m.Received == nil {
		return
	}
	box := &mailbox{modem: m, session: s, sets: map[string]*set{}, stuck: map[string]bool{}}
	tick := time.NewTicker(pollTexts)
	defer tick.Stop()
	for {
		// Each time: a modem that restarted by itself, or was restarted, has forgotten it.
		err := box.prepare(ctx)
		if err == nil {
			err = box.empty(ctx)
		}
		if ctx.Err() == nil { // that we end is no reason
			m.textsAre(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.closed():
			return
		case <-s.arrived:
		case <-tick.C:
		}
	}
}

// textsAre notes how receiving went.
func (m *Modem) textsAre(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	why := ""
	if err != nil {
		why = err.Error()
	}
	if m.texts.Why != why && why != "" {
		m.log.Warn("text messages do not come", zap.String("err", why))
	}
	m.texts.Why = why
}

// mailbox is the modem's message store.
type mailbox struct {
	modem   *Modem
	session *session
	stores  []string        // "SM", "ME": where messages may be
	opened  string          // the one of them in which is read and deleted
	sets    map[string]*set // long messages that are not whole
	stuck   map[string]bool // messages that were received and cannot be deleted
}

// prepare has the modem store what comes and announce it. Never +CNMI=1,2: what is handed over at once must be
// acknowledged in time, or the modem stops receiving for good (3GPP TS 27.005, section 3.4.1; Siemens MC55, Nordic).
func (b *mailbox) prepare(ctx context.Context) error {
	if _, err := b.session.command(ctx, "+CMGF=0", "", shortAnswer); err != nil {
		return fmt.Errorf("set the modem to text messages in PDU mode: %w", err)
	}
	if len(b.stores) == 0 || b.stores[0] == "" { // one that is busy with its SIM names them later
		b.stores = b.findStores(ctx)
	}
	last := b.stores[len(b.stores)-1]
	for _, all := range []string{fmt.Sprintf(`+CPMS="%s","%[1]s","%[1]s"`, last), fmt.Sprintf(`+CPMS="%s"`, last)} {
		if _, err := b.session.command(ctx, all, "", longAnswer); err == nil || last == "" {
			break
		}
	}
	var err error
	for _, mode := range []string{"+CNMI=2,1,0,0,0", "+CNMI=1,1,0,0,0", "+CNMI=2,1"} { // some want it shorter, or not buffered
		if _, err = b.session.command(ctx, mode, "", shortAnswer); err == nil {
			return nil
		}
	}
	b.modem.log.Debug("the modem does not announce text messages; they are looked for each minute", zap.NamedError("err", err))
	return ctx.Err()
}

// findStores asks where messages may be stored: the SIM, where class 2 goes always, and the modem, which has
// more room and is the last.
func (b *mailbox) findStores(ctx context.Context) []string {
	lines, err := b.session.command(ctx, "+CPMS=?", "+CPMS", longAnswer)
	if err != nil || len(lines) == 0 {
		return []string{""} // what it has is used
	}
	first, _, _ := strings.Cut(lines[0], ")") // the first of three lists is that of reading
	var list []string
	for _, name := range []string{"SM", "ME"} {
		if strings.Contains(first, `"`+name+`"`) {
			list = append(list, name)
		}
	}
	if list == nil {
		return []string{""}
	}
	return list
}

// empty receives and deletes what is in the stores, until nothing more comes. A store, or a message, that makes
// difficulties keeps nothing else back.
func (b *mailbox) empty(ctx context.Context) (failed error) {
	for range refill {
		full := false
		failed = nil
		for _, store := range b.stores {
			more, err := b.emptyStore(ctx, store)
			if err != nil && isUnknown(err) {
				return err
			}
			failed = errors.Join(failed, err)
			full = full || more
		}
		if !full {
			break
		}
	}
	return failed
}

// emptyStore reports whether the store was full, and has room now.
func (b *mailbox) emptyStore(ctx context.Context, store string) (full bool, err error) {
	used, of, err := b.open(ctx, store)
	if err != nil {
		return false, err
	}
	list, err := b.read(ctx, of)
	if err != nil {
		return false, fmt.Errorf("list the text messages: %w", err)
	}
	used = max(used, len(list))
	b.modem.storeIs(used, of)
	full = of > 0 && used >= of
	deleted := 0
	for _, l := range b.sort(list, store, full || 2*used > of) {
		n, stays := b.settle(ctx, l)
		if stays != nil && isUnknown(stays) {
			return false, stays
		}
		err = cmp.Or(err, stays)
		deleted += n
	}
	return full && deleted > 0, err
}

func (m *Modem) storeIs(used, of int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts.Used, m.texts.Of = used, of
}

// delivery is what is done with letters: received as one text, or only deleted.
type delivery struct {
	text    *Text
	letters []letter
}

// sort turns what is in a store into what is to be done, the oldest first. In one that fills up nothing is left
// lying: neither the parts of a long message, nor what a phone once stored on the SIM.
func (b *mailbox) sort(list []letter, store string, pressed bool) (todo []delivery) {
	for _, s := range b.sets {
		s.unplace(store)
	}
	for _, l := range list {
		l.store = store
		switch t, part, err := decode(l.pdu); {
		case l.status > 1: // ours, from another life of the SIM
			if pressed {
				todo = append(todo, delivery{nil, []letter{l}})
			}
		case errors.Is(err, errNoMessage):
			todo = append(todo, delivery{nil, []letter{l}})
		case err != nil:
			todo = append(todo, delivery{&Text{Text: l.pdu, Damaged: err.Error()}, []letter{l}})
		case part.of > 1:
			todo = append(todo, b.collect(l, t, part)...)
		default:
			todo = append(todo, delivery{t, []letter{l}})
		}
	}
	todo = append(todo, b.expire(pressed)...)
	slices.SortStableFunc(todo, func(x, y delivery) int { return x.time().Compare(y.time()) })
	return todo
}

// time is when a delivery was sent; what has no time goes first.
func (d delivery) time() (t time.Time) {
	if d.text != nil {
		t = d.text.Time
	}
	return t
}

// settle receives a text and deletes it from the store, and returns how many places that freed.
func (b *mailbox) settle(ctx context.Context, d delivery) (freed int, err error) {
	if d.text != nil && !b.allStuck(d.letters) {
		b.modem.receive(*d.text)
	}
	for _, l := range d.letters {
		failed := b.delete(ctx, l)
		if failed != nil && !isEmptyPlace(failed) {
			b.remember(l)
			err = cmp.Or(err, fmt.Errorf("delete a text message: %w: when the store is full nothing comes any more", failed))
			if isUnknown(failed) {
				return freed, err
			}
			continue // the rest of a long message must not be taken for another one
		}
		delete(b.stuck, l.key())
		freed++
	}
	return freed, err
}

// isEmptyPlace reports whether there is nothing to be deleted any more (3GPP TS 27.005, section 3.2.5: invalid memory index).
func isEmptyPlace(err error) bool {
	var cms at.CMSError
	return errors.As(err, &cms) && cms == "321"
}

// key has no store: some modems show the same one under two names.
func (l letter) key() string { return fmt.Sprintf("%d %s", l.index, l.pdu) }

// remember notes a message that was received and stays in the store, so that it is not received each minute.
func (b *mailbox) remember(l letter) {
	if len(b.stuck) >= maxLetters {
		clear(b.stuck)
	}
	b.stuck[l.key()] = true
}

func (b *mailbox) allStuck(list []letter) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(l letter) bool { return !b.stuck[l.key()] })
}
