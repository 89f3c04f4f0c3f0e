package ticket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// dropped is a drop directory that is watched, with its desk.
type dropped struct {
	*bench
	dir  string
	stop func() error // ends Run, and gives its error

	mu sync.Mutex // guards bench.told, which Announce fills
}

// drop watches a new directory until the test ends. srv01 has 192.168.77.100 and
// 52:54:00:12:34:56, srv02 has 192.168.77.101.
func drop(t *testing.T, change func(*Drop)) *dropped {
	t.Helper()
	d := &dropped{bench: newBench(&disk{docs: map[string][]byte{}}), dir: t.TempDir()}
	announce := d.Announce
	d.Announce = func(tk Ticket) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return announce(tk)
	}
	w := &Drop{Dir: d.dir, Desk: d.Desk, Log: zap.New(d.Log.Core()), settle: 300 * time.Millisecond,
		MachineOf: func(a netip.Addr) (string, bool) {
			m := map[string]string{"192.168.77.100": "srv01", "fd00::100": "srv01", "192.168.77.101": "srv02"}[a.String()]
			return m, m != ""
		},
		Named: func(s string) (string, bool) {
			m := map[string]string{"srv01": "srv01", "52-54-00-12-34-56": "srv01", "525400123456": "srv01", "srv02": "srv02"}[strings.ToLower(s)]
			return m, m != ""
		}}
	if change != nil {
		change(w)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() { close(ready) }) }()
	d.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { d.stop() })
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return d
}

// put copies a file in as a good program does: written elsewhere, then renamed.
func (d *dropped) put(t *testing.T, name string, data []byte) {
	t.Helper()
	tmp := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(d.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func (d *dropped) left(t *testing.T) []string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// leftPlain is left without the random part of what was set aside.
func (d *dropped) leftPlain(t *testing.T) (names []string) {
	for _, name := range d.left(t) {
		if i := len(name) - len(".12345678.refused"); strings.HasSuffix(name, refused) && i > 0 {
			name = name[:i] + refused
		}
		names = append(names, name)
	}
	return names
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited 30 s in vain for: %s", what)
}

func TestDropMatchesMachines(t *testing.T) {
	here, there := "192.168.77.100:49161", "192.168.77.101:49161"
	for _, c := range []struct{ file, listeners, want string }{
		{"srv01.xml", there, "srv01"},
		{"SRV01.XML", "10.0.0.1:1", "srv01"},
		{"inv32-srv01.xml", "10.0.0.1:1", "srv01"},
		{"srv01_inv32.xml", "10.0.0.1:1", "srv01"},
		{"52-54-00-12-34-56.xml", "10.0.0.1:1", "srv01"},
		{"inv32_525400123456.XML", "10.0.0.1:1", "srv01"},
		{"inv32.xml", "10.0.0.1:1 " + there, "srv02"},
		{"inv32", "[fe80::1]:1 [fd00::100]:2 " + here, "srv01"},
		{"minint-7a6b.xml", here, "srv01"},
		{"inv32 (2).xml", here + " " + there, ""},
		{"srv03.xml", "10.0.0.1:1", ""},
	} {
		d := drop(t, nil)
		raw := encodings["UTF-16LE with mark"](inv32(dartCode, strings.Fields(c.listeners)...))
		d.put(t, c.file, raw)
		eventually(t, c.file+" is taken", func() bool { return len(d.left(t)) == 0 })
		list := d.List("")
		if len(list) != 1 || list[0].Machine != c.want || list[0].Verified || list[0].Code != dartCode || !bytes.Equal(list[0].Raw, raw) || len(d.told) != 1 {
			t.Errorf("%s: %v, announced %d times", c.file, list, len(d.told))
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestDropOneTicket: the same file again, under any name, is no second ticket, and
// one that came with the token stays as it is.
func TestDropOneTicket(t *testing.T) {
	d := drop(t, nil)
	if _, err := d.DaRT("srv01", "0badcafe", true, srv01, inv32(dartCode, "192.168.77.100:49161")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"inv32.xml", "srv01.xml", "inv32.xml"} {
		d.put(t, name, inv32(dartCode, "192.168.77.100:1"))
		eventually(t, name+" is taken", func() bool { return len(d.left(t)) == 0 })
	}
	if list := d.List(""); len(list) != 1 || !list[0].Verified || list[0].Port != 49161 || len(d.told) != 1 {
		t.Errorf("%v, announced %d times", list, len(d.told))
	}
}

// TestDropFindsWhatWasThere: files that came while the daemon was down.
func TestDropFindsWhatWasThere(t *testing.T) {
	d := drop(t, func(w *Drop) {
		if err := os.WriteFile(filepath.Join(w.Dir, "srv01.xml"), inv32(dartCode, "10.0.0.1:1"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "it is taken", func() bool { return len(d.left(t)) == 0 && len(d.List("srv01")) == 1 })
}

// TestDropWaitsForTheWriter: a file that is being written is not read too
// early, however long its writer takes.
func TestDropWaitsForTheWriter(t *testing.T) {
	d := drop(t, nil)
	raw := encodings["UTF-16LE"](inv32(dartCode, "192.168.77.100:49161"))
	f, err := os.Create(filepath.Join(d.dir, "srv01.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := os.Open(f.Name()); err != nil || !beingWritten(r) {
		t.Skipf("this file system has no leases: %v", err)
	} else {
		r.Close()
	}
	for _, part := range [][]byte{nil, raw[:len(raw)/2], raw[len(raw)/2 : len(raw)-20]} {
		if _, err := f.Write(part); err != nil {
			t.Fatal(err)
		}
		d.put(t, "srv02.xml", inv32(otherCode, "10.0.0.1:1")) // wakes the watcher, and shows that it has looked
		eventually(t, "the other file is taken", func() bool { return !slices.Contains(d.left(t), "srv02.xml") })
		if err := os.Chtimes(f.Name(), time.Now(), time.Now().AddDate(-1, 0, 0)); err != nil { // as copies have the time of what was copied
			t.Fatal(err)
		}
		time.Sleep(400 * time.Millisecond) // longer than the test's settle
		d.put(t, "srv02.xml", inv32(otherCode, "10.0.0.1:1"))
		eventually(t, "the other file is taken again", func() bool { return !slices.Contains(d.left(t), "srv02.xml") })
		if len(d.List("srv01")) != 0 {
			t.Fatalf("taken while its writer had it open: problem %q", d.List("srv01")[0].Problem)
		}
	}
	f.Write(raw[len(raw)-20:])
	f.Close()
	eventually(t, "the whole file is taken", func() bool { return len(d.left(t)) == 0 })
	if list := d.List("srv01"); len(list) != 1 || list[0].Problem != "" || len(d.told) != 2 {
		t.Errorf("%v, announced %d times", list, len(d.told))
	}
}

// TestDropUnreadable: what stays unreadable is kept byte for byte and announced.
func TestDropUnreadable(t *testing.T) {
	d := drop(t, nil)
	d.put(t, "srv01.xml", []byte("<E> 118-497-589"))
	tomorrow := time.Now().AddDate(0, 0, 1) // a machine's clock
	if err := os.Chtimes(filepath.Join(d.dir, "srv01.xml"), tomorrow, tomorrow); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	eventually(t, "it is taken", func() bool { return len(d.left(t)) == 0 })
	if list := d.List("srv01"); len(list) != 1 || list[0].Problem == "" || string(list[0].Raw) != "<E> 118-497-589" || len(d.told) != 1 {
		t.Errorf("%v", list)
	}
}

// TestDropTouchesNothingElse: links, pipes, devices and directories are not
// followed, hold nothing up and keep no ticket's name; strangers' files stay as they are.
func TestDropTouchesNothingElse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, inv32(otherCode, "10.0.0.1:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(t.TempDir(), "dir") // comes with what is in it: at any moment it gets another name
	d := drop(t, nil)
	in := func(name string) string { return filepath.Join(d.dir, name) }
	if err := errors.Join(
		os.Symlink(secret, in("link.xml")), os.Symlink(in("loop.xml"), in("loop.xml")), syscall.Mkfifo(in("pipe.xml"), 0o600),
		os.Mkdir(full, 0o700), os.WriteFile(full+"/srv01.xml", inv32(otherCode, "10.0.0.1:1"), 0o600), os.Rename(full, in("dir.xml")),
		os.WriteFile(in("notes-"+dartCode+".txt"), []byte("mine"), 0o600),
		os.WriteFile(in("big.xml"), make([]byte, MaxReport+1), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	want := []string{"big.xml.refused", "dir.xml.refused", "link.xml.refused", "loop.xml.refused", "notes-" + dartCode + ".txt", "pipe.xml.refused"}
	if err := syscall.Mknod(in("zero.xml"), syscall.S_IFCHR|0o600, 1<<8|5); err == nil { // /dev/zero, where root may
		want = append(want, "zero.xml.refused")
	}
	for range 2 {
		d.put(t, "srv01.xml", inv32(dartCode, "10.0.0.1:1"))
		eventually(t, "the ticket is taken", func() bool { return slices.Equal(d.leftPlain(t), want) })
	}
	if list := d.List(""); len(list) != 1 || list[0].Code != dartCode {
		t.Errorf("tickets: %v", list)
	}
	if got, err := os.ReadFile(secret); err != nil || !bytes.Contains(got, []byte(otherCode)) {
		t.Errorf("the link's target is now %q, %v", got, err)
	}
	warned := map[string]int{}
	for _, e := range d.lines.FilterField(zap.String("file", "link.xml")).All() {
		warned[e.Message]++
	}
	if len(warned) != 1 || warned["what has a ticket's name in the drop directory is none, and gets the name .refused: it is a link, a directory, a pipe or a device"] != 1 {
		t.Errorf("warned of the link: %v", warned)
	}
	for _, e := range d.lines.All() {
		if s := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(s, dartCode) || strings.Contains(s, otherCode) {
			t.Errorf("a ticket number is in the log: %s", s)
		}
	}
}

// TestDropFullDisk: a file goes only when the desk has it on disk.
func TestDropFullDisk(t *testing.T) {
	d := drop(t, nil)
	d.disk.mu.Lock()
	d.disk.full = true
	d.disk.mu.Unlock()
	d.put(t, "srv01.xml", inv32(dartCode, "10.0.0.1:1"))
	eventually(t, "the ticket is listed", func() bool { return len(d.List("srv01")) == 1 })
	d.put(t, "srv02.xml", []byte("wakes"))
	eventually(t, "both are refused", func() bool { return len(d.List("")) == 2 })
	if got := d.left(t); len(got) != 2 {
		t.Fatalf("left: %v", got)
	}
	d.disk.mu.Lock()
	d.disk.full = false
	d.disk.mu.Unlock()
	d.put(t, "inv32.xml", inv32(dartCode, "192.168.77.100:1")) // wakes; the rescan would in 30 s
	eventually(t, "all are stored and removed", func() bool { return len(d.left(t)) == 0 })
}

// TestDropFlood: more files than are taken in ten minutes neither hold up the
// others nor are lost.
func TestDropFlood(t *testing.T) {
	d := drop(t, nil)
	for i := range 3 * maxChanges {
		d.put(t, fmt.Sprintf("x%03d.xml", i), []byte("junk "+fmt.Sprint(i)))
	}
	d.put(t, "srv01.xml", inv32(dartCode, "10.0.0.1:1"))
	eventually(t, "the ticket is taken", func() bool { return len(d.List("srv01")) == 1 })
	eventually(t, "as many as may", func() bool { return len(d.left(t)) == 2*maxChanges })
	if n := len(d.List("")); n > 1+keepUnverified {
		t.Errorf("%d tickets", n)
	}
}

func TestDropDirectory(t *testing.T) {
	none := &Drop{Dir: filepath.Join(t.TempDir(), "none")}
	if err := none.Run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "make it") {
		t.Errorf("a directory that is not there: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Drop{Dir: file}).Run(t.Context(), func() { t.Error("ready") }); err == nil {
		t.Error("a file was watched")
	}
	for name, change := range map[string]func(dir string) error{
		"removed": os.Remove,
		"renamed": func(dir string) error { return os.Rename(dir, dir+".old") },
		"replaced": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700))
		},
	} {
		w := &Drop{Dir: filepath.Join(t.TempDir(), "drop"), Desk: newBench(&disk{docs: map[string][]byte{}}).Desk}
		if err := os.Mkdir(w.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- w.Run(t.Context(), func() { close(ready) }) }()
		<-ready
		if err := change(w.Dir); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: still watched", name)
		}
	}
}
