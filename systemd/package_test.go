package systemd

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the package installs, and that nothing of it belongs to a builder.
const packageFiles = `-rwxr-xr-x root/root ./usr/bin/rescuebox
-rwxr-xr-x root/root ./usr/bin/rescueboxd
-rwxr-xr-x root/root ./usr/lib/rescuebox/rescue-agent
-rwxr-xr-x root/root ./usr/lib/rescuebox/rescue-agent-OTHER
-rw-r--r-- root/root ./usr/lib/rescuebox/rescue-agent-windows-386.exe
-rw-r--r-- root/root ./usr/lib/rescuebox/rescue-agent-windows-amd64.exe
-rw-r--r-- root/root ./usr/lib/rescuebox/rescue-agent-windows-arm64.exe
-rw-r--r-- root/root ./usr/lib/rescuebox/rescue-agent-windows-legacy-386.exe
-rw-r--r-- root/root ./usr/lib/rescuebox/rescue-agent-windows-legacy-amd64.exe
-rw-r--r-- root/root ./usr/lib/systemd/system/rescuebox-ppp.socket
-rw-r--r-- root/root ./usr/lib/systemd/system/rescuebox-ppp@.service
-rw-r--r-- root/root ./usr/lib/systemd/system/rescueboxd.service
-rw-r--r-- root/root ./usr/lib/sysusers.d/rescuebox.conf
-rw-r--r-- root/root ./usr/lib/tmpfiles.d/rescuebox.conf
-rw-r--r-- root/root ./usr/share/bash-completion/completions/rescuebox
-rw-r--r-- root/root ./usr/share/doc/rescuebox/70-rescuebox-modem.rules
-rw-r--r-- root/root ./usr/share/doc/rescuebox/copyright
-rw-r--r-- root/root ./usr/share/doc/rescuebox/lte.toml
-rw-r--r-- root/root ./usr/share/doc/rescuebox/minimal.toml
-rw-r--r-- root/root ./usr/share/doc/rescuebox/proxydhcp.toml
-rw-r--r-- root/root ./usr/share/doc/rescuebox/reference.toml
-rw-r--r-- root/root ./usr/share/doc/rescuebox/samba.conf
-rw-r--r-- root/root ./usr/share/polkit-1/rules.d/rescuebox.rules`

func TestPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all programs twice")
	}
	tool(t, "dpkg-deb", "dpkg")
	deb := makePackage(t)
	again := makePackage(t)
	if sha256.Sum256([]byte(read(t, deb))) != sha256.Sum256([]byte(read(t, again))) {
		t.Errorf("two builds of one tree differ: %s and %s (or did somebody edit it meanwhile?)", deb, again)
	}
	var files []string
	for _, line := range strings.Split(run(t, "dpkg-deb", "--contents", deb), "\n") {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "d") {
			files = append(files, f[0]+" "+f[1]+" "+f[5])
		}
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	if diff := cmp.Diff(strings.ReplaceAll(packageFiles, "OTHER", other), strings.Join(files, "\n")); diff != "" {
		t.Error(diff)
	}
	root := t.TempDir()
	run(t, "dpkg-deb", "--extract", deb, root)
	completionWorks(t, filepath.Join(root, "usr/share/bash-completion/completions/rescuebox"))
	if got := run(t, filepath.Join(root, "usr/bin/rescueboxd"), "-version"); !strings.Contains(got, "1.2.3~test") {
		t.Errorf("rescueboxd -version says %q, not the package's version", got)
	}
}

// makePackage leaves a package in a directory of its own.
func makePackage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("../scripts/package", "--output", dir)
	cmd.Env = append(os.Environ(), "VERSION=1.2.3~test", "SOURCE_DATE_EPOCH=1750000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/package: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "rescuebox_1.2.3~test_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %q, %v", found, err)
	}
	return found[0]
}

// completionWorks asks bash for what it would offer.
func completionWorks(t *testing.T, script string) {
	t.Helper()
	out := run(t, "bash", "-c", `. "$0" && complete -p rescuebox`, script)
	if !strings.HasSuffix(out, " rescuebox") {
		t.Errorf("completion: %q", out)
	}
}

func TestShellScripts(t *testing.T) {
	scripts := []string{"../scripts/package", "../scripts/package.d/postinst", "../scripts/package.d/prerm", "../scripts/package.d/postrm"}
	for _, s := range scripts {
		run(t, "bash", "-n", s)
	}
	tool(t, "shellcheck", "shellcheck")
	run(t, "shellcheck", scripts...)
}
