package modem

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// leftInCall is a modem in a data call whose caller is gone, on a line that does not say so: DTR stays.
func leftInCall(t *testing.T) *modemtest.Modem {
	t.Helper()
	fake := modemtest.Start(t)
	answering(fake)
	f, err := os.OpenFile(fake.Path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString("ATE0\rATD*99***1#\r"); err != nil {
		t.Fatal(err)
	}
	for r := bufio.NewReader(f); ; {
		if line, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		} else if strings.HasPrefix(line, "CONNECT") {
			return fake
		}
	}
}

// escaped reports whether the modem heard the escape and the hang-up before a command.
func escaped(fake *modemtest.Modem, before string) bool {
	log := fake.Log()
	log = log[max(0, slices.Index(log, "+++")):]
	return log[0] == "+++" && slices.Contains(log[:max(0, slices.Index(log, before))], "H")
}

// A session that finds the modem in a call ends that, instead of talking to the network.
func TestSessionEndsCall(t *testing.T) {
	t.Parallel()
	fake := leftInCall(t)
	m, _ := start(t, fake, nil)
	until(t, m, "registration", registered)
	if !escaped(fake, "+CGMI") || fake.InCall() {
		t.Errorf("the modem heard %q, in a call: %v", fake.Log(), fake.InCall())
	}
}

// A busy system spoils the first silence: the modem reads the pluses late, and what comes after them too soon. That makes
// no mute modem of it, for which the ladder would cut its power, and a rung would find no session.
func TestSpoiledSilence(t *testing.T) {
	t.Parallel()
	fake := leftInCall(t)
	fake.Fault("+++", modemtest.Answer{Hang: true, Times: 1})
	var mute atomic.Bool
	m, _ := start(t, fake, func(m *Modem) {
		m.Event = func(e Event) {
			if strings.Contains(e.Text, "the modem does not answer") {
				mute.Store(true)
			}
		}
	})
	until(t, m, "registration", registered)
	if mute.Load() || !escaped(fake, "+CGMI") {
		t.Errorf("it was taken for mute: %v; the modem heard %q", mute.Load(), fake.Log())
	}
}

// So does a dial. The answers to the escape are not taken for those of what comes next: the refused dial is seen.
func TestDialEndsCall(t *testing.T) {
	t.Parallel()
	fake := leftInCall(t)
	fake.Fault("D", modemtest.Answer{Result: "+CME ERROR: 133"})
	err := hold(t, pppOver(t, fake, standIn(t, t.TempDir(), standInUp))).lost("refused")
	if !strings.Contains(err.Error(), "not subscribed") || !escaped(fake, "D*99***1#") {
		t.Errorf("it says %v; the modem heard %q", err, fake.Log())
	}
}

// A modem that takes commands, and only was slow for a moment, is not confused by the escape.
func TestEscapeWithoutCall(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Fault("", modemtest.Answer{Hang: true, Times: 1})
	began := time.Now()
	m, _ := start(t, fake, nil)
	until(t, m, "registration", registered)
	if log := fake.Log(); slices.Index(log, "H") < 1 || slices.Contains(log, "+++") {
		t.Errorf("the modem heard %q in %v", log, time.Since(began))
	}
}
