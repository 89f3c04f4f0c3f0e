package modem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
)

// Volume is what one SIM has carried since its operator began to count anew. The key of
// its record is SIM.
type Volume struct {
	SIM    string    `json:"sim"`   // its ICCID, or the modem's name where nobody says it
	Since  time.Time `json:"since"` // begin of the billing month
	Rx     uint64    `json:"rx"`    // bytes
	Tx     uint64    `json:"tx"`
	Warned int       `json:"warned"` // percent of the last warning
	Extra  int64     `json:"extra"`  // bytes that a person allowed on top, this month
	Free   bool      `json:"free"`   // a person lifted the limit, this month

	// Mark is where the device's counters were: what it carried since then is still to be added.
	Mark Mark `json:"mark"`
}

// Mark is the counters of one network device at one moment. They begin anew with every
// index, and with every boot.
type Mark struct {
	Device string `json:"device"`
	Index  int    `json:"index"`
	Boot   string `json:"boot"`
	Rx     uint64 `json:"rx"`
	Tx     uint64 `json:"tx"`
}

// Volumes keeps the volumes over restarts; state.Table[Volume] is one.
type Volumes interface {
	Put(key string, v Volume) error
	All() ([]Volume, error)
}

// VolumeStatus is how much of a SIM's quota is used.
type VolumeStatus struct {
	Used    int64 // bytes, both ways
	Quota   int64 // with what a person allowed on top; 0: no limit
	Since   time.Time
	Resets  time.Time
	Stopped bool // used up: text messages and the tunnel's own messages only
}

// warnings are the percentages at which a person is told, once each in a billing month.
var warnings = []int{50, 80, 95, 100}

// How often the counters are read, and their sum stored: the last minute at most is lost
// when the plug is pulled.
const (
	countEvery = 5 * time.Second
	storeEvery = 50 * time.Second
)

// quota counts what a modem carries, for the SIM that is in it.
type quota struct {
	limit  int64
	day    int
	store  Volumes // nil: until the next restart
	boot   string
	now    func() (t time.Time, sure bool) // as Modem.Now
	warned func(percent int, s VolumeStatus)
	log    *zap.Logger

	mu     sync.Mutex
	v      Volume
	stored time.Time
	dirty  bool
}

func newQuota(limit int64, day int, store Volumes, warned func(int, VolumeStatus), log *zap.Logger) *quota {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return &quota{limit: limit, day: day, store: store, boot: strings.TrimSpace(string(boot)), now: systemClock, warned: warned, log: log}
}

// systemClock is relied upon where nobody knows better.
func systemClock() (time.Time, bool) { return time.Now(), true }

// use takes up the account of a SIM.
func (q *quota) use(sim string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.v.SIM == sim {
		return nil
	}
	q.saveLocked()
	now, _ := q.now()
	next := Volume{SIM: sim, Since: billed(now, q.day)}
	if q.store != nil {
		all, err := q.store.All()
		if err != nil && len(all) == 0 && q.limit > 0 {
			return fmt.Errorf("read the volumes of SIMs: %w", err)
		}
		if err != nil { // one account that is damaged costs nobody the way in
			q.log.Warn("the volumes of SIMs cannot all be read", zap.NamedError("err", err))
		}
		for _, v := range all {
			if v.SIM == sim {
				next = v
			}
		}
	}
	if q.v.Mark.Device != "" {
		next.Mark = q.v.Mark // what the device carried was on the other SIM's account
	}
	q.v = next
	return nil
}

// count takes in a device's counters.
func (q *quota) count(name string, index int, rx, tx uint64) {
	q.mu.Lock()
	if q.v.SIM == "" { // it is counted as soon as somebody knows for whom: a mark lasts
		q.mu.Unlock()
		return
	}
	q.rollLocked()
	m := Mark{Device: name, Index: index, Boot: q.boot, Rx: rx, Tx: tx}
	moreRx, moreTx := since(q.v.Mark, m)
	q.v.Mark = m
	q.v.Rx, q.v.Tx = q.v.Rx+moreRx, q.v.Tx+moreTx
	q.dirty = q.dirty || moreRx+moreTx > 0
	warn := q.warningLocked()
	if warn > 0 || time.Since(q.stored) >= storeEvery {
		q.saveLocked()
	}
	s := q.statusLocked()
	q.mu.Unlock()
	if warn > 0 && q.warned != nil {
		q.warned(warn, s)
	}
}

// since is what a device carried from one mark to the next. A device that is another one
// counted from zero; of the very first nobody knows what it carried before.
func since(from, to Mark) (rx, tx uint64) {
	switch {
	case from.Device == "":
		return 0, 0
	case from.Boot != to.Boot || from.Device != to.Device || from.Index != to.Index || to.Rx < from.Rx || to.Tx < from.Tx:
		return to.Rx, to.Tx
	}
	return to.Rx - from.Rx, to.Tx - from.Tx
}

// warningLocked is the highest percentage that was reached and not told yet, or 0. It is noted before it is
// told: a warning that is lost is better than one in each minute.
func (q *quota) warningLocked() int {
	limit := q.limitLocked()
	if limit <= 0 {
		return 0
	}
	reached := 0
	for _, w := range warnings {
		if w > q.v.Warned && q.usedLocked() >= limit/100*int64(w)+limit%100*int64(w)/100 {
			reached = w
		}
	}
	if reached > 0 {
		q.v.Warned, q.dirty = reached, true
	}
	return reached
}

// rollLocked begins a new billing month. A clock that runs backwards, as that of a box without a battery does at start,
// begins none; but where it is sure of the time, the month that an earlier one, which was ahead, has begun is not waited for: it
// may be years off. Days are compared, not moments: a month is none the newer for another zone of time.
func (q *quota) rollLocked() {
	now, sure := q.now()
	begin := billed(now, q.day)
	switch day, last := begin.Format(time.DateOnly), q.v.Since.Format(time.DateOnly); {
	case day > last:
		q.v = Volume{SIM: q.v.SIM, Since: begin, Mark: q.v.Mark}
		q.dirty = true
	case day < last && sure:
		q.v.Since, q.dirty = begin, true
	}
}

// billed is when the billing month of t began: at midnight of the day, or of the last one in a month that is
// too short for it.
func billed(t time.Time, day int) time.Time {
	day = max(day, 1)
	begin := billingDay(t.Year(), t.Month(), day, t.Location())
	if begin.After(t) {
		begin = billingDay(t.Year(), t.Month()-1, day, t.Location())
	}
	return begin
}

func billingDay(year int, month time.Month, day int, loc *time.Location) time.Time {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, loc)
	return time.Date(last.Year(), last.Month(), min(day, last.Day()), 0, 0, 0, 0, loc)
}

// next is when the billing month after that of begin begins.
func nextBilled(begin time.Time, day int) time.Time {
	return billingDay(begin.Year(), begin.Month()+1, max(day, 1), begin.Location())
}

func (q *quota) usedLocked() int64 { return int64(q.v.Rx + q.v.Tx) }

// limitLocked is the limit of this month, 0 for none.
func (q *quota) limitLocked() int64 {
	if q.limit <= 0 || q.v.Free {
		return 0
	}
	return q.limit + q.v.Extra
}

func (q *quota) statusLocked() VolumeStatus {
	limit := q.limitLocked()
	return VolumeStatus{
		Used: q.usedLocked(), Quota: limit, Since: q.v.Since, Resets: nextBilled(q.v.Since, q.day),
		Stopped: limit > 0 && q.usedLocked() >= limit,
	}
}

func (q *quota) status() VolumeStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rollLocked()
	return q.statusLocked()
}

// allow lifts the limit until the next billing month: by so many bytes, or with 0 altogether.
func (q *quota) allow(extra int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case extra < 0:
		return errors.New("a quota can be raised, not lowered")
	case q.v.SIM == "":
		return errors.New("the modem does not know its SIM yet: allow more as soon as it is in a network")
	}
	q.rollLocked()
	q.v.Extra += extra
	q.v.Free = q.v.Free || extra == 0
	// The percentages are of another whole now.
	if limit := q.limitLocked(); limit > 0 {
		q.v.Warned = int(min(100, q.usedLocked()*100/limit))
	}
	q.dirty = true
	return q.saveLocked()
}

// saveLocked stores what changed. An error is logged and comes again in a minute.
func (q *quota) saveLocked() error {
	q.stored = time.Now()
	if q.store == nil || !q.dirty || q.v.SIM == "" {
		return nil
	}
	if err := q.store.Put(q.v.SIM, q.v); err != nil {
		q.log.Warn("the volume of the SIM cannot be stored", zap.NamedError("err", err))
		return err
	}
	q.dirty = false
	return nil
}

func (q *quota) save() {
	q.mu.Lock()
	defer q.mu.Unlock()
	_ = q.saveLocked()
}

// run counts the devices that current names until ctx is done.
func (q *quota) run(ctx context.Context, current func() string) error {
	defer q.save()
	for ctx.Err() == nil {
		if err := q.listen(ctx, current); err != nil {
			return err
		}
	}
	return nil
}

// listen counts until ctx is done, or the kernel had more news than were heard: the counters tell what was missed, and no
// bearer is taken down for it. The kernel sends a device's last counters with the news of its end: not even those of
// a lost PPP are missed.
func (q *quota) listen(ctx context.Context, current func() string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("listen to the kernel's links: %w", err)
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	name := ""
	look := func() {
		if index, rx, tx, err := counters(name); err == nil {
			q.count(name, index, rx, tx)
		}
	}
	defer look()
	for {
		if now := current(); now != "" {
			name = now // stays that of the last one: its end is news too
		}
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				updates = nil // to listen anew waits for the tick
			} else if s := u.Attrs().Statistics; s != nil && u.Attrs().Name == name {
				q.count(name, u.Attrs().Index, s.RxBytes, s.TxBytes)
			}
		case <-tick.C:
			if look(); updates == nil {
				return nil
			}
		}
	}
}
