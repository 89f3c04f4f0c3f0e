package tftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"rescuebox/appliance/boot"
)

func TestWindowsOfAllSizes(t *testing.T) {
	for _, size := range []int{0, 1, 1456, 4 * 1456, 64 * 1456, 100_000, 65_700 * 8} {
		tree, data := treeWith(t, size)
		addr, _ := start(t, tree, nil)
		for _, window := range []int{1, 2, 4, 44, 45, 64, 65535} {
			block := 1456
			if size == 65_700*8 {
				block = 8 // the numbers wrap
			}
			f := &fetch{server: addr, path: "f", block: block, window: window}
			var got bytes.Buffer
			if err := f.get(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("size %d, window %d: %d bytes came, %v", size, window, got.Len(), err)
			}
			if f.size != min(window, maxWindow) || f.options["msftwindow"] != "" {
				t.Errorf("size %d, window %d: options %v", size, window, f.options)
			}
			// A busy machine may keep the client from its socket for longer than a
			// time-out. How often blocks go out exactly, model_test.go knows.
			if blocks := size/block + 1; f.got > blocks*5/4+16*f.size {
				t.Errorf("size %d, window %d: %d packets came for %d blocks", size, window, f.got, blocks)
			}
		}
		eventually(t, "all are served", func() bool { s, _ := tree.seen(); return len(s) == 7 })
	}
}

// Windows' boot programs set the window anew with every acknowledgement, that
// of the OACK too. The client takes what comes as the window it asked for, and
// would wait in silence for a block that is missing.
func TestWindowThatWindowsSets(t *testing.T) {
	tree, data := treeWith(t, 3_000_000)
	addr, _ := start(t, tree, nil)
	dice := rand.New(rand.NewSource(2))
	f := &fetch{server: addr, path: "f", block: 1456, window: 4, msft: func() byte { return byte(1 + dice.Intn(255)) }}
	var got bytes.Buffer
	if err := f.get(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came, %v", got.Len(), err)
	}
	if f.options["msftwindow"] != "27182" || f.options["windowsize"] != "4" {
		t.Errorf("options %v", f.options)
	}
	// A window of another size than the client waits for ends in a time-out, and goes out again. So does, once or
	// twice, one of at most 255 blocks on a busy machine.
	if blocks := len(data)/1456 + 1; f.got > blocks*5/4+3*255 {
		t.Errorf("%d packets came for %d blocks", f.got, blocks)
	}
}

func TestWindowMovesForwardOnly(t *testing.T) {
	w := window{acked: 65530, sent: 65546, size: 16}
	for _, step := range []struct {
		number      uint16
		rest        string
		want        news
		acked, size int64
	}{
		{65529, "", stale, 65530, 16},
		{11, "", stale, 65530, 16},          // 65547 was never sent
		{65530, "\x20", lacking, 65530, 16}, // Windows' byte, without having agreed to it
		{65535, "", forward, 65535, 16},
		{0, "", forward, 65536, 16},
		{65535, "", stale, 65536, 16},
		{10, "", forward, 65546, 16},
		{10, "", lacking, 65546, 16},
	} {
		if got := w.ack(step.number, []byte(step.rest)); got != step.want || w.acked != step.acked || w.size != step.size {
			t.Errorf("acknowledged %d: %v, %+v, want %+v", step.number, got, w, step)
		}
	}
	w.msft = true
	for _, b := range []byte{200, 0, 7} { // no window of nothing
		w.ack(10, []byte{b})
		if want := map[byte]int64{200: 200, 0: 200, 7: 7}[b]; w.target() != w.acked+want {
			t.Errorf("after %d: %+v", b, w)
		}
	}
}

func TestArrivesWholeWithLossInWindows(t *testing.T) {
	size := 200_000_000
	if testing.Short() {
		size /= 20
	}
	tree, data := treeWith(t, size)
	addr, _ := start(t, tree, nil)
	for _, f := range []*fetch{{window: 16}, {window: 64, nag: true}} {
		dice := rand.New(rand.NewSource(1))
		f.server = lossy(t, addr, func(p []byte) bool { return p[1] == opDATA && dice.Float64() < 0.02 })
		f.path, f.block = "f", 1456
		hash, begin := sha256.New(), time.Now()
		if err := f.get(hash); err != nil || [32]byte(hash.Sum(nil)) != sha256.Sum256(data) {
			t.Errorf("window %d: %d packets, %v, %x", f.window, f.got, err, hash.Sum(nil))
		}
		took := time.Since(begin)
		t.Logf("window %d: %.1f MB/s, %d packets for %d blocks", f.window, float64(size)/1e6/took.Seconds(), f.got, size/1456+1)
		// Go-back-n costs half a window for every block that is lost.
		if blocks := size/1456 + 1; f.got > blocks*(100+2*f.window*3/2)/100 {
			t.Errorf("window %d: %d packets came for %d blocks", f.window, f.got, blocks)
		}
	}
}

// A client that acknowledges in the middle of its window, or says with every
// block that comes late what it lacks, must not get everything several times.
func TestOddClientsAreNotFlooded(t *testing.T) {
	tree, data := treeWith(t, 2_000_000)
	addr, _ := start(t, tree, nil)
	for name, f := range map[string]*fetch{
		"early": {window: 16, early: 4},
		"nags":  {window: 16, nag: true},
	} {
		f.path, f.block = "f", 1456
		f.server = addr
		if f.nag {
			dropped := false
			f.server = lossy(t, addr, func(p []byte) bool { // the first block of a window, once
				first := p[1] == opDATA && binary.BigEndian.Uint16(p[2:]) == 33 && !dropped
				dropped = dropped || first
				return first
			})
		}
		var got bytes.Buffer
		if err := f.get(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s: %d bytes came, %v", name, got.Len(), err)
		}
		if blocks := len(data)/1456 + 1; f.got > blocks*3/2 {
			t.Errorf("%s: %d packets came for %d blocks", name, f.got, blocks)
		}
	}
}

func TestFloodOfAcknowledgements(t *testing.T) {
	tree, _ := treeWith(t, 2_000_000)
	addr, _ := start(t, tree, nil)
	c := dialTest(t, addr)
	c.request(rq(opRRQ, "f", "octet", "blksize", "1456", "windowsize", "8"))
	if op, _, _, err := c.receive(soon); op != opOACK {
		t.Fatal(op, err)
	}
	c.answer(ack(0))
	for b := uint16(1); b <= 8; b++ {
		c.block(t, b)
	}
	begin := time.Now()
	for i := range 20_000 {
		c.answer(ack(uint16(0)))
		c.answer(ack(uint16(9 + i))) // never sent
	}
	came := 0
	for came <= 40_000 {
		if _, n, _, err := c.receive(50 * time.Millisecond); err != nil || n > 8 {
			break
		}
		came++
	}
	took := time.Since(begin)
	// One window for every round trip that was waited for, ever longer.
	if most := 8 * (3 + int(took/(10*time.Millisecond))); came > most {
		t.Errorf("%d packets in answer to 40000, in %v; want at most %d", came, took, most)
	}
}

func TestBlockSizeOfTheClient(t *testing.T) {
	tree, data := treeWith(t, 10_000)
	tree.block = 1024
	addr, _ := start(t, tree, nil)
	for _, block := range []int{512, 1456} {
		f := &fetch{server: addr, path: "f", block: block, window: 4}
		var got bytes.Buffer
		if err := f.get(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d bytes came, %v", got.Len(), err)
		}
		if want := fmt.Sprint(min(block, 1024)); f.options["blksize"] != want {
			t.Errorf("asked for %d, got %v", block, f.options)
		}
	}
	// A ROM that asks for a block size and cannot stand it hears nothing of one.
	strict := &dirTree{dir: tree.dir, block: plainBlock}
	addr, _ = start(t, strict, nil)
	var got bytes.Buffer
	options, err := dialTest(t, addr).get(rq(opRRQ, "f", "octet", "blksize", "1456", "tsize", "0"), &got)
	if _, said := options["blksize"]; err != nil || said || options["tsize"] != "10000" || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("at most %d: options %v, %d bytes came, %v", plainBlock, options, got.Len(), err)
	}
	options, err = dialTest(t, addr).get(rq(opRRQ, "f", "octet", "blksize", "128"), &bytes.Buffer{})
	if err != nil || options["blksize"] != "128" {
		t.Errorf("asked for 128: options %v, %v", options, err)
	}
}

// A client may want to wait longer for a packet than we wait for clients.
func TestLongTimeoutOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := false
		m := &model{delay: time.Millisecond, cost: time.Millisecond, window: 1, block: plainBlock, next: 1,
			drop: func(code uint16) bool { first := code == 2 && !lost; lost = lost || first; return first }}
		s := &sender{ctx: t.Context(), wire: m, air: semaphore.NewWeighted(maxInAir), patience: defaultPatience, heard: func() {}}
		data := make([]byte, 3*plainBlock)
		if err := s.send(&request{path: "f", timeout: time.Minute}, bytes.NewReader(data), int64(len(data))); err != nil || len(m.got) != len(data) {
			t.Errorf("%d bytes came, %v", len(m.got), err)
		}
	})
}

// The last acknowledgement of a window can be missing as that of a block can.
func TestLastWindowWithoutAcknowledgement(t *testing.T) {
	for name, end := range map[string]func(*client){
		"closes":       func(c *client) { c.conn.Close() },
		"falls silent": func(*client) {},
	} {
		t.Run("has all, "+name, func(t *testing.T) {
			t.Parallel()
			tree, _ := treeWith(t, 8*512-1)
			addr, _ := start(t, tree, func(s *Server) { s.patience = shortPatience })
			c := dialTest(t, addr)
			c.request(rq(opRRQ, "f", "octet", "windowsize", "4"))
			c.receive(soon)
			c.answer(ack(0))
			drain(c, 4)
			c.answer(ack(4))
			drain(c, 4)
			end(c)
			eventually(t, "an end", func() bool { s, e := tree.seen(); return len(s)+len(e) > 0 })
			if s, e := tree.seen(); len(s) != 1 {
				t.Errorf("served %v, events %v", s, e)
			}
		})
	}
}

// Who asks again for a block of the last window, and falls silent then, has not got it.
func TestWhoAsksAgainHasNotGotIt(t *testing.T) {
	for _, asks := range []int{0, 20} {
		synctest.Test(t, func(t *testing.T) {
			m := &model{delay: time.Millisecond, window: 4, block: plainBlock, next: 1}
			m.drop = func(code uint16) bool {
				last := code > 4 && code <= 8 // an OACK's is not
				for ; last && asks > 0; asks-- {
					m.answers = append(m.answers, answer{time.Now().Add(time.Duration(1+len(m.answers)) * 50 * time.Millisecond), 4})
				}
				return last
			}
			want := asks == 0
			s := &sender{ctx: t.Context(), wire: m, air: semaphore.NewWeighted(maxInAir), patience: shortPatience, heard: func() {}}
			data := make([]byte, 8*plainBlock-1)
			err := s.send(&request{path: "f", window: 4}, bytes.NewReader(data), int64(len(data)))
			if err != errSilent || s.acked != 4 || s.allOut() != want {
				t.Errorf("%v, %d blocks acknowledged, has all: %v, want %v", err, s.acked, s.allOut(), want)
			}
		})
	}
}

// gone is a wire whose client acknowledges the OACK and leaves.
type gone struct{ heard int }

func (w *gone) sendAll([]byte, int) error { return nil }
func (w *gone) wait(time.Duration) bool   { return true }
func (w *gone) receive(p []byte, _ time.Duration) (int, error) {
	if w.heard++; w.heard == 1 {
		return copy(p, ack(0)), nil
	}
	return 0, errGone
}

func TestWhoLeavesBeforeTheLastWindowHasNothing(t *testing.T) {
	s := &sender{ctx: t.Context(), wire: &gone{}, air: semaphore.NewWeighted(maxInAir), patience: time.Second, heard: func() {}}
	err := s.send(&request{path: "f", window: 4}, bytes.NewReader(make([]byte, 1000)), 1000)
	if err != errGone || s.allOut() {
		t.Errorf("%v, all out: %v", err, s.allOut())
	}
}

// refused is a wire to a client that closes its port in the middle of a window.
type refused struct {
	gone
	sent int
}

func (w *refused) sendAll([]byte, int) error {
	if w.sent++; w.sent > 2 { // the OACK, and what of the window lies in memory
		return errGone
	}
	return nil
}

// What a transfer had of the air is the others', however it ends.
func TestWhoIsGoneInTheMiddleOfAWindowLeavesTheAir(t *testing.T) {
	air := semaphore.NewWeighted(maxInAir)
	s := &sender{ctx: t.Context(), wire: &refused{}, air: air, patience: time.Second, heard: func() {}}
	data := make([]byte, 64*1456)
	err := s.send(&request{path: "f", blksize: 1456, window: 64}, bytes.NewReader(data), int64(len(data)))
	if err != errGone || !air.TryAcquire(maxInAir) {
		t.Errorf("%v, and what it had is kept for ever", err)
	}
}

func drain(c *client, packets int) {
	for range packets {
		c.receive(soon)
	}
}

// Where the kernel cannot segment, the same packets go out one by one.
func TestSegmentsAndSinglePacketsAreTheSame(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	for _, single := range []bool{false, true} {
		peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: local.AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		s, err := dial(local, peer.LocalAddr().(*net.UDPAddr).AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		s.single = single
		sent := bytes.Repeat([]byte("0123456789"), 57)
		if err := s.sendAll(sent, 100); err != nil {
			t.Fatal(err)
		}
		if err := s.sendAll([]byte("one"), 100); err != nil {
			t.Fatal(err)
		}
		s.last(bytes.Repeat([]byte("x"), 150)) // longer than the packets before
		var sizes []int
		buf := make([]byte, 1000)
		for range 8 {
			peer.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, err := peer.Read(buf)
			if err != nil {
				t.Fatal(sizes, err)
			}
			sizes = append(sizes, n)
		}
		if fmt.Sprint(sizes) != "[100 100 100 100 100 70 3 150]" {
			t.Errorf("single %v: packets of %v bytes", single, sizes)
		}
		if !single && s.segment != 0 {
			t.Error("the error packet was cut")
		}
	}
}

func TestStrangersLeaveRoom(t *testing.T) {
	var all transfers
	port := uint16(0)
	admit := func(standing, heard bool) bool {
		port++
		_, tr, v := all.admit(t.Context(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(port >> 8), byte(port)}), port), []byte{byte(port)})
		if v != admitted {
			return false
		}
		d := boot.Decision{Machine: boot.Machine{Name: fmt.Sprint(port)}}
		if standing {
			d.Order.By = byStanding
		}
		if !all.place(tr, d) {
			all.release(tr)
			return false
		}
		if heard {
			tr.hear()
		}
		return true
	}
	for range 300 {
		admit(true, true)
	}
	if n := len(all.running); n != maxStanding {
		t.Errorf("%d transfers of strangers", n)
	}
	if admit(true, true) {
		t.Error("one stranger too many")
	}
	for range maxTransfers - maxStanding {
		if !admit(false, true) {
			t.Fatal("no room for an ordered machine")
		}
	}
	if admit(false, true) {
		t.Error("one transfer too many")
	}
}

func TestWhoWasNeverHeardGivesWay(t *testing.T) {
	var all transfers
	var first context.Context
	for i := range 2 * maxTransfers {
		ctx, tr, v := all.admit(t.Context(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1), []byte{1})
		if v != admitted || !all.place(tr, boot.Decision{}) {
			t.Fatalf("transfer %d: %v", i, v)
		}
		if i == 0 {
			first = ctx
			tr.hear()
		}
		if i == 1 {
			defer func() {
				if !errors.Is(context.Cause(ctx), errCrowded) {
					t.Error("the oldest did not give way:", context.Cause(ctx))
				}
			}()
		}
	}
	if first.Err() != nil || len(all.running) != maxTransfers {
		t.Error(first.Err(), len(all.running))
	}
}

func TestTransfersOfOneMachineAreBounded(t *testing.T) {
	var all transfers
	d := boot.Decision{Machine: boot.Machine{Name: "srv01"}}
	for i := range maxPerMachine + 1 {
		_, tr, _ := all.admit(t.Context(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1), []byte{1})
		if ok := all.place(tr, d); ok != (i < maxPerMachine) {
			t.Errorf("transfer %d: %v", i, ok)
		}
		tr.hear()
	}
}

// script is a wire whose client does what a list of bytes says, without a
// network: acknowledges something, or is silent.
type script struct {
	t      *testing.T
	data   []byte
	block  int
	bytes  []byte
	sender *sender
	sent   int // windows and single packets
}

func (w *script) sendAll(p []byte, size int) error {
	w.sent++
	for len(p) > 0 {
		one := p[:min(size, len(p))]
		p = p[len(one):]
		if one[1] == opOACK {
			continue
		}
		// The number on the wire stands for one of the blocks of the window.
		n := w.sender.acked + int64(binary.BigEndian.Uint16(one[2:])-uint16(w.sender.acked))
		from := min(int(n-1)*w.block, len(w.data))
		if n > w.sender.target() || !bytes.Equal(one[4:], w.data[from:min(from+w.block, len(w.data))]) {
			w.t.Fatalf("block %d of %d bytes while %d are acknowledged", n, len(one), w.sender.acked)
		}
	}
	return nil
}

func (w *script) wait(d time.Duration) bool {
	if len(w.bytes) > 0 && w.bytes[0]&1 == 0 {
		return true
	}
	time.Sleep(d)
	return false
}

func (w *script) receive(p []byte, timeout time.Duration) (int, error) {
	if len(w.bytes) < 4 {
		time.Sleep(timeout)
		w.bytes = nil
		return 0, errTimeout
	}
	b := w.bytes[:4]
	w.bytes = w.bytes[4:]
	time.Sleep(time.Duration(b[3]) * 100 * time.Microsecond)
	switch b[0] & 7 {
	case 7:
		time.Sleep(timeout)
		return 0, errTimeout
	case 6:
		return copy(p, b), nil
	}
	n := copy(p, ack(uint16(w.sender.acked+int64(b[1])-2)))
	if b[0]&8 != 0 {
		n += copy(p[n:], b[2:3])
	}
	return n, nil
}

// FuzzSender lets a client acknowledge whatever it likes.
func FuzzSender(f *testing.F) {
	f.Add(uint16(20000), uint16(1456), byte(4), true, []byte("\x00\x03\x00\x00\x00\x06\x00\x00\x07\x00\x00\x00\x08\x04\x20\x01"))
	f.Add(uint16(1), uint16(512), byte(64), false, []byte("\x00\x42\x00\x00\x00\x42\x00\x00"))
	f.Fuzz(func(t *testing.T, size, block uint16, window byte, msft bool, bytes_ []byte) {
		synctest.Test(t, func(t *testing.T) {
			data := make([]byte, int(size)*4)
			rand.New(rand.NewSource(int64(size))).Read(data)
			r := &request{path: "f", blksize: max(minBlock, int(block%2000)), window: int(min(window, maxWindow)), msft: msft && window > 0}
			w := &script{t: t, data: data, block: r.block(), bytes: bytes_}
			air := semaphore.NewWeighted(maxInAir)
			s := &sender{ctx: t.Context(), wire: w, air: air, patience: time.Second, heard: func() {}}
			w.sender = s
			inputs := len(bytes_) / 4
			err := s.send(r, bytes.NewReader(data), int64(len(data)))
			if err == nil && s.acked != int64(len(data)/r.block())+1 {
				t.Fatalf("done after %d blocks of %d bytes", s.acked, len(data))
			}
			var peer *peerError
			if err != nil && err != errSilent && !errors.As(err, &peer) {
				t.Fatal(err)
			}
			// Every packet of the client is worth at most one window, of a few sends.
			windows := inputs + 30
			if most := windows * (2 + 255/s.data.slots); w.sent > most {
				t.Fatalf("%d sends after %d packets", w.sent, inputs)
			}
			if !air.TryAcquire(maxInAir) {
				t.Fatal("something is still in the air")
			}
		})
	})
}

func TestStreamFindsEveryBlock(t *testing.T) {
	dice := rand.New(rand.NewSource(3))
	for _, size := range []int{0, 1, 511, 512, 513, 100_000, 512 * 64, 512 * 128} {
		data := make([]byte, size)
		dice.Read(data)
		name := filepath.Join(t.TempDir(), "f")
		os.WriteFile(name, data, 0o644)
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		s := newStream(file, 512, int64(size))
		s.seek = func(offset int64) error { _, err := file.Seek(offset, 0); return err }
		last := int64(size/512 + 1)
		for range 300 {
			from := 1 + dice.Int63n(last)
			to := from + dice.Int63n(70)
			p, err := s.packets(from, to)
			if err != nil || len(p) == 0 {
				t.Fatal(from, to, err)
			}
			for n := from; len(p) > 0; n++ {
				one := p[:min(516, len(p))]
				p = p[len(one):]
				want := data[(n-1)*512 : min(int(n)*512, size)]
				if n > to || binary.BigEndian.Uint16(one[2:]) != uint16(n) || !bytes.Equal(one[4:], want) {
					t.Fatalf("size %d, blocks %d to %d: block %d is wrong", size, from, to, n)
				}
			}
		}
	}
}
