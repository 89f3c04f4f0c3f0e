package dhcp

import (
	"bytes"
	"encoding/hex"
	"testing"

	"rescuebox/appliance/boot"
)

// A solicitation as Debian's undionly.kpxe sent it, in its Ethernet frame.
const solicitation = "333300000002525400123401" + "86dd" +
	"6000000000103aff" + "fe80000000000000505400fffe123401" + "ff020000000000000000000000000002" +
	"85007ad6000000000101525400123401"

// etherWire keeps the frames that are sent as they are.
type etherWire struct {
	wire
	sent [][]byte
}

func (w *etherWire) ether(f []byte) error { w.sent = append(w.sent, f); return nil }

func TestSolicitation(t *testing.T) {
	frame, err := hex.DecodeString(solicitation)
	if err != nil {
		t.Fatal(err)
	}
	ordered := boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 1}
	// answer is what is sent when the machine solicits a router, and when it is then sent a boot file.
	answer := func(booting bool, frame []byte) []byte {
		w := &etherWire{}
		s := &Server{solicitations: newSolicitations()}
		s.wire.Store(ptr(wire(w)))
		s.hearSolicitation(frame)
		if len(w.sent) > 0 {
			t.Fatal("a machine that was sent no boot file was answered")
		}
		if booting {
			s.noteBooting(ordered)
			s.noteBooting(ordered) // OFFER and ACK: one answer
		}
		if len(w.sent) == 0 {
			return nil
		}
		if s.hearSolicitation(frame); len(w.sent) != 2 || !bytes.Equal(w.sent[0], w.sent[1]) {
			t.Errorf("sent %x, want the answer at the boot file and at the next solicitation", w.sent)
		}
		return w.sent[0]
	}
	want := "525400123401000000000000" + "86dd" +
		"6000000000103aff" + "fe80000000000000020000fffe000000" + "fe80000000000000505400fffe123401" +
		"8600" + "%sum" + "000000000000000000000000"
	got := answer(true, frame)
	if len(got) != lenEther+lenIPv6+lenAdvertisement {
		t.Fatalf("answer of %d bytes", len(got))
	}
	if s := hex.EncodeToString(got[:56]) + "%sum" + hex.EncodeToString(got[58:]); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	// The checksum over pseudo header and message, itself included, is all ones (RFC 4443 section 2.3).
	ip := got[lenEther:]
	if c := sum(sum(sum(0, ip[8:40]), []byte{0, lenAdvertisement, 0, protoICMP}), ip[lenIPv6:]); c != 0xffff {
		t.Errorf("checksum leaves %04x", c)
	}
	if answer(false, frame) != nil {
		t.Error("a machine that nobody ordered anything for was answered")
	}
	for name, change := range map[string]func(f []byte){
		"from beyond a router": func(f []byte) { f[21] = 64 },
		"from no address":      func(f []byte) { copy(f[22:38], make([]byte, 16)) },
		"another message":      func(f []byte) { f[54] = 135 },
		"longer than it is":    func(f []byte) { f[19] = 200 },
		"IPv4":                 func(f []byte) { f[12], f[13] = 8, 0 },
	} {
		bad := append([]byte(nil), frame...)
		change(bad)
		if answer(true, bad) != nil {
			t.Errorf("%s: answered", name)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func FuzzReadSolicitation(f *testing.F) {
	frame, _ := hex.DecodeString(solicitation)
	f.Add(frame)
	f.Add(frame[:61])
	f.Fuzz(func(t *testing.T, b []byte) {
		if mac, from, ok := readSolicitation(b); ok {
			advertisement(mac, mac, from)
		}
	})
}
