// Package systemd holds no code: its tests check the unit, sysusers and
// tmpfiles beside them with systemd's own tools.
package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const unitFile = "rescueboxd.service"

// worst is the exposure, in tenths, that the unit may have at most: 2.0, and a tenth for
// modems, serial ports and the tunnel device.
const worst = "21"

func TestUnitIsLeastPrivilege(t *testing.T) {
	tool(t, "systemd-analyze", "systemd")
	out, err := security(t, unitFile)
	if err != nil {
		t.Errorf("exposure is above %s tenths: %v\n%s", worst, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}

// The threshold means something: without one line of the sandbox the same
// check fails.
func TestUnitWithoutSandboxIsRefused(t *testing.T) {
	tool(t, "systemd-analyze", "systemd")
	text := strings.ReplaceAll(read(t, unitFile), "SystemCallFilter=", "#")
	weak := filepath.Join(t.TempDir(), unitFile)
	write(t, weak, text)
	if out, err := security(t, weak); err == nil {
		t.Errorf("a unit without SystemCallFilter= passes:\n%s", out)
	}
}

func security(t *testing.T, unit string) ([]byte, error) {
	t.Helper()
	return exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+worst, abs(t, unit)).CombinedOutput()
}

// systemd knows every key of the unit and every value. The daemon itself is not
// where the unit says on a build machine, so another program stands in for it.
func TestUnitVerifies(t *testing.T) {
	tool(t, "systemd-analyze", "systemd")
	stand := strings.Replace(read(t, unitFile), "/usr/bin/rescueboxd", "/bin/true", 1)
	path := filepath.Join(t.TempDir(), unitFile)
	write(t, path, stand)
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte(unitFile)) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func TestUnitCapabilities(t *testing.T) {
	want := []string{"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"}
	u := parseUnit(read(t, unitFile))
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		got := strings.Fields(strings.Join(u[key], " "))
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
}

// What the appliance's design asks of the service manager.
func TestUnitSettings(t *testing.T) {
	u := parseUnit(read(t, unitFile))
	for key, want := range map[string]string{
		"Type": "notify", "User": "rescuebox", "Group": "rescuebox", "Restart": "always",
		"StateDirectory": "rescuebox", "RuntimeDirectory": "rescuebox", "StartLimitIntervalSec": "0",
		"ExecStart": "/usr/bin/rescueboxd -config /etc/rescuebox/rescuebox.toml",
	} {
		if diff := cmp.Diff([]string{want}, u[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	for _, key := range []string{"WatchdogSec", "RestartSec", "TimeoutStopSec", "MemoryMax"} {
		if len(u[key]) != 1 {
			t.Errorf("%s = %q, want it once", key, u[key])
		}
	}
	if len(u["ExecReload"]) > 0 {
		t.Error("ExecReload: no part of the daemon has reload code")
	}
}

// User and directories come out as the unit and the daemon expect them.
func TestUserAndDirectories(t *testing.T) {
	tool(t, "systemd-sysusers", "systemd")
	tool(t, "systemd-tmpfiles", "systemd")
	if os.Getuid() != 0 {
		t.Skip("needs root to give directories to another user")
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "systemd-sysusers", "--root="+root, abs(t, "rescuebox.sysusers"))
	run(t, "systemd-tmpfiles", "--root="+root, "--create", abs(t, "rescuebox.tmpfiles"))
	passwd := strings.Split(strings.TrimSpace(read(t, filepath.Join(root, "etc/passwd"))), ":")
	if passwd[0] != "rescuebox" || passwd[5] != "/var/lib/rescuebox" || !strings.HasSuffix(passwd[6], "nologin") {
		t.Errorf("user: %q", passwd)
	}
	uid, gid := passwd[2], passwd[3]
	for dir, want := range map[string]string{
		"etc/rescuebox":            "750 0 " + gid,
		"etc/rescuebox/secrets":    "750 0 " + gid,
		"var/lib/rescuebox":        "750 " + uid + " " + gid,
		"var/lib/rescuebox/images": "755 " + uid + " " + gid,
	} {
		if got := run(t, "stat", "-c", "%a %u %g", filepath.Join(root, dir)); got != want {
			t.Errorf("%s is %s, want %s", dir, got, want)
		}
	}
}

// parseUnit lists the values of each key, in the order of the file.
func parseUnit(text string) map[string][]string {
	u := map[string][]string{}
	for _, line := range strings.Split(text, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// tool skips a test whose tool is missing; on CI nothing may be missing.
func tool(t *testing.T, name, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	}
	t.Skipf("%s is missing: apt-get install %s", name, debianPackage)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func abs(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
