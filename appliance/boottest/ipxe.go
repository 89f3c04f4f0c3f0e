package boottest

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// ipxeFeatures is option 175 as iPXE fills it (captured): its version, then
// what it can do, a byte each.
var ipxeFeatures = []byte{0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e, 0xeb, 3, 1, 0, 0, 0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1, 0x14, 1, 1, 0x11, 1, 1}

// ipxeIdentity is what iPXE says of itself, on a BIOS or under UEFI.
func ipxeIdentity(arch int) identity {
	return identity{class: fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003010", arch), arch: arch, undi: []byte{1, 3, 10},
		user: "iPXE", ipxe: ipxeFeatures, maxSize: 1472}
}

// runIPXE is iPXE as a program: its own DHCP, then the file that it is told.
// Version 2, signed and so without a script inside, looks for autoexec.ipxe beside itself first.
func (m *Machine) runIPXE(kind Kind, from origin) error {
	if kind == IPXE2 {
		if f, ok := m.autoexec(from.beside("autoexec.ipxe")); ok {
			return m.runScript(f.Data)
		}
	}
	m.self = ipxeIdentity(ipxeArch(m.self.arch))
	return m.ipxeBoot()
}

func (m *Machine) autoexec(from origin) (Loaded, bool) {
	if from.scheme == "http" {
		f, err := m.httpGet(from)
		return f, err == nil
	}
	return m.optional(from, ipxeTFTP)
}

// ipxeTFTP is what iPXE asks for.
var ipxeTFTP = tftpOptions{block: 1432, size: true}

// ipxeBoot gets an address and loads what DHCP says.
func (m *Machine) ipxeBoot() error {
	if err := m.ipxeDHCP(); err != nil {
		return err
	}
	name := m.boot.file()
	if name == "" {
		return fmt.Errorf("iPXE: no boot file name: %w", ErrLocal)
	}
	from := origin{"tftp", netip.AddrPortFrom(m.boot.next(), 69), name}
	if strings.Contains(name, "://") {
		var err error
		if from, err = originOf(name); err != nil {
			return err
		}
	}
	f, err := m.ipxeFetch(from)
	if err != nil {
		return err
	}
	return m.ipxeExec(f, from)
}

func (m *Machine) ipxeFetch(from origin) (Loaded, error) {
	if from.scheme == "tftp" {
		return m.tftpGet(from, ipxeTFTP)
	}
	return m.httpGet(from)
}

// ipxeExec starts a script or a program.
func (m *Machine) ipxeExec(f Loaded, from origin) error {
	if strings.HasPrefix(string(f.Data), "#!ipxe") {
		return m.runScript(f.Data)
	}
	return m.start(f, from)
}

// ipxeDHCP is iPXE's DHCP (net/udp/dhcp.c): it waits 2 s for proxyDHCP offers,
// or less where the offer says not to; it asks 4011 only where a proxy offer
// names neither boot file nor menu.
func (m *Machine) ipxeDHCP() error {
	xid := newXID()
	for try, secs := 0, time.Duration(0); try < 5; try++ {
		offers, err := m.discover(xid, secs, max(2*time.Second, secs), ipxeHasAll)
		if err != nil {
			return err
		}
		if plain, proxy := ipxeSelect(offers); plain != nil {
			return m.ipxeBind(plain, proxy, secs)
		}
		secs += max(2*time.Second, secs)
	}
	return errors.New("iPXE: no configuration methods succeeded")
}

// ipxeSelect picks the offer of an address and the one for PXE.
func ipxeSelect(offers []*Answer) (plain, proxy *Answer) {
	for _, o := range offers {
		if !o.proxy() && plain == nil {
			plain = o
		}
		if o.proxy() && o.pxe() && o.id().IsValid() {
			proxy = o
		}
	}
	return plain, proxy
}

func ipxeHasAll(offers []*Answer) bool {
	plain, proxy := ipxeSelect(offers)
	return plain != nil && (proxy != nil || plain.Options.Has(dhcpv4.GenericOptionCode(optIPXE)))
}

func (m *Machine) ipxeBind(plain, proxy *Answer, secs time.Duration) error {
	ack, err := m.request(plain, secs)
	if err != nil {
		return err
	}
	m.boot = ack
	if proxy == nil {
		return nil
	}
	if m.boot = proxy; proxy.file() == "" && len(proxy.vendor()[pxeMenu]) == 0 {
		m.boot, err = m.askBootServer(proxy.id(), secs, portClient)
	}
	return err
}

// script is an iPXE script that runs.
type script struct {
	m      *Machine
	lines  []string
	labels map[string]int
	at     int
	vars   map[string]string
	kernel Loaded
	images []Loaded
	named  map[string]Loaded // by the name that iPXE gives them
	args   string
	ended  bool
}

// maxLines ends a script that does not.
const maxLines = 2000

// errFailed is a command that did not succeed.
var errFailed = errors.New("failed")

// runScript runs a script of the commands that ours has; one that it does not
// know is an error, as iPXE would say.
func (m *Machine) runScript(text []byte) error {
	s := &script{m: m, labels: map[string]int{}, vars: m.settings(), named: map[string]Loaded{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if label, ok := strings.CutPrefix(line, ":"); ok {
			s.labels[label] = len(s.lines)
		}
		s.lines = append(s.lines, line)
	}
	for steps := 0; s.at < len(s.lines) && !s.ended; steps++ {
		if steps > maxLines {
			return errors.New("the iPXE script does not end")
		}
		line := s.lines[s.at]
		s.at++
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ":") {
			continue
		}
		if err := s.line(line); err != nil {
			return fmt.Errorf("iPXE script stops at %q: %w", line, err)
		}
	}
	if m.out.Kernel == "" {
		return fmt.Errorf("the iPXE script started nothing: %w", ErrLocal)
	}
	return nil
}

// settings are the variables that iPXE sets itself.
func (m *Machine) settings() map[string]string {
	platform := "efi"
	if m.self.arch <= 0 {
		platform = "pcbios"
	}
	return map[string]string{"platform": platform, "ip": m.Address().String(), "mac": m.Card.MAC.String(),
		"net0/mac": m.Card.MAC.String(), "mac:hexhyp": strings.ReplaceAll(m.Card.MAC.String(), ":", "-")}
}

// line runs the commands of a line: && and || look at the last result, whether
// or not its command was run, and an empty command is a success.
func (s *script) line(line string) error {
	var err error
	run := true
	for words := append(strings.Fields(s.expand(line)), ""); ; {
		n := 0
		for words[n] != "" && words[n] != "&&" && words[n] != "||" {
			n++
		}
		if run {
			err = s.command(words[:n])
		}
		if words[n] == "" || s.ended {
			return err
		}
		run = (words[n] == "&&") == (err == nil)
		words = words[n+1:]
	}
}

// expand puts settings in the place of ${name}.
func (s *script) expand(line string) string {
	for {
		before, rest, ok := strings.Cut(line, "${")
		name, after, closed := strings.Cut(rest, "}")
		if !ok || !closed {
			return line
		}
		line = before + s.vars[name] + after
	}
}

// wants is how many arguments a command needs.
var wants = map[string]int{"set": 1, "inc": 1, "goto": 1, "sleep": 1, "chain": 1, "imgexec": 1}

func (s *script) command(words []string) error {
	if len(words) == 0 {
		return nil
	}
	args := words[1:]
	if wants[words[0]] > len(args) {
		return fmt.Errorf("%s: too few arguments", words[0])
	}
	switch words[0] {
	case "echo":
		s.m.logf("iPXE: %s", strings.Join(args, " "))
	case "set":
		name, _, _ := strings.Cut(args[0], ":")
		s.vars[name] = strings.Join(args[1:], " ")
	case "inc":
		n, _ := strconv.Atoi(s.vars[args[0]])
		s.vars[args[0]] = strconv.Itoa(n + 1)
	case "iseq":
		return okIf(len(args) == 2 && args[0] == args[1])
	case "isset":
		return okIf(len(args) == 1 && args[0] != "")
	case "goto":
		at, ok := s.labels[args[0]]
		s.at = at
		return okIf(ok)
	case "sleep":
		seconds, _ := strconv.Atoi(args[0])
		s.m.pause(time.Duration(seconds) * time.Second)
	case "dhcp":
		return s.m.ipxeDHCP()
	case "exit":
		s.ended = true
	default:
		return s.imageCommand(words[0], args)
	}
	return nil
}

// imageCommand is a command about images.
func (s *script) imageCommand(name string, args []string) error {
	switch name {
	case "imgfree":
		if len(args) == 0 {
			s.images, s.kernel, s.named = nil, Loaded{}, map[string]Loaded{}
		}
	case "kernel", "initrd", "imgfetch", "module":
		return s.load(name, args)
	case "chain", "imgexec":
		f, from, err := s.fetch(args[len(args)-1])
		if err != nil {
			return err
		}
		s.ended = true
		return s.m.ipxeExec(f, from)
	case "boot":
		if s.kernel.Name == "" {
			return errFailed
		}
		if kind, _ := kindOf(s.kernel.Data); kind == Wimboot {
			s.ended = true
			return s.m.runWimboot(s.named)
		}
		s.m.out.Kernel, s.m.out.Cmdline, s.ended = s.kernel.Name, s.args, true
	default:
		return fmt.Errorf("%s: command not found", name)
	}
	return nil
}

// load is kernel, initrd and their like: an image, its name, its arguments.
func (s *script) load(command string, args []string) error {
	name := ""
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		name, args = args[1], args[2:] // --name NAME
	}
	if len(args) == 0 {
		return errFailed
	}
	f, _, err := s.fetch(args[0])
	if err != nil {
		s.m.logf("iPXE: %v", err)
		return err
	}
	if command == "kernel" {
		if !s.m.starts(f) {
			return fmt.Errorf("%s: exec format error", f.Name)
		}
		s.kernel, s.args = f, strings.Join(args[1:], " ")
	}
	s.images = append(s.images, f)
	if len(args) == 2 && args[1] == name { // a name in both ways: see runWimboot
		s.named[name] = f
	}
	return nil
}

func (s *script) fetch(rawURL string) (Loaded, origin, error) {
	from, err := originOf(rawURL)
	if err != nil {
		return Loaded{}, from, err
	}
	f, err := s.m.ipxeFetch(from)
	return f, from, err
}

func okIf(ok bool) error {
	if ok {
		return nil
	}
	return errFailed
}

// ipxeArch is what iPXE says of its architecture: it speaks PXE, also where the firmware spoke HTTP Boot.
func ipxeArch(firmware int) int {
	if arch, ok := map[int]int{15: 6, 16: 7, 17: 9, 19: 11}[firmware]; ok {
		return arch
	}
	return max(firmware, 0)
}
