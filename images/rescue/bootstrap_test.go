package rescue

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDebianSources(t *testing.T) {
	const own = `Debian bookworm http://mirror.example/debian/ bookworm main
Debian bookworm http://mirror.example/debian/ bookworm contrib
Debian bookworm-updates http://mirror.example/debian/ bookworm-updates main
Debian bookworm-security http://mirror.example/security/ bookworm-security main
Debian bookworm-backports http://mirror.example/debian/ bookworm-backports main
Debian bookworm cdrom://disc/ bookworm main
. . http://third.example/ nodistro main
`
	want := []string{
		"deb http://mirror.example/debian/ bookworm main", "deb http://mirror.example/debian/ bookworm-updates main",
		"deb http://mirror.example/security/ bookworm-security main",
	}
	if got := debianSources(own); !slices.Equal(got, want) {
		t.Errorf("\ngot  %q\nwant %q", got, want)
	}
	for name, targets := range map[string]string{
		"no security updates": "Debian bookworm http://mirror.example/debian/ bookworm main\n",
		"another release":     "Debian trixie http://m/ trixie main\nDebian trixie-security http://m/ trixie-security main\n",
		"not Debian":          "Ubuntu noble http://m/ noble main\n",
	} {
		if got := debianSources(targets); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// The agent must run where there is no libc, on the image's architecture.
func TestReadAgent(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "main.go")
	if err := os.WriteFile(program, []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(dir, "rescue-agent")
	cmd := exec.Command("go", "build", "-o", agent, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := tryAgent(agent, runtime.GOARCH); err != nil {
		t.Errorf("a static program: %v", err)
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	for path, want := range map[string]string{
		program: "is no Linux program", "/bin/ls": "is not static", filepath.Join(dir, "none"): "CGO_ENABLED=0 go build -o none",
	} {
		if _, err := tryAgent(path, runtime.GOARCH); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := tryAgent(agent, other); err == nil || !strings.Contains(err.Error(), "the image is for "+other) {
		t.Errorf("for the wrong architecture: %v", err)
	}
}

func tryAgent(path, arch string) ([]byte, error) {
	b := &build{Options: Options{Agent: path, Arch: arch, Log: io.Discard}}
	return b.readAgent()
}

// A build that is cancelled ends all it started and leaves neither mounts nor files.
func TestCancelledBuild(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	need(t, "unshare", "util-linux")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := t.TempDir()
	cmd := alone(ctx, "sh", "-c", `mkdir "$0/m" && mount -t tmpfs x "$0/m" && echo up >"$0/up" && sleep 1000`, dir)
	ended := make(chan error, 1)
	go func() { ended <- new(build).command(cmd) }() // it waits for all that can still complain
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "up")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the program never started")
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a build that was cancelled succeeded")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts left behind: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if out, _ := exec.Command("ps", "-eo", "args").Output(); bytes.Contains(out, []byte(dir)) {
		t.Error("the program is still there")
	}
}

func TestEpochFromEnv(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if got, err := epochFromEnv(); err != nil || !got.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("%v %v", got, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := epochFromEnv(); err == nil {
		t.Error("yesterday was taken")
	}
}

// A missing tool is named with its package before minutes are spent.
func TestCheckTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := checkTools()
	if err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends mmdebstrap apt squashfs-tools zstd kmod util-linux") {
		t.Errorf("%v", err)
	}
}

// What installation wrote into the tar file comes out sorted and with one
// time; hard links have become files.
func TestTree(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "packages.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	newest := time.Unix(1_700_000_000, 0)
	w := tar.NewWriter(f)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/perl5", Typeflag: tar.TypeReg, Mode: 0o755, Size: 4, ModTime: time.Now()},
		{Name: "./usr/bin/perl", Typeflag: tar.TypeLink, Linkname: "./usr/bin/perl5", Mode: 0o755},
		{Name: "./usr/share/doc/bash/copyright", Typeflag: tar.TypeReg, Size: 4, ModTime: newest},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "data")
		}
	}
	w.Close()
	f.Seek(0, io.SeekStart)
	all, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	if !all.newest().Equal(newest) {
		t.Errorf("newest package %v", all.newest())
	}
	var out bytes.Buffer
	if err := all.without(patterns{"usr/bin/perl5"}).writeTar(&out, newest); err != nil {
		t.Fatal(err)
	}
	want := "bin 2 usr/bin 0\nusr/bin/perl 0  4\nusr/share/doc/bash/copyright 0  4\n"
	if got := listTar(t, &out, newest); got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
}

func listTar(t *testing.T, r io.Reader, epoch time.Time) string {
	t.Helper()
	var b strings.Builder
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		if data, _ := io.ReadAll(tr); len(data) > 0 && string(data) != "data" {
			t.Errorf("%s holds %q", h.Name, data)
		}
		b.WriteString(strings.Join([]string{h.Name, string(h.Typeflag), h.Linkname, string(rune('0' + h.Size))}, " ") + "\n")
	}
}
