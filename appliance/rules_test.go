package appliance

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mayImport says which of our packages each package may import, tests
// excepted. A package that is not named may import none of ours.
var mayImport = map[string][]string{
	"cmd/rescueboxd":        {"appliance", "appliance/config"},
	"cmd/rescuebox":         {"appliance/admin/api", "appliance/config", "images", "images/rescue"}, // config: `config check` without a daemon
	"appliance":             {"appliance/*", "images"},
	"appliance/admin":       {"appliance/admin/api", "appliance/bmc", "appliance/boot", "appliance/config", "appliance/ticket", "appliance/state", "images"},
	"appliance/dhcp":        {"appliance/boot", "images"},
	"appliance/tftp":        {"appliance/boot", "images"},
	"appliance/httpboot":    {"appliance/boot", "images"},
	"appliance/boot":        {"images", "images/bcd", "images/wim"},
	"images":                {"images/disc", "images/wim"},
	"images/rescue":         {"images"},
	"scripts/lab.d/redfish": {"appliance/bmc/bmctest"}, // peers of the whole-site tests
	"scripts/lab.d/modem":   {"appliance/modem/modemtest"},
}

// The arrows between the packages are those of the design.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "rescuebox/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "rescuebox/")
		for _, i := range p.Imports {
			if ours, ok := strings.CutPrefix(i, "rescuebox/"); ok && !allowed(name, ours) {
				t.Errorf("%s imports %s: the design has no such arrow", name, ours)
			}
		}
	}
}

func allowed(from, to string) bool {
	return slices.ContainsFunc(mayImport[from], func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(to, prefix)
		}
		return to == pattern
	})
}

// Whoever reads the box's packet filters finds each table of ours explained in the README, and no other there.
func TestTablesInReadme(t *testing.T) {
	names := func(pattern string, text []byte) (list []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			list = append(list, string(m[1]))
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	var code []byte
	for _, part := range []string{"link", "vpn", "modem"} {
		files, err := filepath.Glob(part + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, "_test.go") {
				code = append(code, text...)
			}
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	ours := names(`(?m) += "(rescuebox_\w+)"$`, code)
	told := names("(?m)^\\| `(?:inet|netdev) (rescuebox_\\w+)` \\|", readme)
	if len(ours) < 4 || !slices.Equal(ours, told) {
		t.Errorf("the box has the tables %q, the README tells of %q", ours, told)
	}
}

func TestFormat(t *testing.T) {
	cmd := exec.Command("gofmt", "-l", "appliance", "cmd", "images", "scripts", "systemd")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("not formatted, run gofmt -w on:\n%s%v", out, err)
	}
}
