package dhcp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// When a try has failed. Nobody tells us: a client that understood goes on, one
// that did not asks again.
const (
	// A dialect has at least so long: iPXE and U-Boot repeat their DISCOVER after
	// a second, and a site's server that pings an address first offers it after
	// three (dnsmasq). PXE ROMs wait for four (PXE 2.1 section 2.2.3).
	tryLasts = 3 * time.Second
	tryEnds  = 10 * time.Minute // one that comes later is another boot: the try before may have been switched off
	nextStep = 5 * time.Minute  // from firmware's DISCOVER to that of what it loaded
	maxTalks = 1024             // remembered, with and without success
	maxTold  = 20               // switches in the timeline before one works: who asks for ever shall not fill it
)

// blockSizes are the TFTP block sizes to cap a transfer at that begins and does
// not end: 1024 passes where a tunnel eats from the frame (crowbar-core PR#1078).
var blockSizes = []int{0, 1024, noBlockSize}

// talk is what is known of talking to one stage.
//
//	silent --answered--> told
//	told --DISCOVER again, no file asked for--> silent, in the next dialect
//	told --file asked for--> loading --its last byte--> worked
//	loading --DISCOVER again--> silent, in smaller blocks
//	told --what was loaded sends its own DISCOVER--> worked
//	worked --DISCOVER--> silent, in the same dialect
//	any --nothing for long, DISCOVER--> silent, in the dialect that has worked before, if any
//
// A dialect that has worked before gets a second chance: one packet may be lost.
// Some ROMs have one xid for all their boots, so that it alone tells no new one.
type talk struct {
	ladder   []Dialect
	about    string // the row of the quirks
	byHTTP   bool   // it loads by HTTP: who asks for the file has understood, and blocks have no size
	at       int    // in the ladder
	block    int    // in blockSizes
	phase    talkPhase
	request  bool // a REQUEST followed
	spared   bool // the second chance is used up
	switched bool // since it worked last
	xid      dhcpv4.TransactionID
	secs     uint16
	began    time.Time // the DISCOVER that this try began with
	first    uint16    // and its secs
	told     int       // switches in the timeline since it worked last
}

type talkPhase int

const (
	silent talkPhase = iota
	told
	loading
	worked
)

// now is the dialect of the moment.
func (t *talk) now() Dialect {
	d := t.ladder[t.at]
	if b := blockSizes[t.block]; b != 0 && (d.BlockSize == 0 || b < d.BlockSize) {
		d.BlockSize = b
	}
	return d
}

// again reports whether a DISCOVER means that the try before it failed, and how.
func (t *talk) again(xid dhcpv4.TransactionID, secs uint16, now time.Time) (why string, failed bool) {
	took := now.Sub(t.began)
	if xid == t.xid && secs > t.first { // the client's own clock: its packet may have waited on the way
		if own := time.Duration(secs-t.first) * time.Second; own <= tryEnds { // there are ROMs that swap its bytes
			took = max(took, own)
		}
	}
	if t.phase == silent || t.phase == worked || t.phase == loading && t.byHTTP || took < tryLasts || took > tryEnds {
		return "", false
	}
	after := took.Round(time.Second)
	switch {
	case xid == t.xid && secs < t.secs: // came late by another way
		return "", false
	case t.phase == loading:
		return fmt.Sprintf("began to load %v ago, did not end, and asks anew", after), true
	case t.request:
		return fmt.Sprintf("took an address, loaded nothing, and asks anew after %v", after), true
	case xid == t.xid:
		return fmt.Sprintf("repeats its DISCOVER after %v without a REQUEST", after), true
	}
	return fmt.Sprintf("asks anew after %v without a REQUEST", after), true
}

// next moves on after a failed try; may says which dialects are allowed now.
func (t *talk) next(may func(Dialect) bool) (moved bool) {
	if t.phase == loading {
		if t.block+1 < len(blockSizes) {
			t.block++
			return true
		}
		t.block = 0
	}
	for i := 1; i < len(t.ladder); i++ {
		if at := (t.at + i) % len(t.ladder); may(t.ladder[at]) {
			t.at = at
			return true
		}
	}
	return false
}

// recall goes back to what has worked before. A pinned dialect stays.
func (t *talk) recall(l Learned) {
	if at := slices.IndexFunc(t.ladder, func(d Dialect) bool { return d.Name == l.Dialect }); at >= 0 && len(t.ladder) > 1 {
		t.at, t.block = at, max(0, slices.Index(blockSizes, l.BlockSize))
	}
}

// Learned is what worked with one stage of one machine's boot.
type Learned struct {
	MAC       boot.MAC
	Arch      boot.Arch
	Program   boot.Program
	Full      bool // we were the LAN's full server
	Dialect   string
	BlockSize int // 0: any
	Since     time.Time
}

func (l Learned) stage() stage { return stage{l.MAC, l.Arch, l.Program, l.Full} }

func (l Learned) key() string {
	as := Proxy
	if l.Full {
		as = Full
	}
	return fmt.Sprintf("%s/%d/%s/%s", l.MAC.Plain(), l.Arch, l.Program, as)
}

// LearnedStore keeps what was learned over restarts; state.Table[Learned] does.
// There are never more than 1024.
type LearnedStore interface {
	Put(key string, l Learned) error
	Delete(key string) error
	All() ([]Learned, error)
}

// interpreter finds the dialect that each client understands. Only clients
// that have something to boot come to it.
type interpreter struct {
	store LearnedStore // nil: forgets with the process
	log   *zap.Logger
	tell  func(stage, string) // an event for the timeline; called without the lock

	mu      sync.Mutex
	talks   *lru[stage, *talk]
	current *lru[boot.MAC, stage] // which stage a machine is in
	learned map[stage]Learned
}

func newInterpreter(store LearnedStore, log *zap.Logger, tell func(stage, string)) (*interpreter, error) {
	i := &interpreter{store: store, log: log, tell: tell, talks: newLRU[stage, *talk](maxTalks),
		current: newLRU[boot.MAC, stage](maxTalks), learned: map[stage]Learned{}}
	if store == nil {
		return i, nil
	}
	all, err := store.All()
	if err != nil {
		return nil, fmt.Errorf("read which DHCP dialects work: %w", err)
	}
	for _, l := range all {
		i.learned[l.stage()] = l
	}
	return i, i.prune(i.oldestLocked())
}

// discover is told of every DISCOVER, before it is answered. pin is the
// dialect that the file of the site names; may says which are allowed now.
func (i *interpreter) discover(p *packet, pin string, full bool, may func(Dialect) bool) {
	now, st := time.Now(), stageOf(p.client, full)
	i.mu.Lock()
	before, known := i.current.get(p.mac)
	i.current.put(p.mac, st)
	t := i.talkLocked(st, p.client, pin)
	text := i.heardLocked(t, st, p, now, may)
	i.mu.Unlock()
	if known && before.program == boot.Firmware && st.program == boot.IPXE {
		i.went(before, now, false) // what firmware loaded talks to us: it understood
	}
	if text != "" {
		i.tell(st, text)
	}
}

// heardLocked counts a DISCOVER, and says what to tell if it changes the dialect.
func (i *interpreter) heardLocked(t *talk, st stage, p *packet, now time.Time, may func(Dialect) bool) (text string) {
	why, failed := t.again(p.TransactionID, p.NumSeconds, now)
	l, proven := i.learned[st]
	late := now.Sub(t.began) > tryEnds
	switch {
	case failed && proven && !t.spared && t.phase == told:
		t.spared = true
	case failed:
		if was := t.now(); t.next(may) {
			t.switched, t.spared = true, true
			if t.told++; t.told <= maxTold {
				text = switchText(why, was, t.now(), t.about)
			}
		}
	case t.phase == worked:
		t.spared, t.switched, t.told = false, false, 0
	case late && proven:
		t.recall(l)
	}
	if failed || late || t.phase == worked || p.TransactionID != t.xid {
		t.phase, t.request, t.began, t.first = silent, false, now, p.NumSeconds
	}
	t.xid, t.secs = p.TransactionID, p.NumSeconds
	return text
}

func switchText(why string, was, is Dialect, about string) string {
	text := fmt.Sprintf("%s: tries DHCP dialect %q after %q", why, is.Name, was.Name)
	if is.Name == was.Name {
		text = fmt.Sprintf("%s: tries TFTP blocks of at most %d bytes", why, is.BlockSize)
	}
	if about != "" {
		text += " (known of such firmware: " + about + ")"
	}
	return text
}

// talkLocked finds or begins the talk with a stage. What worked before comes first.
func (i *interpreter) talkLocked(st stage, c boot.Client, pin string) *talk {
	ladder, isPinned := pinned(pin, c, st.full)
	t, ok := i.talks.get(st)
	if isPinned {
		if !ok || len(t.ladder) != 1 || t.ladder[0] != ladder[0] {
			t = &talk{ladder: ladder, byHTTP: byHTTP(c)}
			i.talks.put(st, t)
		}
		return t
	}
	if ok && len(t.ladder) > 1 {
		return t
	}
	t = &talk{ladder: ladderOf(c, st.full), about: quirksOf(c).about, byHTTP: byHTTP(c)}
	if l, ok := i.learned[st]; ok {
		t.recall(l)
	}
	i.talks.put(st, t)
	return t
}

// dialect is how to talk to a stage now.
func (i *interpreter) dialect(c boot.Client, pin string, full bool) Dialect {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.talkLocked(stageOf(c, full), c, pin).now()
}

// answered is told that an answer with a boot part went out.
func (i *interpreter) answered(st stage) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t, ok := i.talks.get(st); ok && t.phase == silent {
		t.phase = told
	}
}

// request is told of a REQUEST: the client took some offer.
func (i *interpreter) request(c boot.Client, full bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t, ok := i.talks.get(stageOf(c, full)); ok {
		t.request = true
	}
}

// tookAddress is told that a client took an address from us as proxy: it
// understood the dialect that gives one, though another may have its turn already.
func (i *interpreter) tookAddress(c boot.Client) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t, ok := i.talks.get(stageOf(c, false)); ok {
		if at := slices.IndexFunc(t.ladder, func(d Dialect) bool { return d.Full }); at >= 0 {
			t.at = at
		}
	}
}

// fetched is told of a machine's transfers: that one began, or that one ended with its last byte.
func (i *interpreter) fetched(mac boot.MAC, whole bool) {
	i.mu.Lock()
	st, ok := i.current.get(mac)
	if t, is := i.talks.get(st); ok && is && !whole && t.phase == told {
		t.phase = loading
	}
	i.mu.Unlock()
	if ok && whole {
		i.went(st, time.Now(), true)
	}
}

// went notes that a stage's dialect worked. Transferred says that the block size did, too.
func (i *interpreter) went(st stage, now time.Time, transferred bool) {
	i.mu.Lock()
	t, ok := i.talks.get(st)
	if !ok || t.phase == silent || t.phase == worked || (!transferred && now.Sub(t.began) > nextStep) {
		i.mu.Unlock()
		return
	}
	d, news := t.now(), t.switched
	t.phase, t.switched = worked, false
	l := Learned{MAC: st.mac, Arch: st.arch, Program: st.program, Full: st.full,
		Dialect: d.Name, BlockSize: blockSizes[t.block], Since: now.Round(0)}
	have, known := i.learned[st]
	if known && have.Dialect == l.Dialect && have.BlockSize == l.BlockSize || len(t.ladder) == 1 {
		i.mu.Unlock()
		return // nothing new; and what is pinned was not learned
	}
	i.learned[st] = l
	old := i.oldestLocked()
	i.mu.Unlock()
	if err := i.keep(l, old); err != nil {
		i.log.Warn("the DHCP dialect that works is not kept over a restart", zap.Stringer("mac", st.mac), zap.NamedError("err", err))
	}
	if news {
		i.tell(st, fmt.Sprintf("works with DHCP dialect %q%s: remembered for this machine", d.Name, blocksText(d)))
	}
}

func blocksText(d Dialect) string {
	if d.BlockSize == 0 {
		return ""
	}
	return fmt.Sprintf(" and TFTP blocks of at most %d bytes", d.BlockSize)
}

func (i *interpreter) keep(l Learned, old []Learned) error {
	if i.store == nil {
		return nil
	}
	return errors.Join(i.store.Put(l.key(), l), i.prune(old))
}

// oldestLocked takes out what is too much and returns it.
func (i *interpreter) oldestLocked() []Learned {
	if len(i.learned) <= maxTalks {
		return nil
	}
	all := slices.SortedFunc(maps.Values(i.learned), func(a, b Learned) int {
		if c := a.Since.Compare(b.Since); c != 0 { // before the keys, which cost more than all else here
			return c
		}
		return cmp.Compare(a.key(), b.key())
	})
	all = all[:len(all)-maxTalks]
	for _, l := range all {
		delete(i.learned, l.stage())
	}
	return all
}

func (i *interpreter) prune(old []Learned) error {
	var errs []error
	for _, l := range old {
		errs = append(errs, i.store.Delete(l.key()))
	}
	return errors.Join(errs...)
}

// blockSize is the largest TFTP block that a machine stands, 0 for any. After a
// restart of the box in the middle of a boot, what was learned of it counts.
func (i *interpreter) blockSize(mac boot.MAC) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if st, ok := i.current.get(mac); ok {
		if t, ok := i.talks.get(st); ok {
			return t.now().BlockSize
		}
	}
	most := 0
	for st, l := range i.learned {
		if st.mac == mac && l.BlockSize > 0 && (most == 0 || l.BlockSize < most) {
			most = l.BlockSize
		}
	}
	return most
}
