package guest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The guest has what the tests want of its kernel, and this system's tools.
func TestGuestKernel(t *testing.T) {
	out := Run(t, nil, `set -e
ip link add wg0 type wireguard
wg genkey >/tmp/key
wg set wg0 private-key /tmp/key listen-port 51820
ip link add v1 type veth peer name v2
tc qdisc add dev v1 root netem delay 30ms 5ms
nft add table inet t
test -c /dev/ppp
test -c /dev/net/tun
pppd --version
ip netns add x
wg show wg0 listen-port
`)
	if !strings.HasSuffix(strings.TrimSpace(out), "51820") || !strings.Contains(out, "pppd version") {
		t.Errorf("the guest said %q", out)
	}
}

// A test moves into the guest as a whole.
func TestGuestInside(t *testing.T) {
	if !Inside(t) {
		return
	}
	if _, err := os.Stat("/modules.wanted"); err != nil {
		t.Error(err)
	}
}

// What the guest gets of the environment passes through a shell unharmed.
func TestExports(t *testing.T) {
	script := exports([]string{"HOME=/root", "GUEST_ROUNDS=20", "GUEST_TEXT=it's $HOME", "NOT_GUEST_=1"}) + `echo "$GUEST_ROUNDS $GUEST_TEXT"`
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if want := "20 it's $HOME\n"; err != nil || string(out) != want || strings.Contains(script, "root") {
		t.Errorf("%v: %q, not %q, by\n%s", err, out, want, script)
	}
}
