package rescue

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// release is the Debian release the recipe was written for and tried with.
const release = "bookworm"

// tools are the programs of the build and the Debian packages they are in.
var tools = [][2]string{
	{"mmdebstrap", "mmdebstrap"},
	{"apt-get", "apt"},
	{"mksquashfs", "squashfs-tools"},
	{"zstd", "zstd"},
	{"depmod", "kmod"},
	{"unshare", "util-linux"},
	{"xorriso", "xorriso"},
	{"mformat", "mtools"},
}

// checkTools names all that is missing at once.
func checkTools() error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t[0]); err != nil {
			missing = append(missing, t[1])
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("build the rescue image: Debian packages are missing: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
}

// readAgent finds the agent and makes sure that it runs where there is no libc.
func (b *build) readAgent() ([]byte, error) {
	path := b.Agent
	if path == "" {
		path = findAgent(b.Arch)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("find the agent of the rescue image: %w (build it: GOARCH=%s CGO_ENABLED=0 go build -o %s ./cmd/rescue-agent)", err, b.Arch, filepath.Base(path))
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s is no Linux program: %w", path, err)
	}
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[b.Arch]
	if f.Machine != want {
		return nil, fmt.Errorf("%s is for %v, the image is for %s", path, f.Machine, b.Arch)
	}
	if f.Section(".debug_info") != nil {
		b.logf("hint: %s holds debug information, which makes the image 5 MB larger: build it with -ldflags '-s -w'", path)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, fmt.Errorf("%s is not static: build it with CGO_ENABLED=0", path)
	}
	return data, nil
}

// findAgent looks beside this program, then where the package installs it. The
// agent for another architecture than ours has its name: rescue-agent-arm64.
func findAgent(arch string) string {
	name := "rescue-agent"
	if arch != runtime.GOARCH {
		name += "-" + arch
	}
	installed := filepath.Join("/usr/lib/rescuebox", name)
	self, err := os.Executable()
	if err != nil {
		return installed
	}
	beside := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(beside); err != nil {
		return installed
	}
	return beside
}

// epochFromEnv reads SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/).
func epochFromEnv() (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is no number of seconds", s)
	}
	return time.Unix(n, 0).UTC(), nil
}

// bootstrap installs the packages into a tar file.
func (b *build) bootstrap(ctx context.Context) (*os.File, error) {
	names, err := packages(b.Arch)
	if err != nil {
		return nil, err
	}
	spool := filepath.Join(b.work, "packages.tar")
	args := []string{"--quiet", "--variant=essential", "--format=tar", "--architectures=" + b.Arch,
		// Merged /usr without perl, which the package usrmerge would need.
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(names, ","), `--aptopt=Apt::Install-Recommends "false"`}
	args = append(args, b.cacheHooks()...)
	args = append(args, b.biosHook()...)
	args = append(args, release, spool)
	cmd := alone(ctx, "mmdebstrap", append(args, b.mirrors(ctx)...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.work)
	if err := b.command(cmd); err != nil {
		return nil, fmt.Errorf("install Debian's packages: %w", err)
	}
	return os.Open(spool)
}

// alone runs a program, if we are root, in namespaces of its own. As root
// mmdebstrap mounts /dev and /sys into what it makes, and killed it leaves them
// there, where removing the working folder would meet them. Without root it
// makes namespaces itself.
func alone(ctx context.Context, program string, args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		return exec.CommandContext(ctx, program, args...)
	}
	own := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", program}
	return exec.CommandContext(ctx, "unshare", append(own, args...)...)
}

// cacheHooks make mmdebstrap keep what it downloads.
func (b *build) cacheHooks() []string {
	if b.Cache == "" {
		return nil
	}
	const archives = "/var/cache/apt/archives/"
	return []string{
		"--skip=download/empty", "--skip=essential/unlink",
		`--setup-hook=mkdir -p "$1` + archives + `"`,
		"--setup-hook=sync-in " + b.Cache + " " + archives,
		"--customize-hook=sync-out " + archives + " " + b.Cache,
	}
}

// mirrors are the places to fetch from: what was asked for, or where apt on
// this machine gets the same Debian release, or mmdebstrap's own choice.
func (b *build) mirrors(ctx context.Context) []string {
	if b.Mirror != "" {
		return []string{b.Mirror}
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return nil
	}
	return debianSources(string(out))
}

// debianSources picks Debian's own sources for the release from apt's list:
// third parties' packages have no place in the image. A list without security
// updates is no list.
func debianSources(targets string) []string {
	var list []string
	security := false
	for line := range strings.Lines(targets) {
		w := strings.Fields(line)
		if len(w) != 5 || w[0] != "Debian" || w[4] != "main" || !strings.HasPrefix(w[1], release) {
			continue
		}
		if strings.HasSuffix(w[1], "-backports") || strings.HasPrefix(w[2], "cdrom:") || strings.HasPrefix(w[2], "file:") {
			continue
		}
		security = security || strings.HasSuffix(w[1], "-security")
		deb := fmt.Sprintf("deb %s %s main", w[2], w[3])
		if !slices.Contains(list, deb) {
			list = append(list, deb)
		}
	}
	if !security {
		return nil
	}
	return list
}

// command runs a program; its last words are the error.
func (b *build) command(cmd *exec.Cmd) error {
	var words tail
	cmd.Stderr = &words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, words.String())
	}
	return nil
}

// tail keeps the last 2 KB written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - 2048; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }

// temp is where a file of the image grows until it is whole.
func (b *build) temp(name string) string { return filepath.Join(b.work, name) }

// pack feeds a packing program that writes b.temp(name), and takes the file over.
func (b *build) pack(ctx context.Context, name string, feed func(io.Writer) error, program string, args ...string) error {
	r, w := io.Pipe()
	fed := make(chan error, 1)
	go func() {
		err := feed(w)
		w.CloseWithError(err)
		fed <- err
	}()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = r
	err := b.command(cmd)
	r.Close() // a program that ended early must not leave the feeder waiting
	if err := errors.Join(err, <-fed); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return b.finish(name)
}

func (b *build) write(name string, data []byte) error {
	if err := os.WriteFile(b.temp(name), data, 0o644); err != nil {
		return err
	}
	return b.finish(name)
}

func (b *build) finish(name string) error {
	info, err := os.Stat(b.temp(name))
	if err != nil {
		return err
	}
	b.sizes[name] = info.Size()
	return os.Rename(b.temp(name), filepath.Join(b.Out, name))
}
