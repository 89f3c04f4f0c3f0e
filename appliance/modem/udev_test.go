package modem

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The rules that errors tell people to install are there, whole for each maker, and what udev understands.
func TestUdevRules(t *testing.T) {
	const path = "../../systemd/70-rescuebox-modem.rules"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	makers := map[string]int{}
	for _, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := regexp.MustCompile(`ATTRS?\{idVendor\}=="([0-9a-f]{4})"`).FindStringSubmatch(line); m != nil {
			makers[m[1]]++
			if !strings.Contains(line, `ENV{ID_MM_PORT_IGNORE}="1"`) && !strings.Contains(line, "/sys%p/authorized") {
				t.Errorf("a rule that does nothing we need: %s", line)
			}
		}
		// key, operator, value in quotes; commas between them (udev(7))
		if !regexp.MustCompile(`^(?:[A-Z]+(?:\{[A-Za-z_]+\})?(?:==|!=|\+=|=)"[^"]*"(?:, |$))+$`).MatchString(line) {
			t.Errorf("no rule: %s", line)
		}
	}
	for maker, n := range makers {
		if n != 2 {
			t.Errorf("%s has %d rules, want 2", maker, n)
		}
	}
	if _, err := exec.LookPath("udevadm"); err != nil {
		return
	}
	if out, err := exec.Command("udevadm", "verify", "--help").CombinedOutput(); err == nil { // systemd 254
		if out, err := exec.Command("udevadm", "verify", path).CombinedOutput(); err != nil {
			t.Errorf("udevadm verify: %v\n%s", err, out)
		}
	} else if !strings.Contains(string(out), "verify") {
		t.Log("this udevadm cannot verify rules")
	}
}
