package vpn

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rescuebox/appliance/link/linktest"
)

// A hub that calls from an address where nobody knew it is answered, and its packets leave by the uplink of the hour as
// any other's do, not for ever by the one that it called on.
func TestHubCalls(t *testing.T) {
	linktest.New(t) // a namespace to make the interface in
	private := func() wgtypes.Key {
		k, err := wgtypes.GeneratePrivateKey()
		ok(t, err)
		return k
	}
	box, far := private(), private()
	u, err := newUserspace(setup{Interface: "rescuevpn", MTU: 1280, PrivateKey: key(box), Uplinks: []Uplink{{Name: "wan"}, {Name: "lte"}}, Hubs: 1}, zap.NewNop())
	ok(t, err)
	t.Cleanup(func() { ok(t, u.close()) })
	u.tie([]string{"lo", "lo"})
	port := func(way int) int {
		st, err := u.state()
		ok(t, err)
		return st.Ways[way].Port
	}
	hub := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewStdNetBind(), device.NewLogger(device.LogLevelError, "hub "))
	t.Cleanup(hub.Close)
	public := box.PublicKey()
	ok(t, hub.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=0\npublic_key=%x\nallowed_ip=10.99.0.2/32\n", far[:], public[:])))
	ok(t, hub.Up())
	said := func(name string) string {
		text, err := hub.IpcGet()
		ok(t, err)
		for line := range strings.Lines(text) {
			if value, found := strings.CutPrefix(strings.TrimSpace(line), name+"="); found {
				return value
			}
		}
		return ""
	}
	nowhere := netip.MustParseAddrPort("127.0.0.9:9")
	here := netip.MustParseAddrPort("127.0.0.1:" + said("listen_port"))
	ok(t, u.configure([]peer{{Hub: 0, PublicKey: key(far.PublicKey()), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/32")},
		Endpoints: [][]netip.AddrPort{{nowhere}, {here}}}}))
	ok(t, hub.IpcSet(fmt.Sprintf("public_key=%x\nendpoint=127.0.0.1:%d\npersistent_keepalive_interval=1\n", public[:], port(0))))
	eventually(t, handshakeTime, "the hub is in", func() bool { return said("last_handshake_time_sec") != "0" })
	eventually(t, handshakeTime, "it is heard", func() bool { return !u.heard(0).IsZero() })
	ok(t, u.steer(steering{Active: 1}))
	eventually(t, handshakeTime, "the hub follows to the other uplink", func() bool {
		u.kick(0)
		return said("endpoint") == fmt.Sprintf("127.0.0.1:%d", port(1))
	})
	st, err := u.state()
	ok(t, err)
	if len(st.Peers[0].Heard) == 0 || st.Peers[0].Heard[0] != here {
		t.Errorf("the hub was heard at %v, and is at %v", st.Peers[0].Heard, here)
	}
	time.Sleep(3 * time.Second) // the hub's keepalives come in
	if left := u.(*userspace).bind.callers.take(here.String()); len(left) != 0 {
		t.Errorf("nobody asked who they are: %v", left)
	}
}
