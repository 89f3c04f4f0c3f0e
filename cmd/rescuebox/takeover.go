package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode"

	"rescuebox/appliance/admin/api"
)

// takeover is how a machine is taken over through a local port.
type takeover struct {
	program  string // "": it is not on this computer
	args     []string
	command  string // the same for people, to paste
	advice   string // for those who start it themselves
	detaches bool   // it may end before what it started
	clean    func() // removes what was made for it
}

// cmd is the program, which is asked to end with ctx.
func (t takeover) cmd(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.program, t.args...)
	if runtime.GOOS != "windows" {
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// takeoverOf finds what takes a machine over.
func (k *connector) takeoverOf(t api.Ticket, at netip.AddrPort) (takeover, error) {
	switch t.Kind {
	case "dart":
		if len(k.rest) > 0 {
			return takeover{}, usagef("arguments after -- are for ssh; the ticket of %s is one of DaRT", t.Machine)
		}
		return viewer(t, at), nil
	case "ssh":
		return sshTo(t, at, k.rest)
	}
	return takeover{}, hinted(fmt.Errorf("the ticket %s is of a kind that this command does not know: %s", t.ID, clean(t.Kind)),
		"a newer rescuebox command may know it")
}

// sshTo is ssh through a local port. It trusts the ticket's host keys and no other,
// under a name of their own: what the admin's own known_hosts says of the address does not matter, and
// is not changed.
func sshTo(t api.Ticket, at netip.AddrPort, rest []string) (takeover, error) {
	keys := hostKeys(t.KnownHosts)
	if len(keys) == 0 || t.User == "" {
		return takeover{}, hinted(fmt.Errorf("the ticket %s does not bring the machine's host key, so that nobody could tell it from another", t.ID),
			"rescuebox ticket show %s", t.ID)
	}
	dir, clean, err := tempDir()
	if err != nil {
		return takeover{}, err
	}
	alias := "rescuebox-" + t.ID
	file := filepath.Join(dir, "known_hosts")
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%s %s\n", alias, key)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		clean()
		return takeover{}, err
	}
	args := sshArgs(t.User, at, alias, file)
	args = append(args, rest...)
	path, err := exec.LookPath("ssh")
	if err != nil {
		path = ""
	}
	return takeover{program: path, args: args, command: shellLine(append([]string{"ssh"}, args...)), clean: clean,
		advice: "in another terminal, while this one runs:"}, nil
}

// sshArgs are ssh's arguments (ssh_config(5)). Nothing in them is secret.
func sshArgs(user string, at netip.AddrPort, alias, file string) []string {
	// % doubled because of its tokens; OpenSSH on Windows takes / too. Quoted only where it
	// must be: cmd.exe and PowerShell differ in what they make of a quotation mark.
	quoted := strings.ReplaceAll(filepath.ToSlash(file), "%", "%%")
	if strings.ContainsFunc(quoted, unicode.IsSpace) {
		quoted = `"` + quoted + `"`
	}
	var args []string
	for _, option := range []string{"StrictHostKeyChecking=yes", "HostKeyAlias=" + alias, "UserKnownHostsFile=" + quoted, "GlobalKnownHostsFile=" + quoted,
		"CheckHostIP=no", "UpdateHostKeys=no", "VerifyHostKeyDNS=no"} {
		args = append(args, "-o", option)
	}
	return append(args, "-p", strconv.Itoa(int(at.Port())), "-l", user, at.Addr().String())
}

// hostKeys are the keys of known_hosts lines, without the hosts.
func hostKeys(knownHosts string) (keys []string) {
	for line := range strings.Lines(knownHosts) {
		if fields := strings.Fields(line); len(fields) == 3 && !strings.HasPrefix(fields[0], "#") {
			keys = append(keys, fields[1]+" "+fields[2])
		}
	}
	return keys
}

// viewer is Microsoft's viewer through a local port. It takes ticket, address and port
// together or none of them.
func viewer(t api.Ticket, at netip.AddrPort) takeover {
	v := takeover{
		args:     []string{"-ticket=" + t.Code, "-ipaddress=" + at.Addr().String(), "-port=" + strconv.Itoa(int(at.Port()))},
		advice:   "on this Windows PC, while this runs (the viewer is part of DaRT; it is not installed where its setup puts it):",
		clean:    func() {},
		detaches: true,
	}
	if runtime.GOOS != "windows" {
		v.advice = "on a Windows PC with the viewer of DaRT, while this runs:"
		if at.Addr().IsLoopback() {
			v.advice = "the viewer of DaRT runs on Windows only: give it a port that a Windows PC reaches, with --listen ADDRESS:0; then there:"
		}
	}
	v.command = strings.Join(append([]string{viewerName}, v.args...), " ")
	v.program = findViewer(viewerDirs(os.Getenv("ProgramW6432"), os.Getenv("ProgramFiles"), os.Getenv("ProgramFiles(x86)")))
	return v
}

const viewerName = "DartRemoteViewer.exe"

// viewerDirs are where the setups of DaRT put the viewer; a newer one first, which
// talks to older images too.
func viewerDirs(programs ...string) (dirs []string) {
	for _, version := range []string{"Microsoft DaRT/v10", "Microsoft DaRT/v8.1", "Microsoft DaRT/v8", "Microsoft DaRT 7/v7"} {
		for _, p := range programs {
			if p != "" {
				dirs = append(dirs, filepath.Join(p, filepath.FromSlash(version)))
			}
		}
	}
	return dirs
}

// findViewer finds the viewer where PATH or a setup put it; "" where it is not.
func findViewer(dirs []string) string {
	if path, err := exec.LookPath(viewerName); err == nil {
		return path
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, viewerName)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// shellLine writes a command to paste into a shell.
func shellLine(args []string) string {
	var words []string
	for _, a := range args {
		words = append(words, shellWord(a, runtime.GOOS == "windows"))
	}
	return strings.Join(words, " ")
}

// shellWord quotes a word, for a Unix shell or for PowerShell, in both of which single quotes take all literally.
func shellWord(s string, powershell bool) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./:@", r) || r == '~' && powershell
	}
	switch {
	case s != "" && strings.TrimFunc(s, safe) == "":
		return s
	case powershell:
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
