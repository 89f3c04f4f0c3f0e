package ticket

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
)

// dropEnv makes the test's binary a daemon that watches the directory it names.
const dropEnv = "TICKET_TEST_DROP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dropEnv); dir != "" {
		if err := watchAsDaemon(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// watchAsDaemon prints what is announced, until its input ends.
func watchAsDaemon(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	desk := &Desk{Store: &disk{docs: map[string][]byte{}}, Log: zap.NewNop(), Announce: func(t Ticket) error {
		fmt.Println("ticket", t.Machine, t.Code, t.Endpoint(), t.Verified)
		return nil
	}}
	d := &Drop{Dir: dir, Desk: desk, Named: func(s string) (string, bool) { return s, s == "srv01" },
		MachineOf: func(a netip.Addr) (string, bool) { return "srv02", a.String() == "192.168.77.101" }}
	return d.Run(ctx, func() { fmt.Println("ready") })
}

// share is a samba with configs/samba.conf in a network namespace of its own.
type share struct {
	t    *testing.T
	dir  string // what the share is made of
	drop string
	pid  int
	as   *user.User // stands in for the daemon's
}

func openShare(t *testing.T) *share {
	for name, pkg := range map[string]string{"smbd": "samba", "smbclient": "smbclient", "unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"} {
		tool(t, name, pkg)
	}
	if os.Geteuid() != 0 {
		t.Skip("smbd and its namespace need root")
	}
	as, err := user.Lookup("daemon")
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("/tmp", "ticket-smb") // a test's own, and TMPDIR, may be closed to other users, and too long for smbd's sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &share{t: t, dir: dir, drop: filepath.Join(dir, "state", "drop"), as: as}
	// As in /var/lib: the way to the directory is open to the daemon's group alone.
	s.run("sh", "-c", `cd "$0" && chmod 0755 . && install -d -o daemon -g daemon -m 0750 state && install -d -o daemon -g daemon -m 1730 state/drop &&
		mkdir lock state-of-samba cache pid private ncalrpc`, dir)
	s.start()
	return s
}

// start runs smbd with the file as it is shipped, but for paths, port and names of
// this host.
func (s *share) start() {
	conf, err := os.ReadFile("../../configs/samba.conf")
	if err != nil {
		s.t.Fatal(err)
	}
	text := string(conf)
	for _, change := range [][2]string{
		{"\tpath = /var/lib/rescuebox/drop\n", "\tpath = " + s.drop + "\n"},
		{"\tforce group = rescuebox\n", "\tforce group = daemon\n"},
		{"\tinterfaces = lo 192.168.77.1/24\n", "\tinterfaces = lo\n"},
		{"\tsmb ports = 445\n", "\tsmb ports = 4450\n"},
	} {
		if strings.Count(text, change[0]) != 1 {
			s.t.Fatalf("samba.conf has no line %q", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	file := filepath.Join(s.dir, "smb.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	args := []string{"-n", "sh", "-c", `ip link set lo up && exec smbd "$@"`, "sh", "-F", "--no-process-group", "-s", file}
	for _, o := range []string{"lock directory=lock", "state directory=state-of-samba", "cache directory=cache", "pid directory=pid",
		"private dir=private", "ncalrpc dir=ncalrpc", "log file=log"} {
		args = append(args, "--option="+strings.Replace(o, "=", "="+s.dir+"/", 1))
	}
	smbd := exec.Command("unshare", args...)
	smbd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &strings.Builder{}
	smbd.Stdout, smbd.Stderr = out, out
	if err := smbd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.pid = smbd.Process.Pid
	s.t.Cleanup(func() {
		syscall.Kill(-s.pid, syscall.SIGKILL)
		smbd.Wait()
		if s.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Logf("smbd: %s\n%s", out, log)
		}
	})
	eventually(s.t, "smbd answers", func() bool { _, err := s.client("exit"); return err == nil })
}

func (s *share) run(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// client is a guest's smbclient.
func (s *share) client(command string) (string, error) {
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(s.pid), "-n", "smbclient", "-s", "/dev/null", "-N", "-t", "30", "-p", "4450",
		"//127.0.0.1/tickets", "-c", command).CombinedOutput()
	return string(out), err
}

// daemon starts a daemon that watches the share, as the user who owns it, and gives its lines.
func (s *share) daemon() (line func() string) {
	exe := filepath.Join(s.dir, "daemon")
	s.run("install", "-m", "0755", os.Args[0], exe)
	uid, _ := strconv.Atoi(s.as.Uid)
	gid, _ := strconv.Atoi(s.as.Gid)
	d := exec.Command(exe)
	d.Dir = "/"
	d.Env = append(os.Environ(), dropEnv+"="+s.drop)
	d.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	in, err := d.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := d.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { in.Close(); d.Wait() })
	lines := bufio.NewScanner(out)
	return func() string { lines.Scan(); return lines.Text() }
}

// tool skips where a peer is not installed, and fails in CI with its package.
func tool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("%s is missing: apt-get install %s", name, pkg)
	}
}

// TestSamba: with configs/samba.conf a guest can write, and can neither list, read,
// overwrite, rename nor delete; the daemon takes what was written as its own user.
func TestSamba(t *testing.T) {
	s := openShare(t)
	file := func(name string, data []byte) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours := file("ours", encodings["UTF-16LE with mark"](inv32(dartCode, "192.168.77.100:49161")))
	theirs := file("theirs", inv32(otherCode, "192.168.77.101:49161"))
	for _, c := range []struct{ command, refusal string }{
		{"put " + ours + " srv01.xml", ""},
		{"ls", "ACCESS_DENIED"},
		{"ls srv01.xml", "ACCESS_DENIED"},
		{"get srv01.xml " + s.dir + "/got", "ACCESS_DENIED"},
		{"put " + theirs + " srv01.xml", "ACCESS_DENIED"},
		{"reput " + theirs + " srv01.xml", "ACCESS_DENIED"},
		{"del srv01.xml", "ACCESS_DENIED"},
		{"wdel 0 srv01.xml", "ACCESS_DENIED"}, // del lists first
		{"rename srv01.xml mine.xml", "ACCESS_DENIED"},
		{"setmode srv01.xml +r", "ACCESS_DENIED"},
		{"hardlink srv01.xml mine.xml", "ACCESS_DENIED"},
		{"allinfo ../../smb.conf", "NT_STATUS_"},
		{"mkdir sub; put " + theirs + " sub/inv32.xml", "ACCESS_DENIED"},
		{"put " + theirs + " inv32.xml", ""}, // another name is free
	} {
		out, err := s.client(c.command)
		refused := err != nil || strings.Contains(out, "NT_STATUS_")
		if refused != (c.refusal != "") || !strings.Contains(out, c.refusal) {
			t.Errorf("%s: %v: %s", c.command, err, out)
		}
	}
	if got := s.run("stat", "-c", "%n %U %a", s.drop+"/srv01.xml", s.drop+"/inv32.xml"); got != strings.ReplaceAll("/srv01.xml daemon 600\n/inv32.xml daemon 600\n", "/", s.drop+"/") {
		t.Errorf("on disk: %s", got)
	}
	if got, err := os.ReadFile(s.drop + "/srv01.xml"); err != nil || string(got) != string(encodings["UTF-16LE with mark"](inv32(dartCode, "192.168.77.100:49161"))) {
		t.Errorf("srv01.xml is now %q, %v", got, err)
	}

	line := s.daemon()
	if got := line(); got != "ready" {
		t.Fatal(got)
	}
	got := map[string]bool{line(): true, line(): true}
	for _, want := range []string{"ticket srv01 118-497-589 192.168.77.100:49161 false", "ticket srv02 222-333-444 192.168.77.101:49161 false"} {
		if !got[want] {
			t.Errorf("the daemon found %v", got)
		}
	}
	// The names are free again, and what comes now is seen at once.
	eventually(t, "a second ticket can be put", func() bool {
		out, _ := s.client("put " + theirs + " srv01.xml")
		return !strings.Contains(out, "NT_STATUS")
	})
	if got := line(); got != "ticket srv01 222-333-444 192.168.77.101:49161 false" {
		t.Errorf("the daemon found %s", got)
	}
	eventually(t, "it is removed", func() bool { _, err := os.Stat(s.drop + "/srv01.xml"); return os.IsNotExist(err) })
}
