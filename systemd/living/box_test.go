// Package living holds no code: its tests run the units beside it under systemd itself, in the
// world of two uplinks: what the sandbox forbids, the kernel forbids here too.
package living

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"rescuebox/appliance"
	"rescuebox/appliance/config"
	"rescuebox/appliance/link/linktest"
)

// TestMain is rescueboxd where it is called that: the units start it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "rescueboxd" {
		if err := rescueboxd(); err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	linktest.Main(m)
}

func rescueboxd() error {
	flags := flag.NewFlagSet("rescueboxd", flag.ExitOnError)
	file, ppp := flags.String("config", "", ""), flags.Bool("ppp", false, "")
	_ = flags.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if *ppp {
		return appliance.ServePPP(ctx)
	}
	cfg, err := config.Load(*file)
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	return appliance.Run(ctx, appliance.Options{Config: cfg, Version: "test", Log: log, Notify: func(state string) { _, _ = daemon.SdNotify(false, state) }})
}

// box is systemd with the package's files, in the namespace of the test: the branch.
type box struct {
	*testing.T
	pid string
}

// installed is where scripts/package puts what of systemd/.
var installed = map[string]string{
	"rescueboxd.service":     "usr/lib/systemd/system/rescueboxd.service",
	"rescuebox-ppp.socket":   "usr/lib/systemd/system/rescuebox-ppp.socket",
	"rescuebox-ppp@.service": "usr/lib/systemd/system/rescuebox-ppp@.service",
	"rescuebox.rules":        "usr/share/polkit-1/rules.d/rescuebox.rules",
	"rescuebox.sysusers":     "usr/lib/sysusers.d/rescuebox.conf",
	"rescuebox.tmpfiles":     "usr/lib/tmpfiles.d/rescuebox.conf",
}

// boot starts systemd with more files, by their paths.
func boot(t *testing.T, files map[string]string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	for name, pkg := range map[string]string{"/lib/systemd/systemd": "systemd", "/usr/lib/polkit-1/polkitd": "polkitd", "dbus-daemon": "dbus", "mmcli": "modemmanager",
		"pppd": "ppp", "nft": "nftables", "runuser": "util-linux", "socat": "socat"} {
		linktest.Need(t, name, pkg)
	}
	dir := t.TempDir()
	for _, d := range []string{"over", "root", "root/usr", "root/usr/bin"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(dir, 0o755))
	run(t, "cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), filepath.Join(dir, "root/usr/bin/rescueboxd"))
	for from, to := range installed {
		text, err := os.ReadFile(filepath.Join("..", from))
		must(t, err)
		put(t, filepath.Join(dir, "root", to), string(text))
	}
	for name, text := range files {
		put(t, filepath.Join(dir, "root", name), text)
	}
	b := &box{T: t, pid: start(t, dir)}
	b.until("systemd is up", func() bool { return b.try("systemctl", "start", "polkit.service") == nil })
	b.run("systemd-sysusers", "rescuebox.conf")
	b.run("systemd-tmpfiles", "--create", "rescuebox.conf")
	return b
}

// start returns the number of systemd's process.
func start(t *testing.T, dir string) string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command("./boot", dir)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unshare, and with it all that it started
		<-ended
		for _, root := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			remove(fmt.Sprintf("%s/rescuebox-unit-%d", root, cmd.Process.Pid))
		}
	})
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("systemd does not start: %v\n%s", err, &said)
		default:
		}
		text, _ := os.ReadFile(children)
		pid := strings.TrimSpace(string(text))
		if name, _ := os.ReadFile("/proc/" + pid + "/comm"); pid != "" && string(name) == "systemd\n" {
			return pid
		}
	}
	t.Fatalf("systemd is not there after %v", patience)
	return ""
}

// remove takes control groups away; the kernel takes its time to empty them.
func remove(group string) {
	for range 100 {
		if _, err := os.Stat(group); err != nil {
			return
		}
		_ = exec.Command("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run() // not yet: tried again
		time.Sleep(50 * time.Millisecond)
	}
}

// command is one inside.
func (b *box) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target=" + b.pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--"}, args...)...)
}

func (b *box) try(args ...string) error {
	out, err := b.command(args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%q: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}

func (b *box) run(args ...string) string {
	b.Helper()
	out, err := b.command(args...).CombinedOutput()
	if err != nil {
		b.Fatalf("%q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// as is run by another user.
func (b *box) as(user string, args ...string) error {
	return b.try(append([]string{"runuser", "-u", user, "--"}, args...)...)
}

// patience is a test's with what must come: the machine may be busy.
const patience = 2 * time.Minute

func (b *box) until(what string, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// daemon starts rescueboxd.
func (b *box) daemon() {
	b.Helper()
	b.Cleanup(func() {
		if b.Failed() {
			out, _ := b.command("journalctl", "--no-pager", "-o", "cat", "-u", "rescueboxd", "-u", "rescuebox-ppp@*").CombinedOutput()
			b.Logf("%s", out)
		}
	})
	b.run("systemctl", "start", "rescueboxd.service")
}

func put(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
