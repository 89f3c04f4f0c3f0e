package power

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is a program of the site's.
func script(t *testing.T, text string) string {
	t.Helper()
	return program(t, filepath.Join(t.TempDir(), "outlet"), text)
}

func TestCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outlet := script(t, `cd `+dir+`; echo "$*" >>log
case $2 in on|off) echo "$2" >state;; '') cat state;; cycle) echo on >state;; esac`)
	c := Config{Kind: "command", On: []string{outlet, "5", "on"}, Off: []string{outlet, "5", "off"}, Status: []string{outlet, "5"}}
	s := open(t, c)
	if err := s.Off(t.Context()); err != nil {
		t.Error(err)
	}
	isState(t, s, Off)
	if err := s.On(t.Context()); err != nil {
		t.Error(err)
	}
	isState(t, s, On)
	if err := s.Cycle(t.Context()); err != nil { // off and on, as there is no program for it
		t.Error(err)
	}
	c.Cycle = []string{outlet, "5", "cycle"}
	if err := open(t, c).Cycle(t.Context()); err != nil {
		t.Error(err)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if got, want := strings.Join(strings.Split(string(log), "\n"), ","), "5 off,5,5,5 on,5,5,5,5 off,5,5 on,5,5,5 cycle,"; got != want {
		t.Errorf("it was run as %q, want %q", got, want)
	}
}

func TestCommandCannot(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Kind: "command", On: []string{"/bin/true"}})
	_, err := s.State(t.Context())
	wantError(t, err, ErrUnsupported)
	wantError(t, s.Off(t.Context()), ErrUnsupported)
	wantError(t, s.Cycle(t.Context()), ErrUnsupported)
	if err := s.On(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{Kind: "command", On: []string{"outlet"}}); err == nil {
		t.Error("a program without its path is taken")
	}
}

// An outlet whose program fails at "off", and which cannot tell its state, is switched on
// again: it may be off.
func TestCommandCycleHalf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outlet := script(t, `echo "$1" >>`+dir+`/log; [ "$1" = on ]`)
	err := open(t, Config{Kind: "command", On: []string{outlet, "on"}, Off: []string{outlet, "off"}}).Cycle(t.Context())
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if err == nil || string(log) != "off\non\n" {
		t.Errorf("error %v, it was run as %q", err, log)
	}
}

// No shell, nothing of ours in its environment, and of what it prints no argument.
func TestCommandKeepsSecrets(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/geheim")
	outlet := script(t, `env; echo "cannot log in as $2" >&2; exit 3`)
	s := open(t, Config{Kind: "command", On: []string{outlet, "$(id)", "admin:geheim77"}})
	err := s.On(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cannot log in as …") {
		t.Errorf("error %v", err)
	}
	wantError(t, err, err, "geheim", "uid=")
}

func TestCommandPrintsMuch(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Kind: "command", Status: []string{script(t, `yes on | head -c 10000000`)}})
	_, err := s.State(t.Context())
	if err == nil || len(err.Error()) > 500 {
		t.Errorf("error %.600v", err)
	}
}

// All that a program started ends with it, whether it ended itself or was too slow.
func TestCommandEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end      string
		patience time.Duration
	}{"it ends": {"exit 0", time.Minute}, "it hangs": {"sleep 600", 10 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid := filepath.Join(t.TempDir(), "pid")
			s := open(t, Config{Kind: "command", On: []string{script(t, `sleep 600 & echo $! >`+pid+`.new; mv `+pid+`.new `+pid+"\n"+test.end)}})
			start := time.Now()
			err := s.On(soon(t, test.patience))
			if took := time.Since(start); (err != nil) != (test.end != "exit 0") || took > 50*time.Second {
				t.Errorf("error %v after %v", err, took)
			}
			if test.end != "exit 0" {
				wantError(t, err, ErrSilent)
			}
			text, err := os.ReadFile(pid)
			if err != nil {
				t.Fatal(err)
			}
			child, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			till(t, "the child's end", func() bool { return gone(child) })
		})
	}
}

// gone is no process, or one that waits only to be collected.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(pid, 0) != nil
}

// The operations of a switch never run beside each other.
func TestTurns(t *testing.T) {
	t.Parallel()
	lock := filepath.Join(t.TempDir(), "lock")
	s := open(t, Config{Kind: "command", On: []string{script(t, `mkdir `+lock+` || exit 1; sleep 0.2; rmdir `+lock)}})
	failed := make(chan error, 4)
	for range cap(failed) {
		go func() { failed <- s.On(t.Context()) }()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func FuzzExcerpt(f *testing.F) {
	f.Add("cannot log in as geheim77\n", "geheim77")
	f.Fuzz(func(t *testing.T, said, arg string) {
		got := excerpt(said, []string{"/bin/outlet", arg})
		if len([]rune(got)) > maxSaid+1 || strings.ContainsAny(got, "\n\r\x1b") {
			t.Errorf("%q", got)
		}
	})
}
