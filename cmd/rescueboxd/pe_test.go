package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/rogpeppe/go-internal/testscript"

	"rescuebox/appliance/boottest"
	"rescuebox/cmd/rescue-agent/wine"
)

// winpe makes a WIM that looks like a Windows PE, and the agent for it.
func (s *site) winpe(ts *testscript.TestScript, args []string) error {
	if err := s.agents(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), "pe-")
	if err != nil {
		return err
	}
	wim, err := boottest.WindowsPE{DaRT: slices.Contains(args[1:], "dart"), Noise: 4_000_000}.Capture(dir)
	if err != nil {
		return err
	}
	return os.Rename(wim, ts.MkAbs(args[0]+".wim"))
}

// windowsAgents builds the agents for Windows where the daemon looks for them; Go sees whether there is
// anything to do. They are not run here, so that one Go is as good as the other.
func (b binaries) windowsAgents() error {
	for _, name := range []string{"rescue-agent-windows-amd64.exe", "rescue-agent-windows-legacy-amd64.exe"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(b.dir, name), "./cmd/rescue-agent")
		cmd.Dir, cmd.Env = b.root, append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// loader boots a simulated machine of the lab, and prints what its firmware and
// loaders asked for and were answered.
func (s *site) loader(ts *testscript.TestScript, args []string) error {
	p, ok := boottest.PersonalityOf(args[1])
	if !ok {
		return fmt.Errorf("no firmware %q", args[1])
	}
	m, err := s.simulated(ts, args[0])
	if err != nil {
		return err
	}
	out := m.PowerOn(p)
	for _, line := range append(out.Asked, out.Complaints...) {
		fmt.Fprintln(ts.Stdout(), line)
	}
	fmt.Fprintln(ts.Stdout(), "ran", out.Stages)
	if errors.Is(out.Err, boottest.ErrLocal) {
		fmt.Fprintln(ts.Stdout(), "boots its own disk")
		return nil
	}
	if out.Err != nil || len(out.Complaints) > 0 {
		return fmt.Errorf("%s as %s: %w %q", args[0], args[1], out.Err, out.Complaints)
	}
	wim, ok := out.File("boot.wim")
	if !ok {
		return errors.New("the machine has no boot.wim")
	}
	return os.WriteFile(ts.MkAbs(args[0]+".wim"), wim.Data, 0o644)
}

// simulated is a machine without a processor: only its card is real. It stays plugged in.
func (s *site) simulated(ts *testscript.TestScript, name string) (*boottest.Machine, error) {
	if m := s.machines[name]; m != nil {
		return m, nil
	}
	if s.machines == nil {
		lan, err := boottest.OpenLAN("/var/run/netns/"+s.name+"-lan", "lan")
		if err != nil {
			return nil, err
		}
		ts.Defer(lan.Close)
		s.lan, s.machines = lan, map[string]*boottest.Machine{}
	}
	mac, err := net.ParseMAC("52:54:00:12:34:" + name[len(name)-2:]) // of srv01, as scripts/lab has it
	if err != nil {
		return nil, err
	}
	card, err := s.lan.Plug(mac)
	if err != nil {
		return nil, err
	}
	ts.Defer(card.Unplug)
	s.machines[name] = &boottest.Machine{Card: card, UUID: [16]byte{15: mac[5]}}
	return s.machines[name], nil
}

// inv32 is the agent in the machine's Windows PE: all that it knows is what wimlib finds in there.
func (s *site) inv32(ts *testscript.TestScript, args []string) error {
	m := s.machines[args[0]]
	if m == nil {
		return fmt.Errorf("%s has booted nothing", args[0])
	}
	text, err := exec.Command("wimlib-imagex", "extract", ts.MkAbs(args[0]+".wim"), "1", "/Windows/System32/rescue-agent.json", "--to-stdout").Output()
	if err != nil {
		return fmt.Errorf("rescue-agent.json: %w", err)
	}
	var told struct{ Server, Token string }
	if err := json.Unmarshal(text, &told); err != nil {
		return err
	}
	return m.SendTicket(told.Server, told.Token, boottest.TicketXML(args[1], m.Address().String(), 49161))
}

// agent is the machine's Windows PE: Wine runs the agent that wimlib finds in what the machine has
// loaded, with the line of the winpeshl.ini in there, on the machine's card. A stand-in for DaRT's
// RemoteRecovery.exe makes the ticket.
func (s *site) agent(ts *testscript.TestScript, args []string) error {
	m := s.machines[args[0]]
	if m == nil {
		return fmt.Errorf("%s has booted nothing", args[0])
	}
	pc, err := wine.Install(ts.MkAbs(args[0]+".pe"), filepath.Join(s.root, "cmd/rescue-agent/wine/testdata"))
	if err != nil {
		return err
	}
	ts.Defer(pc.Off)
	dir := filepath.Dir(pc.System32("x"))
	out, err := exec.Command("wimlib-imagex", "extract", ts.MkAbs(args[0]+".wim"), "1", "--no-acls", "--dest-dir="+dir,
		"/Windows/System32/winpeshl.ini", "/Windows/System32/rescue-agent.exe", "/Windows/System32/rescue-agent.json").CombinedOutput()
	if err != nil {
		return fmt.Errorf("the order's files: %w: %s", err, out)
	}
	ini, err := os.ReadFile(pc.System32("winpeshl.ini"))
	if err != nil {
		return err
	}
	line := agentLine.FindSubmatch(ini)
	if line == nil {
		return fmt.Errorf("winpeshl.ini starts no agent:\n%s", ini)
	}
	if err := os.WriteFile(filepath.Join(pc.Prefix, "drive_c/ticket.xml"), boottest.TicketXML(args[1], m.Address().String(), 49161), 0o644); err != nil {
		return err
	}
	pc.Through = []string{"nsenter", "--net=" + m.Card.Namespace()}
	text, err := pc.Run(`C:\windows\system32\`+string(line[1]), string(line[2]))
	fmt.Fprint(ts.Stdout(), text)
	return err
}

// agentLine is the agent's of a winpeshl.ini: a program, a comma, its options.
var agentLine = regexp.MustCompile(`(?m)^%SYSTEMROOT%\\system32\\(rescue-agent\.exe), (\w+)\r$`)
