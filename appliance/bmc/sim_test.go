package bmc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sim is Debian's ipmi_sim with a server behind it that is two files: power and boot.
type sim struct {
	dir, host string
	port      int
}

// ports counts the ports that are used. They are below those that the kernel gives away, and simulators are at a loopback
// address of this process, so that none needs to look for a port that is free: two of them take one and the same without a word.
var ports atomic.Int32

func newPort() int { return 10000 + int(ports.Add(1)) }

// chassisProgram is what ipmi_sim asks and tells (lanserv/extcmd.c). Its children
// inherit the simulator's sockets and must not keep them.
const chassisProgram = `#!/bin/sh
D=$1; op=$2; shift 2
echo "$op $*" >>"$D/log"
case $op in
get) for n in "$@"; do case $n in
	power) echo "power:$(cat "$D/power")" ;;
	boot) echo "boot:$(cat "$D/boot")" ;;
	*) echo "$n:0" ;;
	esac; done ;;
set) while [ $# -gt 1 ]; do case $1 in
	power) echo "$2" >"$D/power" ;;
	boot) echo "$2" >"$D/boot" ;;
	esac; shift 2; done ;;
esac
`

// startSim runs a simulator, with more lines in its LAN configuration.
func startSim(t *testing.T, more string) *sim {
	t.Helper()
	program, err := exec.LookPath("ipmi_sim")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("ipmi_sim is missing: apt-get install openipmi")
		}
		t.Skip("no ipmi_sim: apt-get install openipmi")
	}
	pid := os.Getpid()
	s := &sim{dir: t.TempDir(), host: fmt.Sprintf("127.%d.%d.1", 1+pid>>8&31, pid&255), port: newPort()}
	s.set(t, "power", "0")
	s.set(t, "boot", "none")
	write(t, filepath.Join(s.dir, "chassis"), chassisProgram, 0o755)
	write(t, filepath.Join(s.dir, "bmc.emu"), `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x01 1 0 0x9f 0x0000 0x0001 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
`, 0o644)
	write(t, filepath.Join(s.dir, "lan.conf"), fmt.Sprintf(`name "sim"
set_working_mc 0x20
  startlan 1
    addr %s %d
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "%s/chassis %s"
%s
  user 2 true "rescue" "secret12" admin 10 none md2 md5 straight
`, s.host, s.port, s.dir, s.dir, more), 0o644)
	s.run(t, program)
	return s
}

// run starts the program and waits until it answers.
func (s *sim) run(t *testing.T, program string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(program, "-c", filepath.Join(s.dir, "lan.conf"), "-f", filepath.Join(s.dir, "bmc.emu"), "-s", s.dir, "-n")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	for range 100 {
		select {
		case <-exited:
			t.Fatalf("ipmi_sim ended: %s", out.String())
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := s.client().Power(t.Context()); err == nil {
			return
		}
	}
	t.Fatal("ipmi_sim does not answer")
}

func (s *sim) client() *IPMI {
	return &IPMI{Host: s.host, Port: s.port, User: "rescue", Password: fixed("secret12")}
}

func fixed(password string) func() (string, error) {
	return func() (string, error) { return password, nil }
}

func (s *sim) set(t *testing.T, name, value string) {
	t.Helper()
	write(t, filepath.Join(s.dir, name), value+"\n", 0o644)
}

func (s *sim) get(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// ipmitool is the peer that sees what we did. It has a wait for late answers: to the second of two that come later than the
// usual second it says that there is none.
func (s *sim) ipmitool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("ipmitool", append([]string{"-N", "10", "-C", "3", "-I", "lanplus", "-H", s.host, "-p", strconv.Itoa(s.port), "-U", "rescue", "-E"}, args...)...)
	cmd.Env = append(os.Environ(), "IPMI_PASSWORD=secret12")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ipmitool %v: %v: %s", args, err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
