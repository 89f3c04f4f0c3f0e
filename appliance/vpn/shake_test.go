package vpn

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/link/linktest"
)

// Copies of a handshake leave one after the other, however many are wanted at once, and those of an older one not at all.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		began := time.Now()
		var left []time.Duration
		send := func() { left = append(left, time.Since(began)) }
		turns.first(send)
		for range 3 {
			for way := range 3 {
				turns.take(way, send)
			}
		}
		time.Sleep(apart + apart/2)
		synctest.Wait()
		turns.first(send)
		turns.take(0, send)
		time.Sleep(time.Second)
		turns.take(0, send)
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []time.Duration{0, apart, apart * 3 / 2, apart * 5 / 2, apart*3/2 + time.Second}; !slices.Equal(left, want) {
			t.Errorf("they left after %v, want %v", left, want)
		}
	})
}

// Where the uplink in use takes nothing, a handshake goes by another, and so does its repetition.
func TestHandshakeFallsBack(t *testing.T) {
	linktest.New(t) // there lo is up
	hub, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	ok(t, err)
	t.Cleanup(func() { hub.Close() })
	b := newBind(setup{Uplinks: []Uplink{{Name: "wan"}, {Name: "lte"}}, Hubs: 1}, 1)
	_, _, err = b.Open(0)
	ok(t, err)
	t.Cleanup(func() { ok(t, b.Close()) })
	b.ways[1].use("lo") // the first has no device
	b.hubs[0].paths[1].set([]netip.AddrPort{hub.LocalAddr().(*net.UDPAddr).AddrPort()}, false)
	ok(t, b.Send([][]byte{datagram(1, 148, 7, 0)}, &endpoint{}))
	b.resend(0)
	ok(t, hub.SetReadDeadline(time.Now().Add(20*time.Second)))
	for range 2 {
		_, _, err := hub.ReadFrom(make([]byte, 1500))
		ok(t, err)
	}
}

// A hub that has two copies of one handshake in the same moment may answer both, and then nothing passes for 15
// seconds. By the time at which they came in, as the kernel notes it: whoever reads may be late.
func TestHandshakeCopiesApart(t *testing.T) {
	linktest.New(t) // there lo is up
	hub, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	ok(t, err)
	t.Cleanup(func() { hub.Close() })
	raw, err := hub.SyscallConn()
	ok(t, err)
	var failed error
	ok(t, raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) }))
	ok(t, failed)
	came := func() time.Time {
		t.Helper()
		ok(t, hub.SetReadDeadline(time.Now().Add(20*time.Second)))
		control := make([]byte, 256)
		_, n, _, _, err := hub.ReadMsgUDPAddrPort(make([]byte, 1500), control)
		ok(t, err)
		messages, err := unix.ParseSocketControlMessage(control[:n])
		ok(t, err)
		if len(messages) != 1 || len(messages[0].Data) != 16 {
			t.Fatalf("the kernel says no time: %v", messages)
		}
		spec := messages[0].Data // struct timespec
		return time.Unix(int64(binary.NativeEndian.Uint64(spec)), int64(binary.NativeEndian.Uint64(spec[8:])))
	}

	b := newBind(setup{Uplinks: []Uplink{{Name: "wan"}, {Name: "lte"}, {Name: "dsl"}}, Hubs: 1}, 1)
	_, _, err = b.Open(0)
	ok(t, err)
	t.Cleanup(func() { ok(t, b.Close()) })
	for i, w := range b.ways {
		w.use("lo")
		b.hubs[0].paths[i].set([]netip.AddrPort{hub.LocalAddr().(*net.UDPAddr).AddrPort()}, false)
	}
	ok(t, b.Send([][]byte{datagram(1, 148, 7, 0)}, &endpoint{}))
	b.resend(0) // a kick
	last := came()
	for n := range 3 { // two more uplinks, and the kick
		at := came()
		if d := at.Sub(last); d < apart-time.Millisecond { // somebody may be setting the kernel's clock right
			t.Errorf("copy %d came in %v after the one before", n+1, d)
		}
		last = at
	}
}
