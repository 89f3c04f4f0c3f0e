// Package guest runs tests in a virtual machine with Debian's kernel, for what the
// kernel of the machine at hand may lack: WireGuard, PPP, netem.
//
// A test that begins with Inside runs there as a whole:
//
//	func TestGuestDial(t *testing.T) {
//		if !guest.Inside(t) {
//			return // it has been run in the guest
//		}
//		…
//	}
//
// scripts/test has a stage "guest" for these; elsewhere they are skipped, since
// they take a minute each: QEMU computes all instructions itself, the build machine's KVM cannot run Debian's kernel.
//
// Variables of the environment whose names begin with GUEST_ are the test's in the guest as well. Of them
// GUEST_PATIENCE is how long it may take, such as "30m", and with GUEST_LOG its console is shown as it is written.
package guest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	// Wanted is the environment variable that asks for these tests.
	Wanted = "RESCUEBOX_TEST_GUEST"
	// inside tells a test that it runs in the guest.
	inside = "RESCUEBOX_GUEST"
	// usualPatience is how long a guest may take: on a busy machine it is slow.
	usualPatience = 10 * time.Minute
	memory        = "1500" // MB; files, programs and the tests' memory
	// passed is how the names begin of what the guest gets of the environment.
	passed = "GUEST_"
)

// patience is how long a guest may take here.
func patience() time.Duration {
	if d, err := time.ParseDuration(os.Getenv(passed + "PATIENCE")); err == nil && d > time.Minute {
		return d
	}
	return usualPatience
}

// exports are the shell's words for what the guest gets of an environment.
func exports(environment []string) string {
	var b strings.Builder
	for _, v := range environment {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, passed) {
			fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
		}
	}
	return b.String()
}

// tools are this system's programs that a guest has, with the Debian packages that bring them.
var tools = map[string]string{
	"dash": "dash", "ip": "iproute2", "tc": "iproute2", "nft": "nftables", "wg": "wireguard-tools", "pppd": "ppp", "chat": "ppp",
	"socat": "socat", "ping": "iputils-ping", "nsenter": "util-linux", "setpriv": "util-linux", "iperf3": "iperf3", "conntrack": "conntrack",
}

// modules are loaded at start, with what they need. The order of dependencies is busybox's business.
var modules = []string{
	"veth", "tun", "wireguard", "ppp_generic", "ppp_async", "ppp_deflate", "sch_netem", "sch_tbf", "vrf", "crc32c_generic",
	"nf_tables", "nft_masq", "nft_chain_nat", "nft_ct", "nf_nat", "nf_conntrack", "nf_conntrack_netlink", "nft_numgen",
	"nft_limit", "nft_log", "nft_reject_inet", "nft_objref", "dummy",
}

// Inside reports that the test runs in the guest. Elsewhere it runs the same test there, whose output it prints and
// whose failure is the test's, or skips it if nobody asked for guests.
func Inside(t testing.TB) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	needed(t)
	program := filepath.Join(t.TempDir(), "test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the race detector would double the guest's work
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test for the guest: %v\n%s", err, out)
	}
	script := fmt.Sprintf("%scd /tmp && /test -test.v -test.timeout %v -test.run '^%s$'", exports(os.Environ()), patience()-time.Minute, t.Name())
	out := Run(t, map[string]string{"/test": program}, script)
	t.Log(out)
	if !strings.Contains(out, "--- PASS: "+t.Name()) {
		t.Error("it did not pass in the guest")
	}
	return false
}

// needed skips a test that nobody asked for, or whose tools are missing.
func needed(t testing.TB) {
	t.Helper()
	if os.Getenv(Wanted) == "" {
		t.Skipf("runs in a virtual machine for a minute: %s=1 or scripts/test guest", Wanted)
	}
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	need(t, "busybox", "busybox-static")
	need(t, "depmod", "kmod")
	for tool, debianPackage := range tools {
		need(t, tool, debianPackage)
	}
}

// need skips a test whose tool is missing; CI must have it.
func need(t testing.TB, tool, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		why := fmt.Sprintf("%s is missing: apt-get install %s", tool, debianPackage)
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
}

// Run starts a guest with some files (its path there → the file here; a program's libraries come along), runs a
// shell script in it as root, and returns what that said. It fails the test unless the script exits with 0.
func Run(t testing.TB, files map[string]string, script string) string {
	t.Helper()
	needed(t)
	dir := t.TempDir()
	kernel, err := kernelDir()
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeRoot(initrd, kernel, files, script); err != nil {
		t.Fatal(err)
	}
	out, console, err := boot(t.Context(), filepath.Join(kernel, "vmlinuz"), initrd, filepath.Join(dir, "console"))
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, console, out)
	}
	text, code, ended := strings.Cut(out, exitMark)
	if !ended || strings.TrimSpace(code) != "0" {
		t.Fatalf("the guest's script ended with %q\n%s\n%s", strings.TrimSpace(code), console, text)
	}
	return text
}

// kernelDir is where Debian's kernel is; the first time it is downloaded.
func kernelDir() (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "scripts/lab.d/kernel"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("get Debian's kernel by scripts/lab.d/kernel: %w: %s", err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// boot runs QEMU until the guest powers off. What its script says comes over the second serial port.
func boot(ctx context.Context, kernel, initrd, console string) (out, consoleText string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience())
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", memory,
		"-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=1 random.trust_cpu=on", "-serial", "file:"+console, "-serial", "stdio")
	var text bytes.Buffer
	var to io.Writer = &text
	if os.Getenv("GUEST_LOG") != "" {
		to = io.MultiWriter(to, os.Stderr)
	}
	cmd.Stdout, cmd.Stderr = to, to
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	said, _ := os.ReadFile(console) // without a console there is nothing to show
	if os.Getenv("GUEST_LOG") != "" {
		os.Stderr.Write(said)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("the guest did not end within %v", patience())
	}
	return strings.ReplaceAll(text.String(), "\r", ""), tail(string(said), 4000), err
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// libraries lists the files that ldd names for a program; none for a static one.
func libraries(program string) []string {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil // not dynamic
	}
	var list []string
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		list = append(list, m[1])
	}
	return list
}
