package console

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func testJournal(t *testing.T) *journal {
	t.Helper()
	j := &journal{path: filepath.Join(t.TempDir(), "srv01.log"), log: zap.NewNop(), forgotten: prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})}
	t.Cleanup(j.close)
	return j
}

// Days of a machine that says as much as it may: two files, 10 MiB together, the newest
// lines in them, for nobody else's eyes.
func TestRotation(t *testing.T) {
	j := testJournal(t)
	at, n := noon, 0
	line := strings.Repeat("x", 200)
	for range 60000 { // 13 MB
		j.add(entry{at: at, text: fmt.Sprintf("%s %d", line, n)})
		n++
		at = at.Add(300 * time.Millisecond)
		if n%1000 == 0 {
			j.flush()
		}
	}
	j.flush()
	var all int64
	for _, path := range []string{j.path, j.path + ".1"} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > maxFile || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, mode %v", path, fi.Size(), fi.Mode())
		}
		all += fi.Size()
	}
	if all < maxFile {
		t.Errorf("only %d bytes are kept", all)
	}
	list, err := j.tail(30000) // reaches into the older file
	if err != nil || len(list) != 30000 {
		t.Fatalf("%d lines, %v", len(list), err)
	}
	for i, s := range list {
		if !strings.HasSuffix(s, fmt.Sprintf("x %d", n-30000+i)) {
			t.Fatalf("line %d is %q", i, s)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(j.path)); len(entries) != 2 {
		t.Errorf("files: %v", entries)
	}
}

// A line that babbles for hours: little of it is written, and the log says what is missing.
func TestBabble(t *testing.T) {
	j := testJournal(t)
	const seconds = 4 * 3600
	at, written := noon, 0
	for range seconds { // 11 kB/s
		for range 10 {
			j.add(entry{at: at, text: strings.Repeat("x", 1100)})
		}
		at = at.Add(time.Second)
		j.mu.Lock()
		written += len(j.buf)
		j.buf = nil
		j.mu.Unlock()
	}
	if most := burst + seconds*(perSecond+100); written > most || written < burst {
		t.Errorf("%d bytes in 4 h, want at most %d", written, most)
	}
	at = at.Add(time.Minute)
	j.add(entry{at: at, text: "quiet again"})
	j.flush()
	list, err := j.tail(2)
	if err != nil || len(list) != 2 || !strings.Contains(list[0], " bytes are not kept: the machine says too much") || !strings.HasSuffix(list[1], "  quiet again") {
		t.Errorf("%q, %v", list, err)
	}
}

// A power cut leaves half a line, or blocks of zeros: the log is read, and goes on with a line of its own.
func TestPowerCut(t *testing.T) {
	for name, rest := range map[string]string{"half a line": "2026-11-23T12:00:01.000Z  hal", "zeros": strings.Repeat("\x00", 500), "nothing": ""} {
		j := testJournal(t)
		if err := os.WriteFile(j.path, []byte("2026-11-23T12:00:00.000Z  whole\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		j.add(entry{at: noon, text: "after"})
		j.flush()
		list, err := j.tail(10)
		if err != nil || list[0] != "2026-11-23T12:00:00.000Z  whole" || list[len(list)-1] != "2026-11-23T12:00:00.000Z  after" {
			t.Errorf("%s: %q, %v", name, list, err)
		}
	}
}

// A disk that takes nothing costs the log, is said once, and heals.
func TestBrokenDisk(t *testing.T) {
	j := testJournal(t)
	core, logs := observer.New(zap.InfoLevel)
	j.log = zap.New(core)
	good := j.path
	j.path = filepath.Join(filepath.Dir(good), "missing", "x.log")
	for range 3 {
		j.add(entry{at: noon, text: "lost"})
		j.flush()
	}
	if logs.Len() != 1 {
		t.Errorf("said %d times", logs.Len())
	}
	j.path = good
	j.add(entry{at: noon, text: "kept"})
	j.flush()
	if list, err := j.tail(5); err != nil || len(list) != 1 || !strings.HasSuffix(list[0], "  kept") {
		t.Errorf("%q, %v", list, err)
	}
}

func TestNoLog(t *testing.T) {
	j := testJournal(t)
	if list, err := j.tail(5); err != nil || len(list) != 0 {
		t.Errorf("%q, %v", list, err)
	}
	if _, err := os.Stat(j.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made a file: %v", err)
	}
}
