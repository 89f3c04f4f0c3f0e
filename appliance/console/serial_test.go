package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a serial cable: what is written to the master comes out of the port.
func pty(t *testing.T) (master *os.File, port string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", n)
}

// until reads a session until a text came, from the machine or as a remark.
func until(t *testing.T, s *Session, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all string
	for !strings.Contains(all, want) {
		p, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("want %q: %v after %q", want, err, all)
		}
		all += string(p.Data) + p.Notice
	}
}

func runKeeper(t *testing.T, k *Keeper) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the keeper does not end")
		}
	})
}

// A serial port: raw both ways, nothing echoed by our side, pulled out and plugged in again.
func TestSerial(t *testing.T) {
	master, path := pty(t)
	name := filepath.Join(t.TempDir(), "ttyUSB0") // which udev would link to the port
	if err := os.Symlink(path, name); err != nil {
		t.Fatal(err)
	}
	k := &Keeper{Dir: t.TempDir(), Machines: []Machine{{Name: "router", Open: Serial(name, 9600)}}}
	runKeeper(t, k)
	s, err := k.Attach(t.Context(), "router", Attach{Who: "anna", Write: true, Lines: 10})
	if err != nil {
		t.Fatal(err)
	}
	until(t, s, "console opened")
	all := "\x00\x03\x04\x11\x13\x1a\x7f\xff~.\r\n"
	io.WriteString(master, all+"end")
	until(t, s, all+"end")
	if _, err := io.WriteString(s, all+"end"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(all)+3)
	if _, err := io.ReadFull(master, got); err != nil || string(got) != all+"end" {
		t.Errorf("%q arrived, %v", got, err)
	}
	set, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS2)
	if err != nil {
		t.Fatal(err)
	}
	if set.Ospeed != 9600 || set.Cflag&unix.CLOCAL == 0 || set.Cflag&(unix.HUPCL|unix.CRTSCTS) != 0 || set.Lflag != 0 || set.Iflag&unix.IXON != 0 {
		t.Errorf("the port is set to %+v", set)
	}
	if err := s.Break(); err != nil { // that it reaches a line no pty shows
		t.Error(err)
	}
	if _, err := Serial(name, 9600)(t.Context()); err == nil || !strings.Contains(err.Error(), "another program uses it") {
		t.Errorf("opened twice: %v", err)
	}

	master.Close()
	os.Remove(name)
	until(t, s, "went away")
	if _, err := s.Write([]byte("x")); !errors.Is(err, ErrLost) {
		t.Errorf("typed into a port that is gone: %v", err)
	}
	master, path = pty(t)
	if err := os.Symlink(path, name); err != nil {
		t.Fatal(err)
	}
	until(t, s, "console back at")
	io.WriteString(master, "router>")
	until(t, s, "router>")
}

func TestSerialRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "it is no serial port", file + "x": "is it plugged in?"} {
		if _, err := Serial(path, 115200)(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
