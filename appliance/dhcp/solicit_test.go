package dhcp

import (
	"encoding/hex"
	"errors"
	"testing"

	"rescuebox/appliance/boot"
)

// A solicitation as Debian's undionly.kpxe sent it, in its Ethernet frame.
const solicitation = "333300000002525400123401" + "86dd" +
	"6000000000103aff" + "fe80000000000000505400fffe123401" + "ff020000000000000000000000000002" +
	"85007ad6000000000101525400123401"

// onlyFor decides that one machine boots.
type onlyFor boot.MAC

func (o onlyFor) Decide(c boot.Client) (boot.Decision, error) {
	if c.MAC != boot.MAC(o) {
		return boot.Decision{}, errors.New("not ordered")
	}
	return boot.Decision{}, nil
}
func (onlyFor) Record(boot.Event) {}

func TestSolicitation(t *testing.T) {
	frame, err := hex.DecodeString(solicitation)
	if err != nil {
		t.Fatal(err)
	}
	ordered, own := boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 1}, boot.MAC{2, 0, 0, 0, 0, 1}
	answer := func(o boot.MAC, frame []byte) (sent []byte) {
		s := &Server{Boot: onlyFor(o)}
		s.hearSolicitation(own, frame, func(b []byte) (int, error) { sent = b; return len(b), nil })
		return sent
	}
	want := "525400123401020000000001" + "86dd" +
		"6000000000103aff" + "fe80000000000000000000fffe000001" + "fe80000000000000505400fffe123401" +
		"8600" + "%sum" + "000000000000000000000000"
	got := answer(ordered, frame)
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
	if answer(own, frame) != nil {
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
		if answer(ordered, bad) != nil {
			t.Errorf("%s: answered", name)
		}
	}
}

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
