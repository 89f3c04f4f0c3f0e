package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Limits of a log. A kernel that boots says some 200 KiB; a line that babbles for days must
// neither push that out nor wear the flash down: 1 KiB/s are 84 MiB a day.
const (
	maxFile   = 5 << 20 // bytes; there are two files
	maxBuffer = 1 << 20 // bytes that wait for the disk
	burst     = 1 << 20 // bytes that may come at once
	perSecond = 1 << 10 // and those that may come for long
)

// journal is the log of one console on the disk: path and, older, path.1. Bytes go to the disk
// once a second and are not synced, for the flash's sake: a power cut costs what the kernel had
// not written yet, some 30 s, and nothing of what was before.
type journal struct {
	path      string
	log       *zap.Logger
	forgotten prometheus.Counter

	mu      sync.Mutex // never held while the disk works
	buf     []byte
	bucket  bucket
	skips   bool // the line that is open is left out
	skipped int  // bytes left out since the last that was kept

	disk   sync.Mutex
	f      *os.File
	size   int64
	failed bool // and it was said
}

// add takes an entry. It never waits for the disk.
func (j *journal) add(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := e.appendTo(nil)
	if !e.begun {
		j.skips = !e.remark && !j.bucket.has(e.at, len(line)) || len(j.buf) > maxBuffer
	} else if !j.skips {
		j.bucket.has(e.at, len(line)) // on credit: half a line helps nobody
	}
	if j.skips {
		j.skipped += len(line)
		j.forgotten.Add(float64(len(line)))
		return
	}
	if j.skipped > 0 && !e.begun {
		j.buf = entry{at: e.at, text: fmt.Sprintf("%d bytes are not kept: the machine says too much", j.skipped), remark: true}.appendTo(j.buf)
		j.skipped = 0
	}
	j.buf = append(j.buf, line...)
}

// bucket bounds a rate.
type bucket struct {
	used float64 // of burst
	at   time.Time
}

// has takes n bytes, if they are there.
func (b *bucket) has(now time.Time, n int) bool {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.used = max(0, b.used-passed*perSecond)
		b.at = now
	}
	if b.used+float64(n) > burst {
		return false
	}
	b.used += float64(n)
	return true
}

// flush writes what waits. A disk that is full or broken costs the log, never the console.
func (j *journal) flush() {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	b := j.buf
	j.buf = nil
	j.mu.Unlock()
	if len(b) == 0 {
		return
	}
	err := j.write(b)
	if err != nil {
		j.forgotten.Add(float64(len(b)))
		j.drop()
	}
	if err != nil && !j.failed {
		j.log.Error("log of the console cannot be written: is the disk full?", zap.NamedError("err", err))
	}
	j.failed = err != nil
}

// write appends to the file, and begins another one when it is full.
func (j *journal) write(b []byte) error {
	if err := j.open(); err != nil {
		return err
	}
	if j.size+int64(len(b)) > maxFile {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	n, err := j.f.Write(b)
	j.size += int64(n)
	return err
}

// open opens the file, and ends a line that a power cut left unfinished.
func (j *journal) open() error {
	if j.f != nil {
		return nil
	}
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return err
	}
	j.f, j.size = f, size
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, size-1); size > 0 && err == nil && last[0] != '\n' {
		n, err := f.Write([]byte("\n"))
		j.size += int64(n)
		return err
	}
	return nil
}

// rotate makes the file the older one. The one sync in its life is here.
func (j *journal) rotate() error {
	if err := j.f.Sync(); err != nil {
		return err
	}
	j.drop()
	if err := os.Rename(j.path, j.path+".1"); err != nil {
		return err
	}
	return j.open()
}

func (j *journal) drop() {
	if j.f != nil {
		j.f.Close()
		j.f, j.size = nil, 0
	}
}

// close writes what waits, and syncs: the daemon ends.
func (j *journal) close() {
	j.flush()
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.f != nil {
		if err := j.f.Sync(); err != nil {
			j.log.Warn("log of the console is perhaps not on the disk", zap.NamedError("err", err))
		}
	}
	j.drop()
}

// tail reads the last n lines of both files.
func (j *journal) tail(n int) ([]string, error) {
	j.disk.Lock()
	defer j.disk.Unlock()
	b, err := lastLines(j.path, n)
	if err != nil {
		return nil, err
	}
	if missing := n - bytes.Count(b, []byte("\n")); missing > 0 {
		older, err := lastLines(j.path+".1", missing)
		if err != nil {
			return nil, err
		}
		b = append(older, b...)
	}
	return logLines(b, n), nil
}

// logLines are the last n lines in what was read. What a power cut left behind on the disk need not be ours.
func logLines(b []byte, n int) []string {
	list := []string{}
	for s := range strings.Lines(string(b)) {
		s = strings.ToValidUTF8(strings.TrimSuffix(s, "\n"), "\ufffd")
		if s = strings.Map(shown, s); s != "" {
			list = append(list, s)
		}
	}
	return list[max(0, len(list)-n):]
}

func shown(r rune) rune {
	if steers(r) {
		return -1
	}
	return r
}

// lastLines reads the end of a file, back to before its last n lines; of one that is not there nothing.
func lastLines(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	const step = 64 << 10
	var blocks [][]byte // the last one first
	for found := 0; end > 0 && found <= n; {
		b := make([]byte, min(step, end))
		end -= int64(len(b))
		if _, err := f.ReadAt(b, end); err != nil {
			return nil, err
		}
		found += bytes.Count(b, []byte("\n"))
		blocks = append(blocks, b)
	}
	var all []byte
	for i := len(blocks) - 1; i >= 0; i-- {
		all = append(all, blocks[i]...)
	}
	return all, nil
}
