package linktest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

func TestMain(m *testing.M) { Main(m) }

// plainBox is a box with WireGuard and nothing that watches its uplinks.
func plainBox(t *testing.T, h *Hub) {
	t.Helper()
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Admit(key.PublicKey().String(), ""); err != nil {
		t.Fatal(err)
	}
	dev, err := tun.CreateTUN("plain0", 1280)
	if err != nil {
		t.Fatal(err)
	}
	d := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	hub, err := base64.StdEncoding.DecodeString(h.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=25\n",
		hexKey(key), hex.EncodeToString(hub), h.Endpoint)); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", "ip address add "+BranchInner+"/24 dev plain0 && ip link set plain0 up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A box that watches nothing is reached until its WAN goes, and never again.
func TestWorld(t *testing.T) {
	w := New(t)
	h := w.Hub(t)
	w.Echo(t)
	plainBox(t, h)
	if out, err := exec.Command("ping", "-c", "1", "-w", "20", HubInner).CombinedOutput(); err != nil {
		t.Fatalf("the hub is not reached: %v\n%s", err, out)
	}
	lte, err := w.Volume("lte")
	must(t, err)
	stop, err := h.Meter(5 * time.Millisecond)
	must(t, err)
	typed, err := h.Stream(50 * time.Millisecond)
	must(t, err)
	Pass(time.Second)
	s, err := typed()
	must(t, err)
	must(t, w.Silence("wan"))
	cut := Now()
	Pass(time.Second)
	r, err := stop()
	must(t, err)
	if s.Err != "" || len(s.Echoes) < 10 {
		t.Errorf("the stream: %d echoes, %s", len(s.Echoes), s.Err)
	}
	if last := r.LastHeard(); last > cut {
		t.Errorf("what was asked %v after the cut was answered", last-cut)
	}
	r, _ = r.Awake()
	if g := r.Gap(r.Sent[0]); !g.Never || g.Long() < 800*time.Millisecond {
		t.Errorf("the gap from %v to %v, never %v", g.From, g.To, g.Never)
	}
	if n := len(r.Sent) - r.Lost(); n < 100 {
		t.Errorf("%d of %d answered", n, len(r.Sent))
	}
	after, err := w.Volume("lte")
	must(t, err)
	if v := after.Sub(lte); v.Packets != 0 {
		t.Errorf("over lte went %+v", v)
	}
	all, err := w.Volume("wan")
	must(t, err)
	for _, kind := range Kinds() {
		v, err := w.VolumeOf("wan", kind)
		must(t, err)
		all = all.Sub(v)
		size := map[string]int64{"initiation": 148 + 28, "response": 92 + 28, "keepalive": 32 + 28}[kind] // whitepaper, section 5.4
		if size != 0 && (v.Packets == 0 && kind != "keepalive" || v.Bytes != v.Packets*size) {
			t.Errorf("of kind %s: %+v, want packets of %d bytes", kind, v, size)
		}
	}
	if all != (Volume{}) {
		t.Errorf("of no kind, or of several: %+v", all)
	}
}
