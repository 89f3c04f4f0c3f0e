package systemd

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	pppUnit   = "rescuebox-ppp@.service"
	pppSocket = "rescuebox-ppp.socket"
	// worstPPP is the exposure, in tenths: it is root, though with one of its powers only.
	worstPPP = "25"
)

func TestPPPUnitIsLeastPrivilege(t *testing.T) {
	tool(t, "systemd-analyze", "systemd")
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+worstPPP, abs(t, pppUnit)).CombinedOutput()
	if err != nil {
		t.Errorf("exposure is above %s tenths: %v\n%s", worstPPP, err, out)
	}
	u := parseUnit(read(t, pppUnit))
	if got := u["CapabilityBoundingSet"]; !slices.Equal(got, []string{"CAP_NET_ADMIN"}) {
		t.Errorf("it may have %q", got)
	}
}

// systemd knows every key, and takes the socket for that of the service. Nobody but the
// daemon's user may connect: whoever may, has a program run as root.
func TestPPPUnitsVerify(t *testing.T) {
	tool(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	write(t, filepath.Join(dir, pppUnit), strings.Replace(read(t, pppUnit), "/usr/bin/rescueboxd", "/bin/true", 1))
	write(t, filepath.Join(dir, pppSocket), read(t, pppSocket))
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", filepath.Join(dir, pppSocket), filepath.Join(dir, pppUnit)).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("rescuebox")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	s := parseUnit(read(t, pppSocket))
	for key, want := range map[string]string{"SocketUser": "rescuebox", "SocketMode": "0600", "Accept": "yes", "ListenStream": "/run/rescuebox-ppp.sock"} {
		if !slices.Equal(s[key], []string{want}) {
			t.Errorf("%s is %q, want %q", key, s[key], want)
		}
	}
}
