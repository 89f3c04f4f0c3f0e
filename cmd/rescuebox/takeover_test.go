package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rescuebox/appliance/admin/api"
)

var localPort = netip.MustParseAddrPort("127.0.0.1:40123")

// ssh trusts exactly the ticket's keys, in a file that only its owner reads and that goes
// away, and takes nothing of the ticket for an option.
func TestSSHTo(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "with space"))
	if err := os.Mkdir(os.Getenv("TMPDIR"), 0o700); err != nil {
		t.Fatal(err)
	}
	ticket := api.Ticket{ID: "0123456789ab", Kind: "ssh", Machine: "srv01", User: "-oProxyCommand=false", Port: 2222,
		KnownHosts: "[192.168.77.100]:2222 ssh-ed25519 AAAAC3\n[192.168.77.100]:2222 ssh-rsa AAAAB3\n\n# nonsense AAAA x\n"}
	take, err := sshTo(ticket, localPort, []string{"-v", "lsblk"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(os.Getenv("TMPDIR"))
	found, _ := filepath.Glob(filepath.Join(file, "*", "known_hosts"))
	if len(found) != 1 {
		t.Fatalf("known_hosts files: %q", found)
	}
	text, err := os.ReadFile(found[0])
	if want := "rescuebox-0123456789ab ssh-ed25519 AAAAC3\nrescuebox-0123456789ab ssh-rsa AAAAB3\n"; string(text) != want || err != nil {
		t.Errorf("known_hosts is %q, %v", text, err)
	}
	if info, _ := os.Stat(filepath.Dir(found[0])); info.Mode().Perm() != 0o700 {
		t.Errorf("its directory has mode %v", info.Mode())
	}
	want := []string{"-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=rescuebox-0123456789ab", "-o", `UserKnownHostsFile="` + found[0] + `"`,
		"-o", `GlobalKnownHostsFile="` + found[0] + `"`, "-o", "CheckHostIP=no", "-o", "UpdateHostKeys=no", "-o", "VerifyHostKeyDNS=no",
		"-p", "40123", "-l", "-oProxyCommand=false", "127.0.0.1", "-v", "lsblk"}
	if d := cmp.Diff(want, take.args); d != "" {
		t.Error(d)
	}
	take.clean()
	if _, err := os.Stat(filepath.Dir(found[0])); err == nil {
		t.Error("the file is left behind")
	}
	for _, bad := range []api.Ticket{{ID: "1", User: "root"}, {ID: "1", KnownHosts: ticket.KnownHosts}} {
		if _, err := sshTo(bad, localPort, nil); err == nil || !strings.Contains(err.Error(), "host key") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Without anything to quote the printed line is good for cmd.exe and PowerShell alike.
func TestSSHArgsPlain(t *testing.T) {
	line := strings.Join(sshArgs("root", localPort, "rescuebox-1", "C:/Users/ANNA~1/AppData/Local/Temp/rescuebox-2/known_hosts"), " ")
	if strings.ContainsAny(line, `"'`) || !strings.Contains(line, "-o UserKnownHostsFile=C:/Users/ANNA~1/AppData/") {
		t.Error(line)
	}
	for _, word := range strings.Fields(line) {
		if got := shellWord(word, true); got != word {
			t.Errorf("%s is quoted: %s", word, got)
		}
	}
}

// The viewer is found where the setups of DaRT put it, the newest first.
func TestFindViewer(t *testing.T) {
	t.Setenv("PATH", "")
	programs := t.TempDir()
	dirs := viewerDirs("", programs)
	if d := cmp.Diff([]string{"Microsoft DaRT/v10", "Microsoft DaRT/v8.1", "Microsoft DaRT/v8", "Microsoft DaRT 7/v7"}, relative(t, programs, dirs)); d != "" {
		t.Error(d)
	}
	if got := findViewer(dirs); got != "" {
		t.Errorf("found %s in an empty directory", got)
	}
	for _, i := range []int{3, 1} {
		if err := os.MkdirAll(dirs[i], 0o755); err != nil {
			t.Fatal(err)
		}
		want := filepath.Join(dirs[i], viewerName)
		if err := os.WriteFile(want, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if got := findViewer(dirs); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
}

func relative(t *testing.T, base string, paths []string) (list []string) {
	t.Helper()
	for _, p := range paths {
		rel, err := filepath.Rel(base, p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, filepath.ToSlash(rel))
	}
	return list
}

// The command that is printed for a Windows PC has the address that it reaches.
func TestViewerCommand(t *testing.T) {
	t.Setenv("PATH", "")
	ticket := api.Ticket{ID: "1", Kind: "dart", Machine: "srv01", Code: "118-497-589", Address: "192.168.77.101", Port: 3389}
	got := viewer(ticket, netip.MustParseAddrPort("10.8.0.5:49161"))
	if want := "DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=10.8.0.5 -port=49161"; got.command != want {
		t.Errorf("%s, want %s", got.command, want)
	}
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string][2]string{
		"plain-1.2/x":       {"plain-1.2/x", "plain-1.2/x"},
		"":                  {"''", "''"},
		`File="C:/a b/c"`:   {`'File="C:/a b/c"'`, `'File="C:/a b/c"'`},
		"it's $(rm -rf /);": {`'it'\''s $(rm -rf /);'`, `'it''s $(rm -rf /);'`},
	} {
		if got := [2]string{shellWord(in, false), shellWord(in, true)}; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
