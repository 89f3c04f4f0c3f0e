//go:build linux

// The daemon, which runs in-process here, is for Linux only.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/console"
	"rescuebox/appliance/state"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rescuebox": main})
}

// The scripts are the manual of the command. Beside rescuebox they have one
// command of their own:
//
//	site up|down           start or stop the daemon's API, with the state kept
//	site bmc               before up: srv01 has a BMC and a switch, and is on
//	site socket            before up: and srv02 a socket that obeys text messages
//	site pressed MACHINE   wait until its order has pressed the button
//	site sound             nothing bad is found about it any more
//	site uplinks           before up: the box has two uplinks, a VPN and a modem
//	site seen MAC          a boot client asks on the LAN
//	site ordered MACHINE   wait until the machine has an open order
//	site boots MACHINE     the machine boots what is ordered, up to its ticket
//	site loads MACHINE     the machine loads its image to the last byte, and reports nothing
//	site followed N        wait until so many commands follow what happens
//	site shows FILE TEXT   wait until a command has written this
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/cli",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "rb") // short: a socket's path has 108 bytes
			if err != nil {
				return err
			}
			s := &testSite{dir: dir}
			env.Defer(func() { s.down(); os.RemoveAll(dir) })
			if s.listen, err = freePort(); err != nil {
				return err
			}
			env.Values["site"] = s
			for name, value := range map[string]string{
				"HOME": env.WorkDir, "XDG_CONFIG_HOME": filepath.Join(env.WorkDir, "config"), "TZ": "UTC",
				"RESCUEBOX_SOCKET": s.socket(), "SOCKET": s.socket(), "URL": "https://" + s.listen.String(), "STATE": dir,
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"site": siteCommand},
	})
}

func siteCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value("site").(*testSite)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: site up|down|seen|boots|loads|claims")
	}
	var err error
	switch verb, rest := args[0], args[1:]; verb {
	case "up":
		err = s.up()
	case "down":
		s.down()
	case "seen":
		err = s.seen(rest[0])
	case "ordered":
		if o, _ := s.ordered(rest[0]); o.ID == "" {
			ts.Fatalf("no order for %s", rest[0])
		}
	case "boots":
		err = s.boots(rest[0])
	case "loads":
		err = s.loads(rest[0])
	case "bmc":
		s.bmc = &testBMC{state: bmc.On}
	case "socket":
		s.bmc = &testBMC{state: bmc.On, socket: true}
	case "uplinks":
		s.links = &testLinks{}
	case "pressed":
		err = s.bmc.pressed(rest[0])
	case "sound":
		s.bmc.sound.Store(true)
	case "claims":
		err = s.claims(rest[0])
	case "followed":
		err = wait(args, func() bool { return fmt.Sprint(s.table.followed.Load()) == rest[0] })
	case "shows":
		err = wait(args, func() bool {
			text, _ := os.ReadFile(ts.MkAbs(rest[0]))
			return strings.Contains(string(text), rest[1])
		})
	default:
		ts.Fatalf("site %s is unknown", verb)
	}
	ts.Check(err)
}

// testSite is the API with everything below it, and no LAN.
type testSite struct {
	dir    string
	listen netip.AddrPort
	stop   func()
	table  *followedTable
	desk   *ticket.Desk
	bmc    *testBMC   // nil: no machine has one
	links  *testLinks // nil: the box watches no uplinks
}

// followedTable knows how many follow what happens.
type followedTable struct {
	*boot.Table
	followed atomic.Int64
}

func (f *followedTable) Watch() (<-chan boot.Event, func()) {
	events, stop := f.Table.Watch()
	f.followed.Add(1)
	return events, func() { stop(); f.followed.Add(-1) }
}

// wait has the patience for a busy machine.
func wait(what []string, is func() bool) error {
	for range 3000 {
		if is() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("waited in vain: %s", what)
}

func (s *testSite) socket() string { return filepath.Join(s.dir, "api.sock") }

var machines = []boot.Machine{
	{Name: "srv01", MACs: []boot.MAC{{0x52, 0x54, 0, 0x12, 0x34, 0x56}}},
	{Name: "srv02", MACs: []boot.MAC{{0x52, 0x54, 0, 0x12, 0x34, 0x57}}, Address: netip.MustParseAddr("192.168.77.20")},
}

func (s *testSite) up() error {
	db, err := state.Open(filepath.Join(s.dir, "rescuebox.db"))
	if err != nil {
		return err
	}
	lib := &images.Library{Dir: filepath.Join(s.dir, "images")}
	if err := fill(lib); err != nil {
		return err
	}
	s.table = &followedTable{Table: boot.New(boot.Config{
		Machines: machines, Server: "http://192.168.77.1", Images: lib,
		Orders:  state.NewTable[boot.Order](db, "orders", state.Durable),
		Events:  state.NewLog[boot.Event](db, "events", state.Relaxed, 10000),
		Adopted: state.NewTable[boot.Machine](db, "machines", state.Durable),
	})}
	s.desk = &ticket.Desk{LAN: netip.MustParsePrefix("192.168.77.1/24"), Store: state.NewTable[ticket.Ticket](db, "tickets", state.Durable),
		Announce: func(t ticket.Ticket) error {
			s.table.Record(boot.Event{Step: boot.StepTicket, Machine: t.Machine, Order: t.Order, Text: "the ticket of " + t.Machine + " is here"})
			return nil
		}}
	keeper := testConsoles{&console.Keeper{Dir: filepath.Join(s.dir, "consoles"), Machines: []console.Machine{{Name: "srv01", Open: loginPrompt}}}}
	server := &admin.Server{
		Socket: s.socket(), Listen: s.listen, StateDir: s.dir, Version: "1.2.3",
		Boot: s.table, Images: lib, Tickets: s.desk,
		Tokens:   state.NewTable[admin.Token](db, "tokens", state.Durable),
		Audit:    state.NewLog[admin.AuditEntry](db, "audit", state.Durable, 1000),
		Consoles: keeper,
		Status: func() api.Status {
			return api.Status{Site: "kazan-2", Started: time.Now(), LAN: api.LAN{Interface: "eth1", Address: "192.168.77.1/24"},
				DHCP: api.DHCP{Configured: "auto", Mode: "proxy", Why: "192.168.77.254 answers"},
				Parts: []api.Part{{Name: "dhcp", State: "running", Since: time.Now()},
					{Name: "tftp", State: "failed", Since: time.Now(), Error: "port 69 is taken"}}}
		},
	}
	s.bmc.wire(server, s.table.Table)
	if s.links != nil {
		server.Links, server.Modems = s.links, s.links
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 2)
	go s.table.Run(ctx, func() {})
	kept := make(chan struct{})
	go func() { keeper.Run(ctx, func() {}); close(kept) }()
	go func() { done <- server.Run(ctx, func() { close(ready) }) }()
	s.stop = func() {
		cancel()
		<-done
		<-kept
		db.Close()
	}
	select {
	case <-ready:
		return wait([]string{"the console of srv01"}, keeper.connected)
	case err := <-done:
		done <- err
		return err
	}
}

func (s *testSite) down() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// fill puts images into an empty library.
func fill(lib *images.Library) error {
	if _, err := os.Stat(lib.Dir); err == nil {
		return nil
	}
	kernel := func() map[string]io.Reader { return map[string]io.Reader{"vmlinuz": strings.NewReader("kernel")} }
	for _, add := range []func() (images.Image, error){
		func() (images.Image, error) {
			return lib.Add(images.Image{Name: "ipxe", Kind: images.BootSet},
				map[string]io.Reader{"undionly.kpxe": strings.NewReader("a"), "snponly.efi": strings.NewReader("b")})
		},
		func() (images.Image, error) {
			return lib.Add(images.Image{Name: "rescue", Title: "Linux rescue system", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Agent}, kernel())
		},
		func() (images.Image, error) {
			return lib.Add(images.Image{Name: "memtest", Title: "Memory test", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Served}, kernel())
		},
	} {
		if _, err := add(); err != nil {
			return err
		}
	}
	return nil
}

func (s *testSite) seen(mac string) error {
	m, err := boot.ParseMAC(mac)
	if err != nil {
		return err
	}
	s.table.Decide(boot.Client{MAC: m, Arch: boot.UEFIX64, Program: boot.Firmware, VendorClass: "PXEClient\x1b[2J"})
	return nil
}

// ordered waits for a machine's order.
func (s *testSite) ordered(machine string) (boot.Order, boot.MAC) {
	for range 3000 {
		if o, ok := s.table.OpenOrder(machine); ok {
			for _, m := range machines {
				if m.Name == machine {
					return o, m.MACs[0]
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return boot.Order{}, boot.MAC{}
}

const report = `{"kind":"ssh","user":"root","port":22,"addresses":["192.168.77.100","10.1.1.1"],
"hostkey_lines":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0BiGQdxZOGNqGLqDTmDuDgHVqHHFRkMKSUdWrFlfVT"],
"serial":"ABC123","hostname":"srv01","system":"Debian GNU/Linux 12 (bookworm)","kernel":"6.1.0"}`

func (s *testSite) boots(machine string) error {
	o, mac := s.ordered(machine)
	s.table.Record(boot.Event{Step: boot.StepOffer, MAC: mac, Text: "offered undionly.kpxe"})
	if err := s.table.Up(o.ID); err != nil {
		return err
	}
	_, err := s.desk.Report(machine, o.ID, true, netip.MustParseAddr("192.168.77.100"), []byte(report))
	return err
}

// claims brings a ticket that nobody has proved, as a script's curl does; "-" is of no machine that is known.
func (s *testSite) claims(machine string) error {
	if machine == "-" {
		_, err := s.desk.DaRT("", "", false, netip.Addr{}, []byte(strings.ReplaceAll(inv32, "77.100", "77.150")))
		return err
	}
	s.ordered(machine)
	_, err := s.desk.DaRT(machine, "", false, netip.MustParseAddr("192.168.77.100"), []byte(inv32))
	return err
}

const inv32 = `<E><A ID="118-497-589"/><C><T ID="1"><L P="49161" N="192.168.77.100"/></T></C></E>`

func (s *testSite) loads(machine string) error {
	_, mac := s.ordered(machine)
	f, err := s.table.Open(boot.Path(mac, "vmlinuz"), netip.MustParseAddr("192.168.77.100"))
	if err != nil {
		return err
	}
	defer f.Close()
	s.table.Progress(f, f.Size)
	s.table.Served(f)
	return nil
}

// freePort finds a port of the loopback, of an address of its own: nobody takes it before the daemon
// does, or while it is down.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", rand.IntN(256), 1+rand.IntN(255)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// The help of every command is golden, and shows an example. UPDATE_GOLDEN=1 writes it anew.
func TestHelp(t *testing.T) {
	c := &cli{in: strings.NewReader(""), out: io.Discard, errOut: io.Discard}
	var all bytes.Buffer
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Example == "" && cmd.Name() != "help" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if path := cmd.CommandPath(); !strings.HasPrefix(path, "rescuebox image ") && cmd.Name() != "help" {
			var out bytes.Buffer
			code := run(t.Context(), append(strings.Fields(path)[1:], "--help"), strings.NewReader(""), &out, &out)
			if code != 0 {
				t.Errorf("%s --help exits with %d", path, code)
			}
			all.WriteString("# " + path + " --help\n" + out.String() + "\n")
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(c.rootCommand())
	const golden = "testdata/help.golden"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, all.Bytes()) {
		t.Errorf("help has changed; look at it with UPDATE_GOLDEN=1 go test -run Help ./cmd/rescuebox && git diff\n%s", all.Bytes())
	}
}

// The admin's laptop runs something else than the box.
func TestOtherSystems(t *testing.T) {
	for _, goos := range []string{"windows", "darwin"} {
		cmd := exec.CommandContext(t.Context(), "go", "vet", "rescuebox/appliance/admin/api", "rescuebox/cmd/rescuebox")
		cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOOS=%s go vet: %v\n%s", goos, err, out)
		}
	}
}
