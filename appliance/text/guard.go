package text

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Wrong codes within an hour, of one number and of all, after which one code opens nothing more.
const (
	maxBad    = 5
	badFor    = time.Hour
	maxRecent = 256
)

// silence is why a message is not even refused.
type silence struct{ why string }

func (s *silence) Error() string { return s.why }

// checkLocked asks a sender's message all there is to ask, and notes durably that it counted. It
// returns what is to be done.
func (d *Desk) checkLocked(p *person, m Message) (order, error) {
	mark := m.mark()
	switch {
	case p.record == nil:
		return order{}, &silence{"its number is not enrolled: rescuebox modem enroll " + p.Number}
	case slices.Contains(d.recent, mark) || slices.Contains(p.record.Seen, mark):
		return order{}, &silence{"it came before"}
	}
	d.recent = append(d.recent[max(0, len(d.recent)-maxRecent+1):], mark)
	if err := formOf(m); err != nil {
		return order{}, err
	}
	rest, codes := takeCodes(words(m.Text))
	o, wrong := d.readLocked(p, m, rest)
	if err := d.provenLocked(p, mark, codes, o.doing()); err != nil {
		return order{}, err
	}
	if wrong != nil {
		return order{}, &proven{wrong}
	}
	return o, nil
}

// readLocked is what a message without its codes orders, if its sender may.
func (d *Desk) readLocked(p *person, m Message, rest []string) (order, error) {
	c, err := parse(rest)
	if err != nil {
		return order{}, err
	}
	o := order{person: p, command: c}
	if c.verb == "yes" {
		if o.command, err = p.pending.meant(c.arg); err != nil {
			return order{}, err
		}
		o.confirmed = true
	}
	if !p.may(o.command) {
		return order{}, fmt.Errorf("this number may not %s", o.command)
	}
	o.late = d.lateness(m)
	o.ask = !o.confirmed && (o.late > 0 && !o.looks() || o.askBack(d.isSure(m), d.Plug))
	return o, nil
}

// proven is an error of a message with a right code: to answer it costs what its sender wants it to cost.
type proven struct{ error }

func (p *proven) Unwrap() error { return p.error }

// formOf refuses what is no plain message.
func formOf(m Message) error {
	if m.Binary || m.Class0 || m.Parts > 1 || parts(m.Text) > 1 { // not everything that joins parts says so
		return errors.New("a command is one plain message of at most 160 characters (70 with Cyrillic ones)")
	}
	return nil
}

// lateness is how long a message took to come, where that is too long.
func (d *Desk) lateness(m Message) time.Duration {
	now, sure := d.now()
	if age := now.Sub(m.Time); sure && !m.Time.IsZero() && age > maxAge {
		return age
	}
	return 0
}

// isSure reports whether the age of a message can be told. A service centre that is ahead of a right clock, as by
// a wrong time zone, hides how late its messages are.
func (d *Desk) isSure(m Message) bool {
	now, sure := d.now()
	return sure && !m.Time.IsZero() && m.Time.Sub(now) <= maxAge
}

// provenLocked checks the code and has on disk that it was used.
func (d *Desk) provenLocked(p *person, mark string, codes []string, doing string) error {
	now, _ := d.now()
	locked := d.lockedLocked(p, now)
	var next uint64
	ok := false
	switch {
	case len(codes) == 0:
		return errors.New("a command ends with the next code of your app")
	case len(codes) == 2:
		next, ok = match(p.record.Secret, p.record.Counter, resync, codes...)
	case locked:
		return p.lockedOut(codes[0], now)
	default:
		next, ok = match(p.record.Secret, p.record.Counter, window, codes[0])
	}
	if !ok {
		return d.wrongLocked(p, locked, now, codes[0])
	}
	r := *p.record
	r.Counter, r.Bad = next, nil
	r.Seen = append(slices.Clone(r.Seen[max(0, len(r.Seen)-maxSeen+1):]), mark)
	if doing != "" {
		r.Doing = append(slices.Clone(r.Doing[max(0, len(r.Doing)-maxJobs+1):]), doing)
	}
	if err := r.write(d.Secrets); err != nil {
		d.log().Error("a command by text message is not followed: that its code was used cannot be stored", zap.NamedError("err", err))
		return errors.New("the box cannot write to its disk and does not follow commands")
	}
	p.record = &r
	return nil
}

// lockedOut is the error of a single code while those open nothing. Who forges the number has used up the
// refusals by then: a right code shows its owner, who is told all the same, once.
func (p *person) lockedOut(code string, now time.Time) error {
	err := errors.New("too many wrong codes came under your number: for an hour write two codes, one after the other")
	_, right := match(p.record.Secret, p.record.Counter, window, code)
	if since := now.Sub(p.told); !right || since >= 0 && since < badFor {
		return err
	}
	p.told = now
	return &proven{err}
}

// lockedLocked reports whether one code is not enough. Times ahead of the clock are of a clock that was put back; they count.
func (d *Desk) lockedLocked(p *person, now time.Time) bool {
	all, own := 0, 0
	for _, o := range d.people {
		if o.record == nil {
			continue
		}
		n := len(recentBad(o.record.Bad, now))
		if all += n; o == p {
			own = n
		}
	}
	return own >= maxBad || all >= maxBad
}

func recentBad(list []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(list), func(t time.Time) bool { return now.Sub(t) > badFor })
}

// wrongLocked notes a wrong code, while that can still lock: what comes after costs neither memory nor disk.
func (d *Desk) wrongLocked(p *person, locked bool, now time.Time, code string) error {
	if used(p.record.Secret, p.record.Counter, code) {
		return errors.New("this code was used: take the next one")
	}
	if locked {
		return errors.New("these are not two codes in a row")
	}
	r := *p.record
	r.Bad = append(recentBad(r.Bad, now), now)
	p.record = &r // counts even where the disk fails
	if err := r.write(d.Secrets); err != nil {
		d.log().Error("a wrong code could not be stored", zap.NamedError("err", err))
	}
	d.log().Warn("a wrong code by text message", zap.String("from", p.Number), zap.Int("within_an_hour", len(r.Bad)))
	return errors.New("wrong code")
}

// stranger counts the messages of those who are not in the file.
type stranger struct {
	count  int // that were not logged yet
	logged time.Time
}

// Stranger is the error of messages from numbers that are not in the file: those that nobody hears of.
const Stranger = "not in the file"

// logEvery bounds what strangers can write into the log.
const logEvery = time.Minute

// strangerLocked is silent to whoever is not in the file. What comes is kept while that is little: it may
// be the operator, who says that the money is used up.
func (d *Desk) strangerLocked(m Message) {
	now, _ := d.now()
	d.strange.count++
	if since := now.Sub(d.strange.logged); since >= logEvery || since < 0 {
		d.log().Info("text messages from numbers that are not in the file", zap.Int("count", d.strange.count))
		d.strange = stranger{logged: now}
	}
	d.keepLocked(m, Stranger)
}

// code is what may be one.
var code = regexp.MustCompile(`\b\d{4}[ -]?\d{4}\b`)

// masked is a text without what may be a code that still opens something.
func masked(s string) string { return code.ReplaceAllString(s, "********") }
