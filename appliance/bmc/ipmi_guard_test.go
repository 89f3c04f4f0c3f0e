package bmc

import (
	"bytes"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// forged are packets that whoever is on the controller's network may send in its name. They are few enough
// for a socket to hold.
func forged() (list [][]byte) {
	noise := bytes.Repeat([]byte{0x5a}, 64)
	inSession := func(flags byte, payload []byte) []byte {
		return append(plus(flags, 0xa0a1a2a3, 9, payload), noise[:18]...)
	}
	for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 33, 48} { // without a vector, no whole block, a pad that is longer than it
		list = append(list, inSession(0xc0, noise[:n]), inSession(0xc1, noise[:n]), inSession(0x80, noise[:n]))
	}
	for seq := range byte(8) { // that power is on, in the clear; the library begins at 1
		head := []byte{0x81, (functionChassis + 1) << 2}
		rest := []byte{0x20, seq << 2, cmdPower, 0, 0x21, 0, 0}
		says := append(append(head, sum(head...)), append(rest, sum(rest...))...)
		list = append(list, inSession(0, says), inSession(0x40, says), plus(0, 0, 0, says),
			append([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(says))}, says...))
	}
	return list
}

// What somebody else sends in the controller's name is not heard: neither does it end the box, nor does it
// say how power is.
func TestIPMIForged(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	port := twistUDP(t, s, func(question bool, b []byte, pass func([]byte)) {
		if !question && len(b) > 6 && b[4] == 6 && b[5]&0xc0 == 0xc0 {
			for _, f := range forged() {
				pass(f)
			}
		}
		pass(b)
	})
	c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12")}
	for range 3 {
		if state, err := c.Power(t.Context()); err != nil || state != Off {
			t.Errorf("%s, %v", state, err)
		}
	}
}

// An answer is of the kind that was asked for last, and agrees to the algorithms that were, not to less.
func TestGuardAdmits(t *testing.T) {
	opened := func(status, auth, integrity, encryption byte) []byte {
		b := make([]byte, 36)
		b[1], b[16], b[24], b[32] = status, auth, integrity, encryption
		return plus(stepOpened, 0, 0, b)
	}
	refused := plus(stepOpened, 0, 0, []byte{0, 0x11, 0, 0, 0, 0, 0, 0})
	capable := []byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0x81, 0x1c, 0x63, 0x20, 4, 0x38, 0, 1}
	for name, tt := range map[string]struct {
		asked  byte
		answer []byte
		want   bool
	}{
		"as asked":                {stepOpen, opened(0, 3, 4, 1), true},
		"no authentication":       {stepOpen, opened(0, 0, 4, 1), false},
		"no integrity":            {stepOpen, opened(0, 3, 0, 1), false},
		"no encryption":           {stepOpen, opened(0, 3, 4, 0), false},
		"a refusal":               {stepOpen, refused, true},
		"a late one":              {stepRAKP1, opened(0, 3, 4, 1), false},
		"before it was asked":     {outsideSession, opened(0, 3, 4, 1), false},
		"outside of sessions":     {outsideSession, capable, true},
		"outside, but in session": {flagsSession, capable, false},
		"RAKP 4 for 2":            {stepRAKP1, plus(stepRAKP4, 0, 0, make([]byte, 40)), false},
		"short":                   {stepOpen, opened(0, 3, 4, 1)[:20], false},
	} {
		g := &guard{asked: tt.asked, offer: [3]byte{3, 4, 1}}
		if got := g.admits(tt.answer); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A controller that takes longer than a try for each answer is asked again, answers twice, and is
// understood all the same.
func TestIPMISlow(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	port := twistUDP(t, s, func(question bool, b []byte, pass func([]byte)) {
		if question {
			pass(b)
			return
		}
		time.AfterFunc(ipmiTry*5/4, func() { pass(b) })
	})
	c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12"), suite: suites[1]}
	begun := time.Now()
	state, err := c.Power(t.Context())
	t.Logf("%s, %v after %s", state, err, time.Since(begun))
	if err != nil || state != Off {
		t.Errorf("%s, %v", state, err)
	}
}

// What gets through in a session can be decrypted, whatever it is and whoever has signed it.
func FuzzGuard(f *testing.F) {
	f.Add(byte(0xc0), true, plus(0xc0, 7, 9, make([]byte, 32)))
	f.Add(byte(0xc1), true, plus(0xc1, 7, 9, make([]byte, 16)))
	f.Add(byte(stepOpen), false, plus(stepOpened, 0, 0, make([]byte, 36)))
	f.Add(byte(stepRAKP1), false, plus(stepRAKP2, 0, 0, make([]byte, 40)))
	f.Add(byte(outsideSession), false, outside(cmdCapabilities))
	f.Fuzz(func(t *testing.T, asked byte, signed bool, packet []byte) {
		g := &guard{asked: asked, offer: [3]byte{1, 1, 1}, session: 7, k1: make([]byte, 20), k2: make([]byte, 20), rakp1: make([]byte, 28)}
		if signed && len(packet) > 4 {
			code, err := crypto.SessionIntegrityAuthCode(types.IntegrityAlg_HMAC_SHA1_96, packet[4:], g.k1, "")
			if err != nil {
				t.Fatal(err)
			}
			packet = append(bytes.Clone(packet), code...)
		}
		if !g.admits(packet) || packet[4] != 6 || packet[5]&0x80 == 0 {
			return
		}
		var r types.Rmcp
		if err := r.Unpack(packet); err != nil {
			t.Fatal(err)
		}
		if _, err := crypto.DecryptAESPayload(r.Session20.SessionPayload, g.k2); err != nil {
			t.Error(err)
		}
	})
}
