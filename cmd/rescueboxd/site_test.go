package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rescuebox/appliance/boottest"
	"rescuebox/cmd/rescue-agent/wine"
)

// TestSite runs testdata/*.txt and testdata/power/*.txt, once with SeaBIOS and once with
// OVMF, and testdata/firmware/*.txt, which name the firmware of each machine themselves, and
// testdata/windows/*.txt, whose machines are simulated: nobody here has Microsoft's loaders; and
// testdata/link/*.txt, whose box has two ways to the Internet.
// With RESCUEBOX_TEST_SITE=arm64 it runs testdata/arm64/*.txt alone, with =windows those. Each
// script has a branch of its own, made by scripts/lab: the daemon under test on
// a rescue LAN in network namespaces, and virtual servers that boot from it.
// It takes minutes, needs root and QEMU, and so runs only where asked for:
//
//	RESCUEBOX_TEST_SITE=1 go test ./cmd/rescueboxd -run 'TestSite/bios/rescue$' -v
//	RESCUEBOX_TEST_SITE=1 go test ./cmd/rescueboxd -run 'TestSite/firmware/secure$' -v
//	RESCUEBOX_TEST_SITE=1 go test ./cmd/rescueboxd -run 'TestSite/power-uefi/ipmi$' -v
//
// Beside testscript's own commands, scripts have those of the map below; $LAB_DIR is
// the lab's directory, $FIRMWARE is bios or uefi, which are conditions as well.
func TestSite(t *testing.T) {
	if os.Getenv("RESCUEBOX_TEST_SITE") == "" {
		t.Skip("whole-site tests run with RESCUEBOX_TEST_SITE=1, as in scripts/test")
	}
	suites := map[string]string{"bios": "testdata", "uefi": "testdata", "power-bios": "testdata/power", "power-uefi": "testdata/power",
		"firmware": "testdata/firmware", "windows": "testdata/windows", "link": "testdata/link"}
	only := os.Getenv("RESCUEBOX_TEST_SITE")
	switch only {
	case "arm64", "windows": // the rescue image for arm64 takes a quarter of an hour to build; simulated Windows needs none
		suites = map[string]string{only: "testdata/" + only}
	}
	needTools(t, only == "windows")
	b := build(t, only != "windows")
	for name, dir := range suites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Dir:                 dir,
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               func(env *testscript.Env) error { return b.newSite(env, name) },
				Condition:           func(cond string) (bool, error) { return condition(cond, strings.TrimPrefix(name, "power-")) },
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"site":    command(1, (*site).site),     // up [OPTION...] | start | stop | kill | restart the box; lan: only its branch
					"library": command(1, (*site).addImage), // CPU...: the rescue image for it, beside that for amd64
					"dnsmasq": command(1, (*site).dnsmasq),  // HOST OPTION...: another DHCP server
					"pxe":     command(1, (*site).pxe),      // MACHINE [OPTION...]: power it on (again), with options of "lab vm start", and see where it ends
					"bmc":     command(2, (*site).bmc),      // MACHINE KIND [OPTION...]: give it a controller, which powers it with these options of "lab vm start"
					"stick":   command(1, (*site).stick),    // IMAGE [OPTION...]: write it to a stick by "rescuebox image usb"; it is the file $STICK
					"console": command(2, (*site).console),  // MACHINE REGEXP [SECONDS]: until a line of its serial console matches
					"off":     command(1, (*site).off),      // MACHINE: pull its power plug
					"cut":     command(1, (*site).cut),      // MACHINE: pull its network cable
					"mend":    command(1, (*site).mend),     // MACHINE: put the cable back
					"ssh":     command(2, (*site).ssh),      // MACHINE COMMAND: run it there, as the machine's ticket says
					"until":   command(3, (*site).until),    // SECONDS REGEXP PROGRAM...: until its output matches
					"winpe":   command(1, (*site).winpe),    // NAME [dart]: make NAME.wim, which looks like a Windows PE, with DaRT
					"loader":  command(2, (*site).loader),   // MACHINE FIRMWARE: boot a simulated machine, and keep its Windows PE as MACHINE.wim
					"agent":   command(2, (*site).agent),    // MACHINE CODE: Wine runs the agent of MACHINE.wim, and DaRT's ticket is CODE
					"inv32":   command(2, (*site).inv32),    // MACHINE CODE: send a DaRT ticket as the files in MACHINE.wim say
				},
			})
		})
	}
}

// virtualTools are what virtual machines need, with Debian's packages.
var virtualTools = map[string]string{
	"wireguard-go": "wireguard-go", "wg": "wireguard-tools", "oathtool": "oathtool",
	"ipmi_sim": "openipmi", "ipmitool": "ipmitool",
	"qemu-system-x86_64": "qemu-system-x86", "ip": "iproute2", "dnsmasq": "dnsmasq-base", "socat": "socat", "jq": "jq",
	"mcopy": "mtools", "ssh": "openssh-client", "perfdhcp": "kea-admin", "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
	"/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd": "ovmf-ia32", "qemu-system-aarch64": "qemu-system-arm", "qemu-aarch64-static": "qemu-user-static",
	"arch-test": "arch-test", "grub-mkimage": "grub-common", "/usr/lib/grub/i386-efi/efinet.mod": "grub-efi-ia32-bin",
	"/usr/share/AAVMF/AAVMF_CODE.fd": "qemu-efi-aarch64", "/usr/lib/shim/shimx64.efi.signed": "shim-signed",
	"/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "grub-efi-amd64-signed",
	"/usr/lib/ipxe/undionly.kpxe":                        "ipxe", "/usr/lib/ipxe/qemu/pxe-virtio.rom": "ipxe-qemu",
}

// needTools skips the test where a program is missing; in CI it must not be.
func needTools(t *testing.T, simulated bool) {
	t.Helper()
	tools := map[string]string{
		"losetup":       "mount",
		"wimlib-imagex": "wimtools", "ip": "iproute2", "nft": "nftables", "ssh-keygen": "openssh-client", "jq": "jq",
	}
	maps.Copy(tools, wine.Tools)
	if !simulated {
		maps.Copy(tools, virtualTools)
	}
	for tool, pkg := range tools {
		_, err := exec.LookPath(tool)
		if strings.HasPrefix(tool, "/usr/") {
			_, err = os.Stat(tool)
		}
		if err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: apt-get install %s", tool, pkg)
		}
		if err != nil {
			t.Skipf("%s is missing: apt-get install %s", tool, pkg)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

func condition(cond, firmware string) (bool, error) {
	if cond != "bios" && cond != "uefi" || firmware != "bios" && firmware != "uefi" {
		return false, fmt.Errorf("no condition %q", cond)
	}
	return cond == firmware, nil
}

// binaries is what all sites share: the programs under test and the library
// with the rescue image.
type binaries struct {
	root    string // of the checkout
	dir     string // of rescuebox and rescueboxd
	library string
	goCache string       // scripts have a home of their own
	agents  func() error // builds those for Windows, once
}

// build builds the programs, and the library unless all machines are simulated.
func build(t *testing.T, rescue bool) binaries {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := binaries{root: root}
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		return strings.TrimSpace(string(out))
	}
	b.goCache = run("go", "env", "GOCACHE")
	b.dir = run("scripts/lab", "programs")
	b.agents = sync.OnceValue(b.windowsAgents)
	if rescue {
		b.library = run("scripts/lab", "library", b.dir)
	}
	return b
}

// site is one script's branch.
type site struct {
	binaries
	name     string // of the lab
	dir      string // of the lab
	firmware string // bios or uefi, else the name of the suite
	env      []string
	lan      *boottest.LAN                // of simulated machines
	machines map[string]*boottest.Machine // that are simulated, by name
}

type siteKey struct{}

// newSite names a lab and arranges that nothing is left of it but its logs.
func (b binaries) newSite(env *testscript.Env, suite string) error {
	script := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	name := fmt.Sprintf("rb%d-%s-%s", os.Getpid(), suite, script)
	s := &site{binaries: b, name: name, dir: filepath.Join(os.TempDir(), name), firmware: strings.TrimPrefix(suite, "power-")}
	guarded, err := b.guarded(env.WorkDir)
	if err != nil {
		return err
	}
	env.Setenv("PATH", guarded+":"+b.dir+":"+filepath.Join(b.root, "scripts")+":"+env.Getenv("PATH"))
	env.Setenv("LAB", name)
	env.Setenv("LAB_DIR", s.dir)
	env.Setenv("FIRMWARE", s.firmware)
	env.Setenv("RESCUEBOX_SOCKET", filepath.Join(s.dir, "api.sock"))
	env.Setenv("HOME", env.WorkDir)
	if cache, ok := os.LookupEnv("RESCUEBOX_TEST_CACHE"); ok {
		env.Setenv("RESCUEBOX_TEST_CACHE", cache)
	}
	env.Setenv("GOCACHE", b.goCache)
	s.env = env.Vars
	env.Values[siteKey{}] = s
	env.Defer(func() {
		s.keepLogs(filepath.Join(b.root, "build", "site-logs", suite+"-"+script))
		if out, err := s.runLab("down"); err != nil {
			env.T().Log("lab down:", err, out)
		}
	})
	return nil
}

// guarded makes a directory with a rescuebox to which the host's own library, the default
// of some commands, is one that cannot be written: a script that forgets --library fails.
func (b binaries) guarded(work string) (string, error) {
	dir := filepath.Join(work, ".bin")
	text := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs -o ro none /var/lib && exec \"$0\" \"$@\"' %s/rescuebox \"$@\"\n", b.dir)
	return dir, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "rescuebox"), []byte(text), 0o755))
}

// keepLogs copies what a person wants to read after a failure.
func (s *site) keepLogs(to string) {
	os.RemoveAll(to)
	for _, pattern := range []string{"*.log", "rescuebox.toml", "vm/*/*.log"} {
		files, _ := filepath.Glob(filepath.Join(s.dir, pattern))
		for _, file := range files {
			rel, _ := filepath.Rel(s.dir, file)
			text, err := os.ReadFile(file)
			if err == nil && os.MkdirAll(to, 0o755) == nil {
				os.WriteFile(filepath.Join(to, strings.ReplaceAll(rel, "/", "-")), text, 0o644)
			}
		}
	}
}

// command makes a testscript command of a method that wants at least so many arguments.
func command(args int, f func(*site, *testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, a []string) {
		if len(a) < args {
			ts.Fatalf("want at least %d arguments", args)
		}
		err := f(ts.Value(siteKey{}).(*site), ts, a)
		if (err != nil) != neg {
			ts.Fatalf("%s: error %v", strings.Join(a, " "), err)
		}
	}
}

func (s *site) runLab(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(s.root, "scripts", "lab"), args...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("scripts/lab %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (s *site) lab(ts *testscript.TestScript, args []string) error {
	out, err := s.runLab(args...)
	fmt.Fprint(ts.Stdout(), out)
	return err
}

func (s *site) site(ts *testscript.TestScript, args []string) error {
	switch args[0] {
	case "lan":
		return s.up(ts)
	case "up":
		return errors.Join(s.up(ts, args[1:]...), s.daemon("start"))
	case "restart":
		return errors.Join(s.daemon("stop"), s.daemon("start"))
	default:
		return s.daemon(args[0])
	}
}

func (s *site) daemon(args ...string) error {
	if args[0] == "start" {
		args = append(args, filepath.Join(s.binaries.dir, "rescueboxd"))
	}
	_, err := s.runLab(append([]string{"daemon"}, args...)...)
	return err
}

// up makes the branch, with options of "lab up". A script that has a site.toml brings its own file of
// the site, with $LAB_DIR in it; one that has a more.toml adds to the lab's.
func (s *site) up(ts *testscript.TestScript, options ...string) error {
	if _, err := s.runLab(append([]string{"up"}, options...)...); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "rescuebox.toml")
	text, err := os.ReadFile(ts.MkAbs("site.toml"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return err
	}
	more, err := os.ReadFile(ts.MkAbs("more.toml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text = append([]byte(os.Expand(string(text), ts.Getenv)), more...)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	images := filepath.Join(s.dir, "state", "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	if s.library == "" {
		return nil
	}
	return exec.Command("cp", "-a", "--reflink=auto", filepath.Join(s.library, "rescue"), images).Run()
}

// addImage puts the rescue image for another CPU into the box's library. It is built
// when a script first wants it, while machines of other scripts boot.
func (s *site) addImage(ts *testscript.TestScript, cpus []string) error {
	if _, err := s.runLab(append([]string{"library", s.binaries.dir}, cpus...)...); err != nil {
		return err
	}
	for _, cpu := range cpus {
		err := exec.Command("cp", "-a", "--reflink=auto", filepath.Join(s.library, "rescue-"+cpu), filepath.Join(s.dir, "state", "images")).Run()
		if err != nil {
			return fmt.Errorf("copy the rescue image for %s: %w", cpu, err)
		}
	}
	return nil
}

func (s *site) dnsmasq(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, append([]string{"dnsmasq"}, args...))
}

// ends are the places where a boot ends, as the machine's console shows them.
const ends = `own disk: hello|rescue system of \S+ is up, ticket sent`

// bootTime bounds a boot under emulation on a busy test machine with two cores.
const bootTime = 10 * time.Minute

// pxe powers a machine on, off before if it was on, waits until it has arrived somewhere, and
// prints what its console showed.
func (s *site) pxe(ts *testscript.TestScript, args []string) error {
	if err := s.off(ts, args); err != nil {
		return err
	}
	if _, err := s.runLab(slices.Concat([]string{"vm", "start", args[0]}, s.firmwareOption(), args[1:])...); err != nil {
		return err
	}
	return s.await(ts, args[0], ends, bootTime)
}

// firmwareOption is the suite's firmware, as an option of "lab vm start".
func (s *site) firmwareOption() []string {
	if s.firmware != "bios" && s.firmware != "uefi" {
		return nil
	}
	return []string{"--firmware", s.firmware}
}

func (s *site) bmc(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, slices.Concat([]string{"bmc", "start"}, args[:2], s.firmwareOption(), args[2:]))
}

func (s *site) console(ts *testscript.TestScript, args []string) error {
	limit := bootTime
	if len(args) > 2 {
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		limit = time.Duration(n) * time.Second
	}
	return s.await(ts, args[0], args[1], limit)
}

// escapes are what a terminal would not show.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]|\x1bc|.\x08|[\r\x00]`)

func (s *site) await(ts *testscript.TestScript, machine, pattern string, limit time.Duration) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		raw, _ := os.ReadFile(filepath.Join(s.dir, "vm", machine, "console.log"))
		text := escapes.ReplaceAllString(string(raw), "")
		if re.MatchString(text) {
			fmt.Fprint(ts.Stdout(), text)
			ts.Logf("[%s: %.1f s]", machine, time.Since(start).Seconds())
			return nil
		}
		if time.Since(start) > limit {
			return fmt.Errorf("%s did not show %q within %v; its console ended with:\n%s\nthe daemon's log with:\n%s",
				machine, pattern, limit, tail(text, 30), s.log())
		}
	}
}

func (s *site) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "box.log"))
	return tail(string(text), 30)
}

// tail is the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (s *site) off(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, []string{"vm", "stop", args[0]})
}

func (s *site) cut(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, []string{"vm", "unplug", args[0]})
}

func (s *site) mend(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, []string{"vm", "plug", args[0]})
}

func (s *site) ssh(ts *testscript.TestScript, args []string) error {
	return s.lab(ts, append([]string{"ssh", filepath.Join(s.binaries.dir, "rescuebox")}, args...))
}

func (s *site) until(ts *testscript.TestScript, args []string) error {
	seconds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	re, err := regexp.Compile(args[1])
	if err != nil {
		return err
	}
	program := filepath.Join(s.binaries.dir, args[2])
	if _, err := os.Stat(program); err != nil {
		program = args[2]
	}
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		cmd := exec.Command(program, args[3:]...)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		if re.Match(out) {
			fmt.Fprintf(ts.Stdout(), "%s", out)
			return nil
		}
		if time.Since(start) > time.Duration(seconds)*time.Second {
			return fmt.Errorf("%s: %v; its last output:\n%s\nthe daemon's log ended with:\n%s", cmd, err, out, s.log())
		}
	}
}
