package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// How patiently the root file system is fetched.
const (
	firstRetry = time.Second
	maxRetry   = 15 * time.Second
	stallLimit = 20 * time.Second // no byte for so long: the connection is dead, take a new one
	chunk      = 256 << 10
)

// download fetches one file. Broken connections go on where they stopped; a
// file that arrives whole with a wrong hash is thrown away and fetched again.
type download struct {
	order order
	out   io.Writer // the console
	file  *os.File
	have  int64
	size  int64  // 0 until the server says
	etag  string // of the file that the bytes so far belong to
	shown time.Time
	stall time.Duration
	retry time.Duration

	damaged int       // times that the whole arrived with a wrong hash
	refused time.Time // since when the box says nothing but no; zero: it does not
	patient time.Duration
}

// What no retry cures: the image was built anew since the command line was
// written, or the order is gone. A short "no" may be a box that restarts.
const (
	maxDamaged  = 3
	noForSoLong = 5 * time.Minute
)

var errDamaged = errors.New("the rescue system has a wrong SHA-256")

// fetchRoot fetches the root file system into path and returns only when it is
// whole and has the SHA-256 of the command line, or ctx is done, or the
// command line is wrong, or the memory is full, or the box has withdrawn it.
func fetchRoot(ctx context.Context, o order, path string, out io.Writer) error {
	if o.URL == nil || o.SHA256 == "" {
		return &badCmdline{"the kernel command line needs rescuebox.url= and rescuebox.sha256="}
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep the rescue system in memory: %w", err)
	}
	defer f.Close()
	d := &download{order: o, out: out, file: f, stall: stallLimit, retry: firstRetry, patient: noForSoLong}
	if err := d.run(ctx); err != nil {
		return err
	}
	return f.Close()
}

func (d *download) run(ctx context.Context) error {
	fmt.Fprintf(d.out, "rescuebox: fetching the rescue system from %s\n", d.order.URL.Host)
	for delay := d.retry; ; delay = grow(delay, maxRetry) {
		before := d.have
		err := d.attempt(ctx)
		if err == nil {
			fmt.Fprintf(d.out, "rescuebox: the rescue system is here, %d MB, its SHA-256 is right\n", d.size>>20)
			return nil
		}
		if final := d.final(ctx, err); final != nil {
			return final
		}
		if d.have > before {
			delay = d.retry
		}
		fmt.Fprintf(d.out, "rescuebox: %v; trying again in %v\n", err, delay)
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// final says which errors no retry cures.
func (d *download) final(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var disk *os.PathError
	if errors.As(err, &disk) {
		return fmt.Errorf("keep the rescue system in memory: %w (this machine needs at least 1 GB of RAM)", err)
	}
	var no *refusal
	switch {
	case errors.Is(err, errDamaged):
		if d.damaged++; d.damaged >= maxDamaged {
			return &withdrawn{err}
		}
	case !errors.As(err, &no):
		d.refused = time.Time{}
	case d.refused.IsZero():
		d.refused = time.Now()
	case time.Since(d.refused) >= d.patient:
		return &withdrawn{err}
	}
	return nil
}

// attempt asks for the bytes that are missing, and checks the whole once they are here.
func (d *download) attempt(ctx context.Context) error {
	if err := d.transfer(ctx); err != nil {
		return err
	}
	return d.check(ctx)
}

func (d *download) transfer(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(d.stall, cancel)
	defer watchdog.Stop()
	res, err := d.request(ctx)
	if err != nil {
		return short(err)
	}
	defer res.Body.Close()
	if err := d.accept(res); err != nil {
		return err
	}
	return d.receive(res.Body, watchdog)
}

func (d *download) request(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.order.URL.String(), nil)
	if err != nil {
		return nil, err
	}
	if d.order.Token != "" {
		req.Header.Set("Authorization", "Bearer "+d.order.Token)
	}
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		// RFC 9110 section 13.1.5: a file that changed since comes whole.
		if d.etag != "" {
			req.Header.Set("If-Range", d.etag)
		}
	}
	return http.DefaultClient.Do(req)
}

// accept checks that the answer carries the bytes that were asked for.
func (d *download) accept(res *http.Response) error {
	switch res.StatusCode {
	case http.StatusOK:
		if err := d.restart(); err != nil {
			return err
		}
		d.etag = res.Header.Get("Etag")
		if res.ContentLength > 0 {
			d.size = res.ContentLength
			// Of a file that has its size already, tmpfs takes huge pages: half the time.
			return d.file.Truncate(d.size)
		}
		return nil
	case http.StatusPartialContent:
		var from, to, size int64
		_, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size)
		if err != nil || from != d.have {
			return errors.Join(errors.New("the box resumed at another byte than asked for"), d.restart())
		}
		d.size = size
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return errors.Join(errors.New("the box has a shorter file than before"), d.restart())
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	answer := fmt.Sprintf("the box answers %s: %s", res.Status, printable(string(text)))
	if res.StatusCode/100 == 4 {
		return &refusal{answer}
	}
	return errors.New(answer)
}

// restart throws away what is here.
func (d *download) restart() error {
	if d.have == 0 {
		return nil
	}
	d.have, d.size, d.etag = 0, 0, ""
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// receive appends the body; every byte that comes calms the watchdog.
func (d *download) receive(body io.Reader, watchdog *time.Timer) error {
	buf := make([]byte, chunk)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			watchdog.Reset(d.stall)
			if err := d.keep(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the connection broke after %d of %d MB", d.have>>20, d.size>>20)
		}
	}
}

func (d *download) keep(b []byte) error {
	if _, err := d.file.Write(b); err != nil {
		return err
	}
	d.have += int64(len(b))
	if time.Since(d.shown) > 5*time.Second {
		if !d.shown.IsZero() && d.size > 0 {
			fmt.Fprintf(d.out, "rescuebox: %d of %d MB\n", d.have>>20, d.size>>20)
		}
		d.shown = time.Now()
	}
	return nil
}

func (d *download) check(ctx context.Context) error {
	if d.size > 0 && d.have < d.size {
		return fmt.Errorf("the connection ended after %d of %d MB", d.have>>20, d.size>>20)
	}
	got, err := sum(ctx, d.file.Name())
	if err != nil {
		return err
	}
	if got == d.order.SHA256 {
		d.size = d.have
		return nil
	}
	banner(d.out,
		"THE RESCUE SYSTEM ARRIVED DAMAGED (wrong SHA-256) and is not started.",
		"want "+d.order.SHA256, "have "+got,
		"It is fetched again. You need not do anything.")
	return errors.Join(errDamaged, d.restart())
}

// sum runs sha256sum. On processors without instructions for it Go's own is
// many times slower: 16 s in place of 1.3 s for 90 MB in an emulated machine.
func sum(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, "sha256sum", path).Output()
	if err != nil {
		return "", fmt.Errorf("check the rescue system with sha256sum: %w", err)
	}
	digits, _, _ := strings.Cut(string(out), " ")
	return digits, nil
}
