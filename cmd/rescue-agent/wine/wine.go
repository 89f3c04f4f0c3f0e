// Package wine is for tests that run the agent for Windows under Wine: with DaRT's
// RemoteRecovery.exe, which a stand-in plays, and as the SSH server of a plain
// Windows PE. Its own tests run in a network namespace, for the SSH server takes
// port 22; those of a whole site run the agent that came out of an order's WIM.
package wine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs of Wine where Debian keeps them; package wine, which has them in the path, asks for more.
const (
	wine64     = "/usr/lib/wine/wine64"
	wineServer = "/usr/lib/wine/wineserver64"
	compiler   = "x86_64-w64-mingw32-gcc"
)

// Tools are what Install needs, with Debian's packages.
var Tools = map[string]string{wine64: "wine64", compiler: "gcc-mingw-w64-x86-64-posix"}

// PC is a Windows in a directory.
type PC struct {
	Prefix  string   // the directory
	Through []string // a command that runs all others, such as nsenter with its options; none runs them here
	env     []string
}

// Install makes one; it takes a quarter of a minute. In its System32 are RemoteRecovery.exe and a
// DLL that Windows has and Wine 8 has not, made of sources, which is testdata of this package.
func Install(prefix, sources string) (*PC, error) {
	p := &PC{Prefix: prefix}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DISPLAY=") && !strings.HasPrefix(v, "WAYLAND_DISPLAY=") && !strings.HasPrefix(v, "WINE") {
			p.env = append(p.env, v)
		}
	}
	p.env = append(p.env, "WINEPREFIX="+p.Prefix, "WINEDEBUG=-all", "WINEDLLOVERRIDES=mscoree,mshtml=")
	for _, args := range [][]string{
		{wine64, "wineboot", "-i"},
		{compiler, "-O2", "-s", "-o", p.System32("bcryptprimitives.dll"), filepath.Join(sources, "bcryptprimitives.c"), "-shared", "-ladvapi32"},
		{compiler, "-O2", "-s", "-o", p.System32("RemoteRecovery.exe"), filepath.Join(sources, "remoterecovery.c")},
	} {
		if out, err := p.run(args...); err != nil {
			p.Off()
			return nil, fmt.Errorf("install Windows: %w\n%s", err, out)
		}
	}
	p.Off()
	return p, nil
}

// Run runs a program of this Windows, and does not wait for those that it leaves behind with its output.
func (p *PC) Run(args ...string) (string, error) { return p.run(append([]string{wine64}, args...)...) }

func (p *PC) run(args ...string) (string, error) {
	log, err := os.CreateTemp("", "wine")
	if err != nil {
		return "", err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	args = append(append([]string{}, p.Through...), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	err = cmd.Run()
	out, _ := os.ReadFile(log.Name())
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Off ends all that runs in this Windows, and nothing else.
func (p *PC) Off() {
	for _, option := range []string{"-k", "-w"} {
		cmd := exec.Command(wineServer, option)
		cmd.Env = p.env
		_ = cmd.Run() // fails where nothing runs
	}
}

// System32 is where a file of System32 is for others.
func (p *PC) System32(name string) string {
	return filepath.Join(p.Prefix, "drive_c/windows/system32", name)
}
