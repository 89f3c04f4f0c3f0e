package vpn

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// datagram makes a message of a kind and length with the indices at their places.
func datagram(kind byte, length int, first, second uint32) []byte {
	b := make([]byte, length)
	b[0] = kind
	binary.LittleEndian.PutUint32(b[4:], first)
	if length >= 12 {
		binary.LittleEndian.PutUint32(b[8:], second)
	}
	return b
}

func TestParseMessage(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want message
		ok   bool
		asks bool
	}{
		"initiation":         {datagram(1, 148, 7, 9), message{kind: initiation, sender: 7}, true, true},
		"response":           {datagram(2, 92, 7, 9), message{kind: response, sender: 7, receiver: 9}, true, false},
		"cookie":             {datagram(3, 64, 7, 9), message{kind: cookie, receiver: 7}, true, false},
		"keepalive":          {datagram(4, 32, 7, 9), message{kind: transport, receiver: 7, empty: true}, true, false},
		"data":               {datagram(4, 128, 7, 9), message{kind: transport, receiver: 7}, true, true},
		"empty":              {nil, message{}, false, false},
		"short":              {datagram(4, 31, 7, 9), message{}, false, false},
		"no padding":         {datagram(4, 129, 7, 9), message{}, false, false},
		"long initiation":    {datagram(1, 149, 7, 9), message{}, false, false},
		"unknown":            {datagram(5, 148, 7, 9), message{}, false, false},
		"reserved bytes set": {append([]byte{4, 0, 1, 0}, make([]byte, 60)...), message{}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseMessage(c.in)
			if got != c.want || ok != c.ok || got.asks() != c.asks {
				t.Errorf("%+v, %v, asks %v", got, ok, got.asks())
			}
		})
	}
}

// Whatever comes from outside is sorted without harm, and counts as the hub's only if it
// knows an index that we gave.
func FuzzHeard(f *testing.F) {
	f.Add(datagram(4, 32, 7, 0))
	f.Add(datagram(2, 92, 1, 7))
	f.Add(datagram(1, 148, 7, 0))
	f.Add([]byte{4, 0, 0, 0})
	from := netip.MustParseAddrPort("192.0.2.1:51820")
	f.Fuzz(func(t *testing.T, in []byte) {
		b := newBind(setup{Uplinks: []Uplink{{Name: "wan"}}, Hubs: 1}, 1)
		b.hubs[0].note(b.now(), [][]byte{datagram(1, 148, 7, 0)})
		hub := b.heard(b.ways[0], in, from, b.now())
		m, _ := parseMessage(in)
		if known := m.kind != initiation && m.receiver == 7; known != (hub == 0) {
			t.Errorf("%x is of hub %d", in, hub)
		}
		if heard := !b.ways[0].lastHeard().IsZero(); heard != (hub == 0) {
			t.Errorf("%x was heard: %v", in, heard)
		}
	})
}

// What the kernel says beside a message is read without harm.
func FuzzJoinedSize(f *testing.F) {
	f.Add(segmentSize(make([]byte, 0, 64), 1200), 5000)
	f.Add([]byte{1, 2, 3}, 10)
	f.Fuzz(func(t *testing.T, control []byte, all int) {
		if size := joinedSize(control, all); size <= 0 && all > 0 {
			t.Errorf("%d of %d", size, all)
		}
	})
}

func TestRunLength(t *testing.T) {
	run := func(lengths ...int) int {
		var bufs [][]byte
		for _, l := range lengths {
			bufs = append(bufs, make([]byte, l))
		}
		return runLength(bufs)
	}
	long := make([]int, 100)
	for i := range long {
		long[i] = 100
	}
	for _, c := range []struct {
		lengths []int
		want    int
	}{
		{[]int{100}, 1}, {[]int{100, 100, 100}, 3}, {[]int{100, 100, 60, 100}, 3}, {[]int{100, 200}, 1},
		{[]int{40000, 40000}, 1}, {long, maxSegments}, {[]int{100, 60, 60}, 2},
	} {
		if got := run(c.lengths...); got != c.want {
			t.Errorf("%v: %d, want %d", c.lengths, got, c.want)
		}
	}
}
