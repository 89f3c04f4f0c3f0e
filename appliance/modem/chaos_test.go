package modem

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// A port that says a lot from the beginning: the wrong one of the modem's ports (its GPS, its log), most often.
func TestBabblingPort(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Hang(true)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			fake.Noise([]byte(strings.Repeat("$GPGSV,3,1,12,01,40,083,46,02,17,308,41*7A\r\n", 50)))
			runtime.Gosched()
		}
	})
	m, end := start(t, fake, nil)
	s := until(t, m, "a reason", func(s Status) bool { return s.State == Mute && strings.Contains(s.Why, "nothing that makes sense") })
	if s.Device == "" {
		t.Errorf("%+v", s)
	}
	end()
	stop()
	fake.Unplug()
	wg.Wait()
}

func TestDeafPort(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Stall(true)
	m, _ := start(t, fake, nil)
	until(t, m, "a reason", func(s Status) bool { return s.State == Mute && strings.Contains(s.Why, "does not answer") })
	fake.Stall(false)
	until(t, m, "registration", registered)
}

// An hour of a bad day in a few seconds: pulled out, silent, deaf, noisy, late, without a SIM, in any order. It ends
// sound, and leaves nothing behind.
func TestChaos(t *testing.T) {
	fake := modemtest.Start(t)
	before := runtime.NumGoroutine()
	m, stop := start(t, fake, func(m *Modem) {
		m.SignalInterval = 100 * time.Millisecond
		m.Received = func(Text) {}
	})
	until(t, m, "registration", registered)
	rng := rand.New(rand.NewPCG(6, 6))
	noise := make([]byte, 8192)
	evils := []func(){
		func() { fake.Unplug(); time.Sleep(20 * time.Millisecond); _ = fake.Plug() },
		func() { fake.Hang(true); time.Sleep(200 * time.Millisecond); fake.Hang(false) },
		func() { fake.Stall(true); time.Sleep(200 * time.Millisecond); fake.Stall(false) },
		func() {
			for i := range noise {
				noise[i] = byte(rng.Uint32())
			}
			fake.Noise(noise)
		},
		func() { fake.URC("+CREG: 0"); fake.URC("+CPIN: NOT READY"); fake.URC(`+CMTI: "SM",1`) },
		func() { fake.Fault("+CREG?", modemtest.Answer{Delay: 300 * time.Millisecond, Times: 2}) },
		func() {
			fake.Fault("+CMGL", modemtest.Answer{Lines: []string{"+CMGL: 1,1,,9", "ZZ", "+CMGL: x"}, Times: 1})
		},
		func() {
			fake.Insert(modemtest.Missing)
			time.Sleep(50 * time.Millisecond)
			fake.Insert(modemtest.Ready)
		},
		func() { fake.Register(modemtest.Denied, 0); fake.Register(modemtest.Home, 7) },
		func() { _ = fake.Deliver("+79160000000", "status") },
	}
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		evils[rng.IntN(len(evils))]()
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
	}
	fake.Heal("")
	fake.Register(modemtest.Home, 7)
	until(t, m, "registration after a bad day", registered)
	began := time.Now()
	stop()
	if since := time.Since(began); since > 20*time.Second {
		t.Errorf("the end took %s", since)
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<17)
			os.Stderr.Write(buf[:runtime.Stack(buf, true)])
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}

// The only port is lent to pppd: no session meanwhile, and a new one after it.
func TestLend(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := start(t, fake, func(m *Modem) { m.Data = "ppp" })
	until(t, m, "registration", registered)
	err := m.lend(t.Context(), func(device string) error {
		if s := m.Status(); s.State != Lent {
			t.Errorf("the port is lent, the modem %s", s.State)
		}
		p, err := openTTY(device, 0) // a session would hold its lock
		if err != nil {
			return err
		}
		defer p.Close()
		_, err = m.session()
		if err == nil {
			t.Error("there is a session without the port")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, m, "the way back", func(s Status) bool { _, err := m.session(); return registered(s) && err == nil })
	// A call that was waiting for the port is not made in a foreign network, where nobody could see the bill grow.
	fake.Register(modemtest.Roaming, 7)
	until(t, m, "roaming", func(s Status) bool { return s.Roaming })
	if err := m.lend(t.Context(), func(string) error { return nil }); !errors.Is(err, errRoaming) {
		t.Errorf("the port was lent for a call in a foreign network: %v", err)
	}
}
