// Package text is the desk at which text messages are decided: who may order what by them,
// and what the box itself may say at which price.
//
// # Who is believed
//
// A sender's number is no authentication: it is forged at will (arXiv 2310.11052). A command
// counts when all of this holds, asked in this order, the cheap before the dear:
//
//  1. its sender is a number of the file, told by the network as a number, with its country or without;
//     a name ("Beeline") never is. Everybody else gets silence.
//  2. it is one plain message: no parts, no class 0, no binary.
//  3. it was not seen before.
//  4. it ends (or begins) with the next code of the number's HOTP (RFC 4226, SHA-256, 8 digits),
//     or one of the 20 after it. The counter is on disk before anything is done, so a code counts once,
//     whatever is unplugged at whichever moment.
//  5. the number may order that.
//
// Five wrong codes within an hour, of one number or of all, and a single code opens nothing more
// for the rest of it. Two codes in a row in one message do, always (the resynchronisation of RFC 4226
// section 7.4): nobody guesses those, so that whoever forges a number cannot lock its owner out either.
//
// # Two steps
//
//	                                   clock is right     clock is not set
//	status, ticket, help               at once            at once
//	link, vpn up, reset modem          at once            at once
//	boot, power on                     at once            asked back
//	boot where it pulls the plug       asked back         asked back
//	power off, power cycle             asked back         asked back
//
// To ask back is to answer "yes 471", which with a further code does it. It is for what cuts the power of
// a machine that may be at work; and, as it proves that the order is of now, for whatever must not be done
// hours late by a box that cannot tell how old a message is. To reset the modem is not asked
// back: who needs it may have one that hears and no longer speaks. It is answered once, when it is done.
//
// # What it may cost
//
// Every message the box sends goes through one gate with a budget for 24 hours (Kind). Answers go to the
// number as it stands in the file, never to what a message gave as its sender. Refusals, which
// strangers who forge a number can cause, are few.
package text

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Message is one that came, as the modem decoded it.
type Message struct {
	From    string    // +79160000000, or the name of a sender that has one
	Numeric bool      // From is a number
	Time    time.Time // of the service centre (TP-SCTS); zero: unreadable
	Text    string
	Parts   int // of how many parts it was put together; 0 and 1 are the same
	Class0  bool
	Binary  bool
}

// Sender is a number that may order.
type Sender struct {
	Number string   // +79160000000
	May    []string // first words of commands, maybe with a machine: "status", "boot srv01"; "all" is everything
}

// Acts is what commands do. What each returns is put into the answer, in one message with
// the rest: short, the important first. Machines and images come in small letters.
type Acts interface {
	Status(ctx context.Context) string
	Boot(ctx context.Context, machine, image string) (string, error)
	Power(ctx context.Context, machine, action string) (string, error) // on, off, cycle, status
	Link(ctx context.Context, uplink string) (string, error)           // from now on by this one
	VPN(ctx context.Context) (string, error)                           // up
	ResetModem(ctx context.Context) (string, error)
	Ticket(ctx context.Context, machine string) (string, error)
}

// Result is what became of a message that was sent.
type Result string

// The results.
const (
	ResultSent    Result = "sent"    // the network took it
	ResultFailed  Result = "failed"  // it certainly did not
	ResultUnknown Result = "unknown" // nobody can say: it is never sent again
)

// Defaults of the desk.
const (
	defaultBudget = 50
	maxAge        = time.Hour // of a command that is not asked back
)

// Desk decides. Set its fields, then use it; Run must run for anything to be done or sent. Its methods
// may be called by many goroutines.
type Desk struct {
	Site    string
	Senders []Sender
	Devices []string // numbers of switches and the like: what they send goes to who asked them (Ask), and never orders
	Secrets string   // the directory of the codes' secrets, which only we read
	Store   Store
	Acts    Acts
	Plug    func(machine string) bool // to boot it pulls its plug, as by a switch; nil: never
	// Out sends one message, of several parts where it is long, and says what became of it. The network may try
	// for valid to hand it over: the command to a switch must not come when nobody thinks of it any more.
	Out    func(ctx context.Context, number, text string, valid time.Duration) (Result, error)
	Budget int // messages in 24 hours; 0 is 50
	// Clock is the time, and whether it can be relied upon; nil is the system's, relied upon.
	Clock func() (time.Time, bool)
	Log   *zap.Logger // nil: nothing is logged

	load    sync.Once
	mu      sync.Mutex
	people  []*person
	left    []string // numbers that have a secret and are not in the file any more
	devices map[string]*device
	numbers []string // of the file, all of them
	texts   map[string]*Text
	serial  uint64
	recent  []string // messages without a right code that were seen
	strange stranger
	turn    chan struct{}   // held while something is sent
	wake    chan struct{}   // there is something to send
	network int             // how often there was a network again
	jobs    []order         // that wait
	lanes   map[string]bool // of those that are being done
	job     chan struct{}   // one waits, or one is done
}

// person is a sender with what is known of him.
type person struct {
	Sender
	record  *record // nil: not enrolled
	pending pending
	told    time.Time // that single codes open nothing
}

// now is the time, and whether it can be relied upon.
func (d *Desk) now() (time.Time, bool) {
	if d.Clock == nil {
		return time.Now(), true
	}
	return d.Clock()
}

func (d *Desk) log() *zap.Logger {
	if d.Log == nil {
		return zap.NewNop()
	}
	return d.Log
}

// Received takes a message in. When it returns the modem can forget the message: what is to be
// done because of it is on disk. It does not wait for that.
func (d *Desk) Received(m Message) {
	d.load.Do(d.restore)
	d.mu.Lock()
	defer d.mu.Unlock()
	if dev := d.deviceOf(m); dev != nil {
		why := ""
		if !dev.heardLocked(m.Text) {
			why = "nobody asked it"
		}
		d.keepLocked(m, why)
		return
	}
	p := d.senderOf(m)
	if p == nil {
		d.strangerLocked(m)
		return
	}
	o, err := d.checkLocked(p, m)
	if no := (*silence)(nil); errors.As(err, &no) {
		d.log().Debug("a text message is not followed", zap.String("from", p.Number), zap.NamedError("err", no))
		if p.record == nil { // whoever looks why shall find it
			d.keepLocked(m, no.Error())
		}
		return
	}
	if err != nil {
		d.refuseLocked(p, m, err)
		return
	}
	d.log().Info("a command by text message", zap.String("from", p.Number), zap.Stringer("order", o.command))
	d.keepLocked(m, "")
	d.orderLocked(o)
}

// senderOf is who of the file sent a message, or nil.
func (d *Desk) senderOf(m Message) *person {
	for _, p := range d.people {
		if m.isOf(p.Number, d.numbers) {
			return p
		}
	}
	return nil
}

// deviceOf is the same of devices.
func (d *Desk) deviceOf(m Message) *device {
	for number, v := range d.devices {
		if m.isOf(number, d.numbers) {
			return v
		}
	}
	return nil
}

// leastDigits is how many of a number's last digits tell whose it is: as many as the numbers of small countries have.
const leastDigits = 7

// isOf reports whether a message is from a number of the file. Some networks tell a number without its plus, or as it is
// dialled within the country: then it is the only one of all that ends so. That opens nothing to those who forge one.
func (m Message) isOf(number string, all []string) bool {
	switch {
	case !m.Numeric:
		return false
	case number == m.From:
		return true
	case len(m.From) < leastDigits || !strings.HasSuffix(number, m.From):
		return false
	}
	return !slices.ContainsFunc(all, func(o string) bool { return o != number && strings.HasSuffix(o, m.From) })
}

// mark is by which a message is known again.
func (m Message) mark() string {
	h := sha256.New()
	for _, s := range []string{m.From, m.Time.UTC().Format(time.RFC3339), m.Text} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// nudge has whoever waits for a channel look.
func (d *Desk) nudge(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Run answers, and does what was ordered, until ctx is done.
func (d *Desk) Run(ctx context.Context, ready func()) error {
	d.load.Do(d.restore)
	var wg sync.WaitGroup
	wg.Go(func() { d.deliver(ctx) })
	wg.Go(func() { d.work(ctx) })
	d.resume()
	ready()
	wg.Wait()
	return nil
}

// restore reads what an earlier life of the daemon left.
func (d *Desk) restore() {
	d.turn, d.wake, d.job = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	d.lanes = map[string]bool{}
	d.devices = map[string]*device{}
	for _, n := range d.Devices {
		d.devices[n] = &device{turn: make(chan struct{}, 1)}
	}
	d.numbers = slices.Clone(d.Devices)
	for _, s := range d.Senders {
		r, err := readRecord(d.Secrets, s.Number)
		if err != nil {
			d.log().Error("a number that is enrolled cannot order by text message", zap.String("from", s.Number), zap.NamedError("err", err))
		}
		d.people = append(d.people, &person{Sender: s, record: r})
		d.numbers = append(d.numbers, s.Number)
	}
	d.left = d.leftovers()
	for _, n := range d.left {
		d.log().Warn("a number that is not in the file any more has a secret: rescuebox modem forget takes it away", zap.String("from", n))
	}
	d.restoreTexts()
	d.keepSecretLocked(func(number string) bool { return d.byNumber(number) == nil })
}
