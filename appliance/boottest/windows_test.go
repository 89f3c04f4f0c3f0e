package boottest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/images"
	"rescuebox/images/bcd"
)

// windowsRow is a kind of machine that boots Windows PE.
type windowsRow struct {
	name        string
	personality string
	config      string // of the machine, in the file of the site
	image       string
	stages      string // the programs that must have run, in order
	golden      string // what it asks for and what it is answered, in testdata; "" is not looked at
}

var windowsRows = []windowsRow{
	{"BIOS, Microsoft's loaders", "Intel UNDI", "", "dart", "pxeboot bootmgr-bios", "windows-bios.golden"},
	{"BIOS, iPXE and wimboot", "Intel UNDI", `bootset = "wimboot"`, "dart", "ipxe-1 wimboot", "windows-bios-wimboot.golden"},
	{"BIOS, iPXE in the ROM, no wimboot", "FlexBoot", "", "dart", "pxeboot bootmgr-bios", "windows-flexboot.golden"},
	{"UEFI old, Microsoft's loader", "EDK2 old", "", "dart", "bootmgr", ""},
	{"UEFI, Microsoft's loader", "EDK2 new", `chain = "shim"`, "dart", "bootmgr", "windows-uefi.golden"},
	{"UEFI, it looks beside itself first", "EDK2 new", "", "beside", "bootmgr-beside", "windows-uefi-beside.golden"},
	{"UEFI, the loader of 2023", "EDK2 new", `loader_ca = "2023"`, "dart", "bootmgr", ""},
	{"UEFI that never asks 4011", "UEFI without 4011", "", "dart", "bootmgr", ""},
	{"UEFI, iPXE and wimboot", "EDK2 new", "bootset = \"wimboot\"\nchain = \"ipxe\"", "dart", "ipxe-1 wimboot", "windows-uefi-wimboot.golden"},
	{"UEFI HTTP Boot", "HTTPClient", "", "dart", "bootmgr", "windows-http.golden"},
	{"UEFI HTTP Boot, broken and resumed", "HTTPClient, broken", "", "dart", "bootmgr", ""},
	{"UEFI, plain Windows PE", "EDK2 new", "", "winpe", "bootmgr", ""},
}

// The stand-in for the agent's programs lies where the daemon looks for them: beside it.
var agentProgram = []byte("MZ this is no agent")

func standInAgents(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rescue-agent-windows-legacy-amd64.exe", "rescue-agent-windows-amd64.exe"} {
		path := filepath.Join(filepath.Dir(self), name)
		if err := os.WriteFile(path, agentProgram, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
}

// media are the images that Windows' machines boot, captured once.
type media struct {
	pe    map[string]WindowsPE
	trees map[string]string // what they were captured from
	files map[string]string // the WIMs
}

func captureMedia(t *testing.T) *media {
	t.Helper()
	need(t, "wimlib-imagex", "wimtools")
	m := &media{trees: map[string]string{}, files: map[string]string{}, pe: map[string]WindowsPE{
		"dart":   {DaRT: true, Noise: 3_000_000, Winpeshl: "[LaunchApps]\r\n\"%windir%\\system32\\netstart.exe -prompt\"\r\n\"%SYSTEMDRIVE%\\sources\\recovery\\recenv.exe\"\r\n"},
		"beside": {DaRT: true, Noise: 1_000_000, Beside: true, Packing: "XPRESS"},
		"winpe":  {Noise: 500_000, Packing: "none"},
	}}
	for name, pe := range m.pe {
		dir := t.TempDir()
		var err error
		if m.files[name], err = pe.Capture(dir); err != nil {
			t.Fatal(err)
		}
		m.trees[name] = filepath.Join(dir, "tree")
	}
	return m
}

// addTo imports them into a site's library.
func (m *media) addTo(s *site) {
	l := &images.Library{Dir: filepath.Join(s.dir, "state", "images")}
	for name, wim := range m.files {
		list, err := images.WindowsFiles{Name: name, Path: wim}.Imports()
		for _, found := range list {
			_, failed := l.Import(found)
			err = errors.Join(err, failed, found.Close())
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.add(l, images.Image{Kind: images.BootSet}, "wimboot", "", map[string][]byte{"wimboot": Program(Wimboot, "amd64", 66_560)})
}

// TestWindows boots Windows PE on every kind of machine in every mode: the whole way
// through Microsoft's loaders, with the requests that are known of them, up to a WIM
// that wimlib takes for whole and in which nothing but the order's files differs from
// the admin's. What then runs in it reports a ticket, which ends the order.
func TestWindows(t *testing.T) {
	media := captureMedia(t)
	standInAgents(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			var config strings.Builder
			for i, r := range windowsRows {
				fmt.Fprintf(&config, "[[machine]]\nname = \"w%02d\"\nmac = [%q]\n%s\n", i, macOf(i).String(), r.config)
			}
			s := newSite(t, m, config.String())
			media.addTo(s)
			var wg sync.WaitGroup
			for i, r := range windowsRows {
				order := s.order(fmt.Sprintf("w%02d", i), r.image)
				machine := s.machine(macOf(i), 3)
				p, ok := PersonalityOf(r.personality)
				if !ok {
					t.Fatal("no personality", r.personality)
				}
				wg.Go(func() {
					defer machine.Card.Unplug()
					out := machine.PowerOn(p)
					s.judgeWindows(r, media, machine, out, order)
				})
			}
			wg.Wait()
		})
	}
}

// judgeWindows looks at what a machine loaded, and lets the agent in it report.
func (s *site) judgeWindows(r windowsRow, media *media, machine *Machine, out Outcome, order string) {
	for _, c := range out.Complaints {
		s.t.Errorf("%s: chokes: %s", r.name, c)
	}
	asked := strings.ReplaceAll(strings.Join(out.Asked, "\n")+"\n", strings.ReplaceAll(machine.Card.MAC.String(), ":", ""), "MAC")
	if out.Err != nil || strings.Join(out.Stages, " ") != r.stages || out.Kernel != "boot.wim" {
		s.t.Errorf("%s: %v; ran %q, want %q; last was %s; asked for:\n%s", r.name, out.Err, out.Stages, r.stages, out.Kernel, asked)
		return
	}
	if r.golden != "" {
		golden(s.t, filepath.Join("testdata", r.golden), asked)
	}
	wim, _ := out.File("boot.wim")
	told, err := media.checkWIM(s.t.TempDir(), r.image, wim.Data)
	if err != nil {
		s.t.Errorf("%s: %v", r.name, err)
		return
	}
	if told.Order != order || told.Server != "http://192.168.77.1" {
		s.t.Errorf("%s: the agent is told %s and %s", r.name, told.Order, told.Server)
	}
	if err := machine.SendTicket(told.Server, told.Token, TicketXML("118-497-589", machine.Address().String(), 3389)); err != nil {
		s.t.Errorf("%s: %v", r.name, err)
		return
	}
	eventually(s.t, 20*time.Second, r.name+": the order is done", func() bool { return s.state(order) == "done" })
	s.noTrouble(r, order)
	s.hasTicket(r, order, machine)
}

// noTrouble looks that the timeline tells of nothing that was none: probes, and files that are not needed.
func (s *site) noTrouble(r windowsRow, order string) {
	events, err := s.api.Timeline(s.t.Context(), order)
	if err != nil {
		s.t.Error(err)
	}
	for _, e := range events {
		// The firmware of one row breaks its connection itself.
		if e.Step == "refused" || e.Step == "cause" || strings.Contains(e.Text, "broke off") && !strings.Contains(r.personality, "broken") {
			s.t.Errorf("%s: in the timeline: %s", r.name, e.Text)
		}
	}
}

func (s *site) hasTicket(r windowsRow, order string, machine *Machine) {
	list, err := s.api.Tickets(s.t.Context(), "", order)
	if err != nil || len(list) != 1 || list[0].Kind != "dart" || !list[0].Verified || list[0].Address != machine.Address().String() || list[0].Port != 3389 {
		s.t.Errorf("%s: tickets %+v, %v", r.name, list, err)
	}
}

// agentConfig is what the agent is told.
type agentConfig struct{ Server, Token, Machine, Order string }

// checkWIM has wimlib look at a WIM: all is there that was captured, byte for
// byte, and the order's files; nothing else.
func (m *media) checkWIM(dir, image string, wim []byte) (told agentConfig, err error) {
	file, tree := filepath.Join(dir, "boot.wim"), filepath.Join(dir, "tree")
	if err := os.WriteFile(file, wim, 0o644); err != nil {
		return told, err
	}
	for _, args := range [][]string{{"verify", file}, {"apply", file, tree}} { // apply of a file with one image, or the one that boots
		if out, err := exec.Command("wimlib-imagex", args...).CombinedOutput(); err != nil {
			return told, fmt.Errorf("wimlib-imagex %s: %w: %s", args[0], err, out)
		}
	}
	system := filepath.Join(tree, "Windows", "System32")
	take := func(name string) []byte {
		b, e := os.ReadFile(filepath.Join(system, name))
		err = errors.Join(err, e, os.Remove(filepath.Join(system, name)))
		return b
	}
	ini, agent, config := take("winpeshl.ini"), take("rescue-agent.exe"), take("rescue-agent.json")
	if err != nil {
		return told, err
	}
	if !bytes.Equal(agent, agentProgram) {
		return told, errors.New("the agent in the WIM is another")
	}
	if err := json.Unmarshal(config, &told); err != nil {
		return told, err
	}
	if own := m.pe[image].Winpeshl; own != "" {
		err = os.WriteFile(filepath.Join(system, "winpeshl.ini"), []byte(own), 0o644) // what it replaced
	}
	if !strings.HasPrefix(string(ini), "[LaunchApps]\r\n") || !strings.Contains(string(ini), "rescue-agent.exe, start") || strings.Contains(string(ini), "-prompt") {
		return told, fmt.Errorf("winpeshl.ini is %q", ini)
	}
	if out, e := exec.Command("diff", "-r", m.trees[image], tree).CombinedOutput(); e != nil {
		err = fmt.Errorf("the WIM has other files: %s", out)
	}
	return told, err
}

// TestLoaderOfAnotherCA: a machine whose Secure Boot has revoked the CA of 2011 refuses the
// first boot manager, asks anew, and is given the one of 2023, in the same order and for all later ones.
func TestLoaderOfAnotherCA(t *testing.T) {
	media := captureMedia(t)
	standInAgents(t)
	s := newSite(t, modes[0], fmt.Sprintf("[[machine]]\nname = \"w00\"\nmac = [%q]\n", macOf(0).String()))
	media.addTo(s)
	machine := s.machine(macOf(0), 3)
	old := sumOf(media.pe["dart"].contents()["Windows/Boot/EFI/bootmgfw.efi"])
	machine.Starts = func(f Loaded) bool { return f.SHA256 != old }
	p, _ := PersonalityOf("EDK2 new")
	order := s.order("w00", "dart")
	if out := machine.PowerOn(p); out.Err == nil || !strings.Contains(out.Err.Error(), "security violation") {
		t.Errorf("the first boot: %v", out.Err)
	}
	eventually(t, 20*time.Second, "the boot manager has gone out whole", func() bool {
		events, err := s.api.Timeline(t.Context(), order)
		return err == nil && slices.ContainsFunc(events, func(e api.Event) bool { return e.File == "bootmgfw.efi" && e.Bytes == e.Total })
	})
	for i := range 2 {
		if i > 0 {
			s.order("w00", "dart")
		}
		if out := machine.PowerOn(p); out.Err != nil {
			t.Errorf("boot %d: %v", i+2, out.Err)
		}
	}
}

// TestBCD: the simulated boot manager reads what a store says, and nothing out of another file.
func TestBCD(t *testing.T) {
	s := bcd.Store{EFI: true, Loader: `\windows\system32\winload.efi`, WIM: `\boot\525400123456\boot.wim`, SDI: `\boot\boot.sdi`, BlockSize: 1456, Window: 8, VariableWindow: true}
	want := plan{loader: s.Loader, wim: s.WIM, sdi: s.SDI, block: 1456, window: 8, variable: true}
	if got, err := readBCD(s.Bytes()); got != want || err != nil {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	bare := bcd.Store{WIM: s.WIM, SDI: s.SDI}
	if got, err := readBCD(bare.Bytes()); got.block != 0 || got.window != 0 || got.variable || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, damaged := range [][]byte{nil, []byte("regf"), s.Bytes()[:5000], make([]byte, 8192)} {
		if got, err := readBCD(damaged); err == nil {
			t.Errorf("%d bytes: %+v", len(damaged), got)
		}
	}
}

// FuzzBCD: whatever a store holds, to read it ends.
func FuzzBCD(f *testing.F) {
	f.Add(bcd.Store{EFI: true, WIM: `\boot\boot.wim`, SDI: `\boot\boot.sdi`, Window: 8, VariableWindow: true}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) { readBCD(b) })
}
