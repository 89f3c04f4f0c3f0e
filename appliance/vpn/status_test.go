package vpn

import (
	"testing"
	"testing/synctest"
	"time"
)

// How old a handshake is does not depend on the wall clock, which may have been set since, or just before the look.
func TestHandshakeAge(t *testing.T) {
	for name, off := range map[string]time.Duration{"right": 0, "set back": time.Hour, "set forward": -10000 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s seen
				s.note(state{Peers: []peerState{{}}})
				if !s.peers[0].Handshake.IsZero() {
					t.Error("no handshake is one")
				}
				shook := func(at time.Time) {
					time.Sleep(time.Second / 2)
					s.note(state{Peers: []peerState{{Handshake: at.Add(off).Round(0)}}})
				}
				for range 3 { // the first, and each one after it
					began := time.Now()
					for at := began; time.Since(began) < 120*time.Second; {
						shook(at)
					}
					if age := time.Since(s.peers[0].Handshake); age < 119*time.Second || age > 121*time.Second {
						t.Errorf("a handshake two minutes ago is %v old", age)
					}
				}
			})
		})
	}
}
