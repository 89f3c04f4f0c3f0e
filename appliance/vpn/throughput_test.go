package vpn

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
)

// iperf runs iperf3 through the tunnel for so long and returns megabits per second.
func (s *site) iperf(forHow time.Duration, more ...string) float64 {
	s.t.Helper()
	linktest.Need(s.t, "iperf3", "iperf3")
	for end := time.Now().Add(20 * time.Second); ; {
		rate, err := s.iperfOnce(forHow, more...)
		if err == nil {
			return rate
		}
		if time.Now().After(end) {
			s.t.Fatal(err)
		}
	}
}

func (s *site) iperfOnce(forHow time.Duration, more ...string) (float64, error) {
	server := s.hubs[0].Command("iperf3", "-s", "-1", "--forceflush", "-B", linktest.HubInner)
	said, err := server.StdoutPipe()
	ok(s.t, err)
	ok(s.t, server.Start())
	defer func() {
		_ = server.Process.Kill() // it ends by itself after one client
		_ = server.Wait()
	}()
	for line := bufio.NewScanner(said); line.Scan(); {
		if strings.HasPrefix(line.Text(), "Server listening") {
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	var report struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	args := append([]string{"-J", "-t", strconv.Itoa(int(forHow.Seconds())), "-c", linktest.HubInner}, more...)
	out, err := exec.Command("iperf3", args...).Output()
	if jerr := json.Unmarshal(out, &report); err != nil || jerr != nil || report.Error != "" {
		return 0, fmt.Errorf("iperf3: %v, %v, %s", err, jerr, report.Error)
	}
	return report.End.Received.Rate / 1e6, nil
}

// rss is this process's memory: now and at most, in megabytes.
func rss(t *testing.T) (now, most int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	ok(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		name, value, _ := strings.Cut(line, ":")
		kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "VmRSS":
			now = kb / 1024
		case "VmHWM":
			most = kb / 1024
		}
	}
	return now, most
}

// What the daemon may cost and must carry is measured by scripts/bench; here only that the
// tunnel carries a stream each way, and that WireGuard's buffers have a bound.
func TestThroughput(t *testing.T) {
	s := newSite(t, 1, nil)
	s.start()
	s.reached(20 * time.Second)
	now, most := rss(t)
	t.Logf("idle: %d MB, at most %d", now, most)
	for _, c := range []struct {
		name string
		args []string
	}{{"up", nil}, {"down", []string{"-R"}}, {"4 streams up", []string{"-P", "4"}}, {"4 streams down", []string{"-R", "-P", "4"}}} {
		rate := s.iperf(2*time.Second, c.args...)
		now, most := rss(t)
		t.Logf("%s: %.0f Mbit/s, %d MB, at most %d", c.name, rate, now, most)
		if rate < 1 {
			t.Errorf("%s: %.0f Mbit/s", c.name, rate)
		}
		if most > 40 && !raceEnabled {
			t.Errorf("%s: %d MB", c.name, most)
		}
	}
}
