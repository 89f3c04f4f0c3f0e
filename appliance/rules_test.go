package appliance

import (
	"encoding/json"
	"os/exec"
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

func TestFormat(t *testing.T) {
	cmd := exec.Command("gofmt", "-l", "appliance", "cmd", "images", "scripts", "systemd")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("not formatted, run gofmt -w on:\n%s%v", out, err)
	}
}
