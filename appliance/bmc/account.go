package bmc

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Refused is a password that a controller did not take. It is remembered over restarts: a box that
// starts again and again must not lock the account either.
type Refused struct {
	Tries int       `json:"tries"`
	At    time.Time `json:"at"`   // the last try
	Over  string    `json:"over"` // the protocol of it
	Why   string    `json:"why"`  // in words of ours
	// Salt and Sum tell the password again, and nobody what it is.
	Salt []byte `json:"salt"`
	Sum  []byte `json:"sum"`
}

// Many controllers lock an account after three to five wrong passwords, some for an hour, some
// until an administrator comes.
const (
	refusedAgain = time.Minute // between two tries that somebody asks for
	refusedSlow  = 1 << 14     // rounds of the hash; a refused password is compared a few times a minute
)

// refusedWaits are how long the box leaves an account alone by itself after the first, second … refusal.
var refusedWaits = []time.Duration{5 * time.Minute, 15 * time.Minute, 45 * time.Minute, 2 * time.Hour}

// next is when the box tries it again by itself.
func (r *Refused) next() time.Time {
	return r.At.Add(refusedWaits[min(max(r.Tries, 1), len(refusedWaits))-1])
}

func (r *Refused) is(password string) bool { return bytes.Equal(slowSum(password, r.Salt), r.Sum) }

func slowSum(password string, salt []byte) []byte {
	sum, _ := pbkdf2.Key(sha256.New, password, salt, refusedSlow, sha256.Size) // fails with shorter sums only
	return sum
}

// err says it to people; the same as long as nothing is tried.
func (r *Refused) err() error {
	times := fmt.Sprintf("refused %d times, last", r.Tries)
	if r.Tries == 1 {
		times = "refused"
	}
	return fmt.Errorf("%w: %s; %s over %s at %s, and so that the account is not locked, tried again at %s, or at once when password_file changes or a command asks",
		ErrRefused, r.Why, times, title(r.Over), r.At.Local().Format(time.TimeOnly), r.next().Local().Format(time.TimeOnly))
}

func title(protocol string) string {
	if protocol == "redfish" {
		return "Redfish"
	}
	return "IPMI"
}

// Why a password was refused.
const (
	whyPassword = "look at user and password_file of the machine"
	whyRights   = "the user lacks the right; give it operator or administrator rights"
)

// account is a user of one controller, and the memory of the password that it did not take: one for
// all protocols and all that is done, so that they do not lock it together. The zero value remembers by itself.
type account struct {
	key    string
	memory Memory // nil: none

	mu      sync.Mutex
	refused *Refused          // where there is no memory, or it is broken
	took    map[string]string // by protocol, the password that was taken last
	asked   bool              // somebody wants it tried at once, once
}

// accountOf is that of a controller's configuration. Machines that share a controller share it as well.
func accountOf(key string, c Config) *account {
	return &account{key: "account " + c.User + " at " + key, memory: c.Memory}
}

// standing is the refusal that stands, or nil.
func (a *account) standing() *Refused {
	if a.refused != nil || a.memory == nil {
		return a.refused
	}
	k, _ := a.memory.Get(a.key)
	return k.Refused
}

// store remembers a refusal, or for nil that there is none.
func (a *account) store(r *Refused) {
	a.refused = nil
	if a.memory == nil || a.memory.Put(a.key, Known{Refused: r}) != nil {
		a.refused = r
	}
}

// ask lets the password that was refused be tried at once, once: somebody wants to know.
func (a *account) ask() {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.standing()
	a.asked = r != nil && time.Since(r.At) >= refusedAgain
}

// may reports why a password is not to be tried now. One that a protocol takes may be used over that one, also
// where the other refuses it: iDRACs whose password was set as a hash do so over IPMI.
func (a *account) may(protocol, password string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.standing()
	if r == nil || a.asked {
		return nil
	}
	if took, ok := a.took[protocol]; ok && took == password {
		return nil
	}
	now := time.Now()
	if now.Before(r.At) || !now.Before(r.next()) || !r.is(password) { // a clock that was set back is no reason to wait
		return nil
	}
	return r.err()
}

// learn remembers what became of a try, and returns its error as people are to read it.
func (a *account) learn(protocol, password string, err error) error {
	switch {
	case err == nil:
		a.taken(protocol, password)
	case errors.Is(err, ErrRights):
		return a.refuse(protocol, password, whyRights)
	case errors.Is(err, ErrRefused):
		return a.refuse(protocol, password, whyPassword)
	}
	return err
}

func (a *account) taken(protocol, password string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = false
	if a.took == nil {
		a.took = map[string]string{}
	}
	a.took[protocol] = password
	if r := a.standing(); r != nil && (r.Over == protocol || !r.is(password)) {
		a.store(nil)
	}
}

func (a *account) refuse(protocol, password, why string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = false
	delete(a.took, protocol)
	next := Refused{Tries: 1, At: time.Now().Round(0), Over: protocol, Why: why, Salt: make([]byte, 16)}
	rand.Read(next.Salt)
	if r := a.standing(); r != nil && r.is(password) {
		next.Tries, next.Salt, next.Sum = r.Tries+1, r.Salt, r.Sum
	} else {
		next.Sum = slowSum(password, next.Salt)
	}
	a.store(&next)
	return next.err()
}

// turn lets one operation at a time at a controller; who waits for it may lose patience.
type turn struct {
	once  sync.Once
	place chan struct{}
}

func (t *turn) take(ctx context.Context) error {
	t.once.Do(func() { t.place = make(chan struct{}, 1) })
	select {
	case t.place <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w in time: it is still busy with something else that it was asked", ErrSilent)
	}
}

func (t *turn) leave() { <-t.place }
