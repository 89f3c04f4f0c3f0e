package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/images"
)

// memory is a store that outlives a table, as the SQLite file outlives the daemon.
type memory struct {
	mu       sync.Mutex
	orders   map[string]Order
	machines map[string]Machine
	events   []Event
	keys     []string
	deletes  int
	full     bool // the disk is full
}

func newMemory() *memory {
	return &memory{orders: map[string]Order{}, machines: map[string]Machine{}}
}

var errFull = errors.New("no space left")

func (m *memory) setFull(full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = full
}

type orderStore struct{ *memory }

func (m orderStore) Put(k string, o Order) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return errFull
	}
	m.orders[k] = o
	return nil
}

func (m orderStore) Delete(k string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.orders, k)
	m.deletes++
	return nil
}

func (m orderStore) All() (all []Order, err error) {
	for _, o := range m.orders {
		all = append(all, o)
	}
	return all, nil
}

type machineStore struct{ *memory }

func (m machineStore) Put(k string, v Machine) error { m.machines[k] = v; return nil }
func (m machineStore) All() (all []Machine, err error) {
	for _, v := range m.machines {
		all = append(all, v)
	}
	return all, nil
}

func (m *memory) Append(key string, e Event) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return 0, errFull
	}
	e.Seq = int64(len(m.events) + 1)
	m.events, m.keys = append(m.events, e), append(m.keys, key)
	return e.Seq, nil
}

func (m *memory) Read(key string, after int64, max int) (list []Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range m.events {
		if e.Seq > after && (key == "" || m.keys[i] == key) && len(list) < max {
			list = append(list, e)
		}
	}
	return list, nil
}

var (
	mac1    = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	mac1b   = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x57}
	uuid1   = UUID{0x4c, 0x4c, 0x45, 0x44, 1}
	foreign = MAC{2, 2, 2, 2, 2, 2}
)

// testLibrary holds the boot set, "rescue" (its agent reports), and "setup" (up when served).
func testLibrary(t testing.TB) *images.Library {
	t.Helper()
	lib := &images.Library{Dir: t.TempDir()}
	add := func(i images.Image, files map[string]io.Reader) {
		if _, err := lib.Add(i, files); err != nil {
			t.Fatal(err)
		}
	}
	add(images.Image{Name: "ipxe", Kind: images.BootSet}, map[string]io.Reader{
		"undionly.kpxe": strings.NewReader("bios nbp"), "snponly.efi": strings.NewReader("MZ uefi nbp")})
	add(images.Image{Name: "rescue", Kind: images.Linux, Title: "Rescue", Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Up: images.Agent,
		Cmdline: `rescuebox.url={{.URL}}/root.squashfs rescuebox.sha256={{index .SHA256 "root.squashfs"}} rescuebox.token={{.Token}}`},
		map[string]io.Reader{"vmlinuz": strings.NewReader("kernel"), "initrd.img": strings.NewReader("initrd"), "root.squashfs": strings.NewReader("root")})
	add(images.Image{Name: "setup", Kind: images.Linux, Kernel: "linux", Initrd: []string{"initrd.gz"}, Up: images.Served},
		map[string]io.Reader{"linux": strings.NewReader("kernel"), "initrd.gz": strings.NewReader("initrd")})
	return lib
}

func testConfig(t testing.TB, m *memory) Config {
	return Config{
		Machines: []Machine{{Name: "srv01", MACs: []MAC{mac1, mac1b}, UUID: uuid1}},
		Server:   "http://192.168.77.1", Images: testLibrary(t),
		Orders: orderStore{m}, Events: m, Adopted: machineStore{m},
	}
}

func arm(t testing.TB, table *Table, image string, ttl time.Duration) Order {
	t.Helper()
	o, err := table.Arm("srv01", image, "anna", ttl)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// answer is what a client is told, in short.
func answer(table *Table, c Client) string {
	d, err := table.Decide(c)
	var no *Refusal
	switch {
	case errors.As(err, &no) && no.Local:
		return "local"
	case err != nil:
		return "refused: " + err.Error()
	}
	return d.Image.Name + " " + string(d.Chain) + " " + d.File
}

func fetch(t testing.TB, table *Table, path string) string {
	t.Helper()
	f, err := table.Open(path, netip.MustParseAddr("192.168.77.100"))
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != f.Size {
		t.Errorf("%s has %d bytes, said %d", path, len(b), f.Size)
	}
	table.Served(f)
	return string(b)
}

func TestDecide(t *testing.T) {
	bios := Client{MAC: mac1, Arch: BIOS, Program: Firmware}
	for _, test := range []struct {
		name  string
		setup func(c *Config)
		order string
		c     Client
		want  string
	}{
		{"no order", nil, "", bios, "local"},
		{"bios", nil, "rescue", bios, "rescue ipxe undionly.kpxe"},
		{"uefi 7", nil, "rescue", Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}, "rescue ipxe snponly.efi"},
		{"uefi 9", nil, "rescue", Client{MAC: mac1, Arch: UEFIEBC, Program: Firmware}, "rescue ipxe snponly.efi"},
		{"ipxe gets the script, whatever its architecture", nil, "rescue", Client{MAC: mac1, Arch: UEFIX64, Program: IPXE}, "rescue ipxe boot.ipxe"},
		{"second card", nil, "rescue", Client{MAC: mac1b, Arch: BIOS, Program: Firmware}, "rescue ipxe undionly.kpxe"},
		{"replaced card, known UUID", nil, "rescue", Client{MAC: foreign, UUID: uuid1, Arch: BIOS, Program: Firmware}, "rescue ipxe undionly.kpxe"},
		{"iPXE of another architecture", nil, "rescue", Client{MAC: mac1, Arch: UEFIARM64, Program: IPXE},
			"rescue ipxe boot.ipxe"},
		{"ia32 is refused, never given the x64 file", nil, "rescue", Client{MAC: mac1, Arch: UEFIIA32, Program: Firmware},
			"refused: srv01 asks as UEFI ia32 (6), and there is no boot program for that"},
		{"no architecture", nil, "rescue", Client{MAC: mac1, Arch: UnknownArch, Program: Firmware},
			"refused: srv01 asks as unknown architecture, and there is no boot program for that"},
		{"stranger", nil, "rescue", Client{MAC: foreign, Arch: BIOS, Program: Firmware}, "local"},
		{"stranger, unknown = rescue", func(c *Config) { c.Unknown = "rescue" }, "", Client{MAC: foreign, Arch: BIOS, Program: Firmware}, "rescue ipxe undionly.kpxe"},
		{"standing", func(c *Config) { c.Machines[0].Image = "setup" }, "", bios, "setup ipxe undionly.kpxe"},
		{"an order goes before the standing assignment", func(c *Config) { c.Machines[0].Image = "setup" }, "rescue", bios, "rescue ipxe undionly.kpxe"},
		{"standing image that is gone", func(c *Config) { c.Machines[0].Image = "gone" }, "", bios, `refused: no image "gone"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig(t, newMemory())
			if test.setup != nil {
				test.setup(&c)
			}
			table := New(c)
			if test.order != "" {
				arm(t, table, test.order, 0)
			}
			if got := answer(table, test.c); !strings.HasPrefix(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestArmRefuses(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	for _, test := range []struct {
		machine, image string
		ttl            time.Duration
		want, hint     string
	}{
		{"srv02", "rescue", 0, `no machine "srv02"`, "machines are srv01"},
		{"srv01", "drat", 0, `no image "drat"`, "images are rescue, setup"},
		{"srv01", "ipxe", 0, `ipxe is a boot set`, "images are rescue, setup"},
		{"srv01", "rescue", -time.Minute, "an order cannot live -1m0s", "give a TTL"},
	} {
		_, err := table.Arm(test.machine, test.image, "anna", test.ttl)
		var no *Refusal
		if !errors.As(err, &no) || !strings.HasPrefix(no.Reason, test.want) || !strings.Contains(no.Hint, test.hint) {
			t.Errorf("Arm(%s, %s, %s) = %#v, want %q with hint %q", test.machine, test.image, test.ttl, err, test.want, test.hint)
		}
	}
}

// A whole boot: asking uses nothing up, the agent's report does, and the
// machine that comes back boots its own disk.
func TestOrderIsUsedOnce(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	o := arm(t, table, "rescue", 0)
	bios := Client{MAC: mac1, Arch: BIOS, Program: Firmware}
	for range 5 {
		if got := answer(table, bios); got != "rescue ipxe undionly.kpxe" {
			t.Fatal(got)
		}
	}
	fetch(t, table, Path(mac1, "undionly.kpxe"))
	if now, _ := table.OpenOrder("srv01"); now.State != Booting {
		t.Errorf("after the first boot file the order is %s", now.State)
	}
	fetch(t, table, Path(mac1, "boot.ipxe"))
	fetch(t, table, Path(mac1, "vmlinuz"))
	fetch(t, table, Path(mac1, "initrd.img"))
	fetch(t, table, Path(mac1, "root.squashfs"))
	if got := answer(table, bios); got != "rescue ipxe undionly.kpxe" {
		t.Errorf("files alone ended an order that waits for the agent: %s", got)
	}
	if err := table.Up(o.ID); err != nil {
		t.Fatal(err)
	}
	if got := answer(table, bios); got != "local" {
		t.Errorf("after the report: %s", got)
	}
	if _, err := table.Open(Path(mac1, "vmlinuz"), netip.Addr{}); err == nil {
		t.Error("a file is served without an order")
	}
	if again, ok := table.ByToken(o.Token); !ok || again.State != Done {
		t.Errorf("the token of a done order proves nothing: %v %v", again.State, ok)
	}
	if err := table.Up(o.ID); err != nil {
		t.Errorf("a second report: %v", err)
	}
}

// Who rescues over the weekend has a token that proves the machine on Monday, but not for ever.
func TestTokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(testConfig(t, newMemory()))
		arm(t, table, "rescue", 0)
		o, _ := table.OpenOrder("srv01")
		if err := table.Up(o.ID); err != nil {
			t.Fatal(err)
		}
		for _, alive := range []bool{true, false} {
			time.Sleep(5 * 24 * time.Hour)
			if _, ok := table.ByToken(o.Token); ok != alive {
				t.Errorf("%v after the end of the order its token proves something: %v", time.Since(o.Created), ok)
			}
		}
	})
}

// A record without a token, as of a damaged store, is not proven by who has none either.
func TestNoTokenProvesNothing(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	arm(t, table, "rescue", 0)
	table.open["srv01"].Token = ""
	if o, ok := table.ByToken(""); ok {
		t.Errorf("no token is that of %s", o.Machine)
	}
}

func TestLastFileEndsOrder(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	arm(t, table, "setup", 0)
	fetch(t, table, Path(mac1, "undionly.kpxe"))
	fetch(t, table, Path(mac1, "linux"))
	if _, open := table.OpenOrder("srv01"); !open {
		t.Fatal("the order ended before its last file")
	}
	fetch(t, table, Path(mac1, "initrd.gz"))
	if got := answer(table, Client{MAC: mac1, Arch: BIOS, Program: Firmware}); got != "local" {
		t.Errorf("after the last file: %s", got)
	}
	if o := table.AllOrders(1)[0]; o.State != Done {
		t.Errorf("order is %s", o.State)
	}
}

// A program that iPXE starts may never acknowledge its own last bytes: the
// script's word that all is loaded ends the order too, but not one that waits for its agent.
func TestLoadedEndsOrder(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	arm(t, table, "setup", 0)
	fetch(t, table, Path(mac1, "loaded"))
	if o := table.AllOrders(1)[0]; o.State != Done {
		t.Errorf("order is %s", o.State)
	}
	arm(t, table, "rescue", 0)
	fetch(t, table, Path(mac1, "loaded"))
	if _, open := table.OpenOrder("srv01"); !open {
		t.Error("the order ended before the agent's report")
	}
}

func TestExpiry(t *testing.T) {
	m := newMemory()
	c := testConfig(t, m)
	synctest.Test(t, func(t *testing.T) {
		table := New(c)
		ctx, cancel := context.WithCancel(t.Context())
		go table.Run(ctx, func() {})
		arm(t, table, "rescue", 10*time.Minute)
		time.Sleep(10*time.Minute - time.Second)
		if _, open := table.OpenOrder("srv01"); !open {
			t.Error("ended too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		o := table.AllOrders(1)[0]
		if o.State != Expired || o.Reason != "srv01 did not boot rescue in time" {
			t.Errorf("order is %s: %q", o.State, o.Reason)
		}
		if events, _ := table.Timeline(o.ID); events[len(events)-1].Step != StepExpired {
			t.Errorf("the timeline ends with %v", events[len(events)-1])
		}
		cancel()
	})
}

// The TTL counts through restarts of the daemon, and the order with it.
func TestRestart(t *testing.T) {
	m := newMemory()
	c := testConfig(t, m)
	synctest.Test(t, func(t *testing.T) {
		o := arm(t, New(c), "rescue", 10*time.Minute)
		time.Sleep(6 * time.Minute)
		table := New(c)
		if again, open := table.OpenOrder("srv01"); !open || again.ID != o.ID || again.Token != o.Token {
			t.Errorf("after a restart: %v %v", again, open)
		}
		time.Sleep(6 * time.Minute)
		table = New(c)
		if got := answer(table, Client{MAC: mac1, Arch: BIOS, Program: Firmware}); got != "local" {
			t.Errorf("a restart made an old order young: %s", got)
		}
		if m.orders[o.ID].State != Expired {
			t.Errorf("stored as %s", m.orders[o.ID].State)
		}
	})
}

func TestReplaceAndCancel(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	first := arm(t, table, "setup", 0)
	second := arm(t, table, "rescue", 0)
	if o, _ := table.ByToken(first.Token); o.State != Failed || o.Reason != "replaced by a new order of anna" {
		t.Errorf("first order is %s: %q", o.State, o.Reason)
	}
	if got := answer(table, Client{MAC: mac1, Arch: BIOS, Program: Firmware}); got != "rescue ipxe undionly.kpxe" {
		t.Error(got)
	}
	o, err := table.Cancel("srv01", "boris")
	if err != nil || o.ID != second.ID || o.State != Failed || o.Reason != "cancelled by boris" {
		t.Errorf("cancel: %v %v", o, err)
	}
	if _, err := table.Cancel("srv01", "boris"); err == nil {
		t.Error("cancelled what was not there")
	}
}

// A full disk fails the order that could not be kept, and ends those that are open.
func TestFullDisk(t *testing.T) {
	m := newMemory()
	table := New(testConfig(t, m))
	o := arm(t, table, "rescue", 0)
	m.full = true
	if err := table.Up(o.ID); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	if got := answer(table, Client{MAC: mac1, Arch: BIOS, Program: Firmware}); got != "local" {
		t.Errorf("the machine would boot twice: %s", got)
	}
	if _, err := table.Arm("srv01", "rescue", "anna", 0); !errors.Is(err, errFull) {
		t.Errorf("an order that is not stored was made: %v", err)
	}
}

func TestChangedFileIsRefusedByName(t *testing.T) {
	c := testConfig(t, newMemory())
	table := New(c)
	arm(t, table, "rescue", 0)
	if err := overwrite(c.Images.Dir+"/rescue/initrd.img", "evil!!"); err != nil {
		t.Fatal(err)
	}
	_, err := table.Open(Path(mac1, "initrd.img"), netip.Addr{})
	if err == nil || !strings.Contains(err.Error(), "initrd.img") {
		t.Errorf("got %v", err)
	}
	if _, err := table.Arm("srv01", "rescue", "anna", 0); err == nil || !strings.Contains(err.Error(), "initrd.img") {
		t.Errorf("armed with a changed file: %v", err)
	}
}

// Ten thousand strangers leave the memory bounded and the ordered machine alone.
func TestStrangersAreBounded(t *testing.T) {
	m := newMemory()
	c := testConfig(t, m)
	c.Unknown = "setup"
	table := New(c)
	o := arm(t, table, "rescue", 0)
	for i := range 10000 {
		mac := MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		if got := answer(table, Client{MAC: mac, Arch: BIOS, Program: Firmware}); got != "setup ipxe undionly.kpxe" {
			t.Fatal(got)
		}
	}
	if n := len(table.AllOrders(1 << 20)); n > maxEphemeral+1 {
		t.Errorf("%d orders in memory", n)
	}
	if n := len(m.orders); n != 1 || m.deletes > 0 {
		t.Errorf("%d orders stored, %d deleted: strangers reach the disk", n, m.deletes)
	}
	if n := len(table.Seen()); n > maxSeen {
		t.Errorf("%d sightings", n)
	}
	if now, open := table.OpenOrder("srv01"); !open || now.ID != o.ID {
		t.Error("the storm cost srv01 its order")
	}
}

func TestAdopt(t *testing.T) {
	m := newMemory()
	c := testConfig(t, m)
	table := New(c)
	answer(table, Client{MAC: foreign, Arch: UEFIX64, Program: Firmware})
	if seen := table.Seen(); len(seen) != 1 || seen[0].Machine != "" || seen[0].Client.MAC != foreign {
		t.Fatalf("seen: %v", seen)
	}
	if err := table.Adopt(Machine{Name: "pc7", MACs: []MAC{foreign}}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Machine{{Name: "pc7", MACs: []MAC{{9}}}, {Name: "pc8", MACs: []MAC{mac1b}}, {Name: "pc9"}} {
		if err := table.Adopt(bad); err == nil {
			t.Errorf("adopted %v", bad)
		}
	}
	table = New(c) // a restart keeps it
	if _, err := table.Arm("pc7", "rescue", "anna", 0); err != nil {
		t.Error(err)
	}
	if names := table.Machines(); len(names) != 2 || !names[0].Adopted || names[1].Adopted {
		t.Errorf("machines: %v", names)
	}
}

// A watcher that sleeps holds nobody up, and what it loses is progress.
func TestWatch(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	events, stop := table.Watch()
	defer stop()
	o := arm(t, table, "rescue", 0)
	for range 1000 {
		table.Record(Event{Step: StepFile, Machine: "srv01", File: "vmlinuz", Bytes: 1, Transient: true})
	}
	table.Up(o.ID)
	var steps []Step
	for len(events) > 0 {
		if e := <-events; !e.Transient {
			steps = append(steps, e.Step)
		}
	}
	if !slices.Equal(steps, []Step{StepArmed, StepDone}) {
		t.Errorf("watcher saw %v", steps)
	}
	stored, _ := table.Timeline(o.ID)
	for _, e := range stored {
		if e.Transient {
			t.Errorf("progress was stored: %v", e)
		}
		if strings.Contains(fmt.Sprint(e), o.Token) {
			t.Errorf("the token is in the timeline: %v", e)
		}
	}
}
