package boottest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"rescuebox/appliance"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/config"
	"rescuebox/images"
)

// site is a branch with the whole daemon as its box.
//
//	srv 192.168.77.1 (the box) ──┬── machines
//	                             ├── 192.168.77.254, the site's dnsmasq
//	                             └── 192.168.77.253, a relay ── machines in 10.5.0.0/24
type site struct {
	t      *testing.T
	lan    *LAN
	far    *LAN // behind the relay; nil without one
	api    *api.Client
	dir    string
	socket string // of the API
}

// mode is a column of the table.
type mode struct {
	name   string
	dhcp   string // the box's
	server bool   // the site has a DHCP server of its own
	relay  bool   // machines are behind a relay
}

var modes = []mode{
	{"full", "full", false, false},
	{"proxy", "proxy", true, false},
	{"auto, alone", "auto", false, false},
	{"auto, beside DHCP", "auto", true, false},
	{"relay", "full", false, true},
}

func newSite(t *testing.T, m mode, machines string) *site {
	needRoot(t)
	s := &site{t: t, dir: t.TempDir()}
	if err := linkUp("lo"); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.lan, err = NewLAN(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.lan.Close)
	remove, err := s.lan.Port("srv", "192.168.77.1/24")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	if m.server {
		// It names us as next server, which GRUB needs beside another DHCP server.
		s.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.50,192.168.77.99,1h", "--dhcp-option=3", "--dhcp-boot=,,192.168.77.1")
	}
	extra := ""
	if m.relay {
		s.relay()
		extra = "[[lan.relay]]\nnetwork = \"10.5.0.0/24\"\nrange = [\"10.5.0.50\", \"10.5.0.99\"]\nrouter = \"10.5.0.1\"\n"
	}
	s.daemon(m.dhcp, extra+machines)
	if m.server {
		eventually(t, 30*time.Second, "the box has heard the site's server", s.heardServer)
	}
	return s
}

// dnsmasq runs the site's own DHCP server, or a relay, in a host on the LAN.
func (s *site) dnsmasq(address string, args ...string) *Host {
	need(s.t, "dnsmasq", "dnsmasq-base")
	need(s.t, "nsenter", "util-linux")
	h, err := s.lan.Host(address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(h.Close)
	s.run(h, args...)
	return h
}

func (s *site) run(h *Host, args ...string) {
	base := h.Command("dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--no-ping", "--user=root",
		"--dhcp-leasefile="+filepath.Join(s.dir, "dnsmasq.leases"))
	spawn(s.t, append(base, args...)...)
	eventually(s.t, 20*time.Second, "dnsmasq listens", func() (listens bool) {
		err := h.ns.do(func() error {
			table, err := os.ReadFile("/proc/thread-self/net/udp")
			listens = bytes.Contains(table, []byte(":0043 ")) // port 67
			return err
		})
		return err == nil && listens
	})
}

// relay connects a second network.
func (s *site) relay() {
	need(s.t, "dnsmasq", "dnsmasq-base")
	h, err := s.lan.Host("192.168.77.253/24")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(h.Close)
	if s.far, err = h.Behind("10.5.0.1/24"); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.far.Close)
	err = h.ns.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	if err == nil {
		err = addRoute("10.5.0.0/24", "192.168.77.253")
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.run(h, "--dhcp-relay=10.5.0.1,192.168.77.1")
}

// daemon runs the box until the test ends.
func (s *site) daemon(dhcp, tail string) {
	s.library()
	short, err := os.MkdirTemp("", "rb") // a socket's path has 108 bytes
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(short) })
	s.socket = filepath.Join(short, "api.sock")
	text := fmt.Sprintf("site = \"boottest\"\n[lan]\ninterface = \"srv\"\naddress = \"192.168.77.1/24\"\ndhcp = %q\n"+
		"range = [\"192.168.77.100\", \"192.168.77.199\"]\n[state]\ndir = %q\n[admin]\nsocket = %q\ngroup = \"root\"\n%s",
		dhcp, filepath.Join(s.dir, "state"), s.socket, tail)
	cfg, err := config.Parse("boottest.toml", []byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan bool), make(chan error, 1)
	var once sync.Once
	level := zap.ErrorLevel
	if os.Getenv("BOOTTEST_LOG") != "" {
		level = zap.InfoLevel
	}
	go func() {
		done <- appliance.Run(ctx, appliance.Options{Config: cfg, Version: "boottest", Log: zaptest.NewLogger(s.t, zaptest.Level(level)),
			Notify: func(state string) {
				if strings.Contains(state, "READY=1") {
					once.Do(func() { close(ready) })
				}
			}})
	}()
	select {
	case <-ready:
	case err := <-done:
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil { // on a busy machine the parts need longer than a stop gives them
			s.t.Log(err)
		}
	})
	s.api = api.OverSocket(s.socket)
	eventually(s.t, 30*time.Second, "DHCP has listened", func() bool {
		st, err := s.api.Status(s.t.Context())
		return err == nil && st.DHCP.Mode != "listening"
	})
}

// heardServer reports whether the box knows of another DHCP server: what UEFI
// is told depends on what that one names as next server.
func (s *site) heardServer() bool {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://box/metrics")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return err == nil && regexp.MustCompile(`(?m)^rescuebox_dhcp_other_server_answers_total [1-9]`).Match(text)
}

// order makes an order and returns its id.
func (s *site) order(machine, image string) string {
	o, err := s.api.Boot(s.t.Context(), api.NewOrder{Machine: machine, Image: image, NoPower: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return o.ID
}

// state is that of an order.
func (s *site) state(order string) string {
	o, err := s.api.Order(s.t.Context(), order)
	if err != nil {
		s.t.Fatal(err)
	}
	return o.State
}

// Sizes of the test images: several windows and slices of every server.
const (
	kernelSize = 700_001
	initrdSize = 3_000_003
	isoAt      = 1 << 20
	configSize = 2048
)

// noise is data of one's own, the same in each run.
func noise(seed string, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

// isoFile is an image's ISO with the place for an order's arguments.
func isoFile() []byte {
	iso := noise("iso", isoAt+configSize+500_000)
	iso[isoAt-1] = '\n'
	copy(iso[isoAt:], bytes.Repeat([]byte("\n"), configSize))
	return iso
}

// library makes images of which every machine can start one.
func (s *site) library() {
	l := &images.Library{Dir: filepath.Join(s.dir, "state", "images")}
	const cmdline = "machine={{.Machine}} token={{.Token}}"
	rescue := func(cpu string) map[string][]byte {
		return map[string][]byte{"vmlinuz": Program(Kernel, cpu, kernelSize), "initrd.img": noise(cpu, initrdSize)}
	}
	amd64 := rescue("amd64")
	amd64["rescue.iso"] = isoFile()
	linux := images.Image{Kind: images.Linux, Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Cmdline: cmdline, Up: images.Served}
	s.add(l, linux, "rescue", "amd64", amd64)
	s.add(l, linux, "rescue-arm64", "arm64", rescue("arm64"))
	set := images.Image{Kind: images.BootSet}
	s.add(l, set, "ipxe", "", map[string][]byte{"undionly.kpxe": Program(IPXE1, "", 74_000), "snponly.efi": Program(IPXE1, "amd64", 173_792)})
	s.add(l, set, "shim", "", map[string][]byte{"shimx64.efi": Program(Shim, "amd64", 948_504), "grubx64.efi": Program(GRUB, "amd64", 1_843_520),
		"shimaa64.efi": Program(Shim, "arm64", 848_504), "grubaa64.efi": Program(GRUB, "arm64", 1_743_520), "grubia32.efi": Program(GRUB, "i386", 600_000)})
	s.add(l, set, "signed", "", map[string][]byte{"snponly-shimx64.efi": Program(Shim, "amd64", 900_000), "snponly.efi": Program(IPXE2, "amd64", 250_000)})
}

func (s *site) add(l *images.Library, i images.Image, name, arch string, files map[string][]byte) {
	content := map[string]io.Reader{}
	for name, b := range files {
		content[name] = bytes.NewReader(b)
	}
	i.Name, i.Arch = name, arch
	if _, ok := files["rescue.iso"]; ok {
		i.ISO = &images.ISO{File: "rescue.iso", ConfigAt: isoAt, ConfigSize: configSize}
	}
	if _, err := l.Add(i, content); err != nil {
		s.t.Fatal(err)
	}
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// machine plugs a machine in, behind the relay if there is one. hurry 3 keeps
// the firmware's first time-out, of 4 s, above the second within which DHCP takes two
// DISCOVERs for one.
func (s *site) machine(mac net.HardwareAddr, hurry int) *Machine {
	lan := s.lan
	if s.far != nil {
		lan = s.far
	}
	card, err := lan.Plug(mac)
	if err != nil {
		s.t.Fatal(err)
	}
	m := &Machine{Card: card, UUID: [16]byte{0x44, 0x45, 0x4c, 0x4c, 15: mac[5]}, Hurry: hurry}
	if os.Getenv("BOOTTEST_LOG") != "" {
		m.Log = s.t.Logf
	}
	return m
}
