// Package rescue builds the Linux rescue image from Debian's packages: Debian's
// signed kernel, a small initramfs that any boot loader can carry, and a
// squashfs root that the initramfs fetches over HTTP, checks and keeps in memory.
//
// The same packages give the same bytes: nothing of the build machine and no
// time of the build goes into the image.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"rescuebox/images"
)

// The files of the image.
const (
	Kernel   = "vmlinuz"
	Initrd   = "initrd.img"
	Root     = "root.squashfs"
	Packages = "packages.txt" // every package with its version and source, for who asks for sources
)

// cmdline is the kernel command line of the image, a template over images.Args,
// but for the consoles. BOOTIF is the MAC as PXELINUX writes it, with dashes.
const cmdline = `rescuebox.url={{.URL}}/` + Root + ` rescuebox.sha256={{index .SHA256 "` + Root + `"}} ` +
	`rescuebox.server={{.Server}} rescuebox.token={{.Token}} rescuebox.machine={{.Machine}} ` +
	`BOOTIF=01-{{slice .MAC 0 2}}-{{slice .MAC 3 5}}-{{slice .MAC 6 8}}-{{slice .MAC 9 11}}-{{slice .MAC 12 14}}-{{slice .MAC 15 17}} `

// Options say what to build and where.
type Options struct {
	Arch   string    // as Debian names it; "" is the architecture of this program
	Agent  string    // the static rescue-agent; "" is beside this program, or in /usr/lib/rescuebox
	Mirror string    // URL of a Debian mirror, or a sources.list line; "" is what apt on this machine uses for Debian
	Cache  string    // folder that keeps downloaded packages; "" keeps none
	Out    string    // folder for the image's files, made if it does not exist
	Log    io.Writer // one line per step; nil is silence
	Epoch  time.Time // time of all files; zero is SOURCE_DATE_EPOCH, or the newest package's time
}

// Result is a finished image, not yet in the library.
type Result struct {
	Image images.Image
	Dir   string
	Sizes map[string]int64
	Took  time.Duration
}

// Open opens the image's files for Library.Add. Close closes them all.
func (r Result) Open() (content map[string]io.Reader, closeAll func(), err error) {
	content = map[string]io.Reader{}
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			f.Close()
		}
	}
	for name := range r.Sizes {
		f, err := os.Open(filepath.Join(r.Dir, name))
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		open = append(open, f)
		content[name] = f
	}
	return content, closeAll, nil
}

// Build makes the image. It needs some 1.5 GB in o.Out for a while, and root or
// user namespaces for the installation of the packages.
func Build(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	b := &build{Options: o}
	if err := b.prepare(); err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(b.work)
	if err := b.run(ctx); ctx.Err() != nil {
		return Result{}, ctx.Err()
	} else if err != nil {
		return Result{}, err
	}
	r := Result{Dir: b.Out, Sizes: b.sizes, Took: time.Since(start).Round(time.Second)}
	r.Image = images.Image{
		Name: "rescue", Kind: images.Linux, Title: "Linux rescue system (" + b.system + ", " + b.Arch + ")",
		Arch: b.Arch, Source: b.source, Kernel: Kernel, Initrd: []string{Initrd}, Cmdline: cmdline + b.machine.consoles, Up: images.Agent,
		ISO: b.iso,
	}
	b.logf("built in %v: kernel and initramfs %s, root %s", r.Took,
		megabytes(b.sizes[Kernel]+b.sizes[Initrd]), megabytes(b.sizes[Root]))
	return r, nil
}

// build is one run of the builder.
type build struct {
	Options
	machine machine
	agent   []byte
	iso     *images.ISO
	work    string // on the file system of Out; removed at the end
	sizes   map[string]int64
	version string // of the kernel
	system  string // PRETTY_NAME
	source  string
}

// prepare checks all that can be checked before minutes are spent.
func (b *build) prepare() (err error) {
	if b.Arch == "" {
		b.Arch = runtime.GOARCH
	}
	if b.machine, err = machineOf(b.Arch); err != nil {
		return err
	}
	if b.Out == "" {
		return errors.New("build the rescue image: no folder for its files given")
	}
	if b.Log == nil {
		b.Log = io.Discard
	}
	if err := checkTools(); err != nil {
		return err
	}
	if err := canRun(b.Arch); err != nil {
		return err
	}
	if b.agent, err = b.readAgent(); err != nil {
		return err
	}
	if b.Epoch.IsZero() {
		if b.Epoch, err = epochFromEnv(); err != nil {
			return err
		}
	}
	return b.folders()
}

// folders makes the folders of the build. mmdebstrap takes the cache's name as
// one word of a line, and runs from elsewhere.
func (b *build) folders() (err error) {
	for _, dir := range []*string{&b.Out, &b.Cache} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return fmt.Errorf("build the rescue image: %w", err)
		}
		if err := os.MkdirAll(*dir, 0o755); err != nil {
			return fmt.Errorf("build the rescue image: %w", err)
		}
	}
	if strings.ContainsAny(b.Cache, " \t\n'\"\\$`") {
		return fmt.Errorf("build the rescue image: mmdebstrap cannot use the cache folder %q: choose one without spaces and quotes", b.Cache)
	}
	b.sizes = map[string]int64{}
	b.work, err = os.MkdirTemp(b.Out, ".build-")
	return err
}

func (b *build) run(ctx context.Context) error {
	emulated := ""
	if b.Arch != runtime.GOARCH {
		emulated = "; their programs are emulated, which takes minutes"
	}
	b.logf("1 of 5: fetching and installing Debian's packages for %s%s", b.Arch, emulated)
	spool, err := b.bootstrap(ctx)
	if err != nil {
		return err
	}
	defer spool.Close()
	all, err := readTree(spool)
	if err != nil {
		return err
	}
	if err := b.describe(all); err != nil {
		return err
	}
	b.logf("2 of 5: kernel %s", b.version)
	if err := b.kernel(all); err != nil {
		return err
	}
	if err := b.loaders(all); err != nil {
		return err
	}
	b.logf("3 of 5: initramfs")
	if err := b.initrd(ctx, all); err != nil {
		return err
	}
	b.logf("4 of 5: root file system")
	if err := b.root(ctx, all); err != nil {
		return err
	}
	b.logf("5 of 5: ISO")
	return b.makeISO(ctx, all)
}

// describe reads from the packages what they are.
func (b *build) describe(all *tree) error {
	kernel, err := all.one("boot/vmlinuz-*")
	if err != nil {
		return err
	}
	b.version = strings.TrimPrefix(kernel, "boot/vmlinuz-")
	if b.Epoch.IsZero() {
		b.Epoch = all.newest()
	}
	release, err := all.read("usr/lib/os-release")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			b.system = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	status, err := all.read("var/lib/dpkg/status")
	if err != nil {
		return err
	}
	list := manifest(status)
	b.source = fmt.Sprintf("%s, kernel %s, %d packages as of %s, see %s",
		b.system, b.version, strings.Count(list, "\n"), b.Epoch.Format(time.DateOnly), Packages)
	return b.write(Packages, []byte(list))
}

func (b *build) kernel(all *tree) error {
	data, err := all.read("boot/vmlinuz-" + b.version)
	if err != nil {
		return err
	}
	if !signed(data) {
		return fmt.Errorf("%s of Debian's package is not signed: no firmware with Secure Boot would run it", Kernel)
	}
	return b.write(Kernel, data)
}

func (b *build) initrd(ctx context.Context, all *tree) error {
	t, err := initramfs(all, b.version, b.agent)
	if err != nil {
		return err
	}
	return b.pack(ctx, Initrd, func(w io.Writer) error { return t.writeCPIO(w, b.Epoch) },
		"zstd", "-q", "-19", "--ultra", "-T1", "-f", "-o", b.temp(Initrd))
}

func (b *build) root(ctx context.Context, all *tree) error {
	t, err := rootTree(all, b.agent, b.Epoch)
	if err != nil {
		return err
	}
	if err := b.index(ctx, t); err != nil {
		return err
	}
	epoch := fmt.Sprint(b.Epoch.Unix())
	return b.pack(ctx, Root, func(w io.Writer) error { return t.writeTar(w, b.Epoch) },
		"mksquashfs", "-", b.temp(Root), "-tar", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "19",
		"-b", "256K", "-mkfs-time", epoch, "-all-time", epoch)
}

// rootTree makes the tree of the root from that of the packages.
func rootTree(all *tree, agent []byte, epoch time.Time) (*tree, error) {
	exclude, err := lines("exclude.txt")
	if err != nil {
		return nil, err
	}
	t := all.without(exclude)
	if err := addRecipe(t, "root"); err != nil {
		return nil, err
	}
	if err := addLinks(t); err != nil {
		return nil, err
	}
	t.addFile("usr/lib/rescuebox/rescue-agent", 0o755, agent)
	t.addFile("etc/machine-id", 0o444, nil) // made at boot
	t.addFile("etc/fstab", 0o644, nil)
	t.addDir("root/.ssh", 0o700)
	return t, passwordDates(t, epoch)
}

// passwordDates sets the day of the last change of every password, which is
// the day of the build, to the image's own.
func passwordDates(t *tree, epoch time.Time) error {
	text, err := t.read("etc/shadow")
	if err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ":")
		if len(f) > 2 {
			f[2] = fmt.Sprint(epoch.Unix() / 86400)
		}
		out.WriteString(strings.Join(f, ":"))
	}
	old := t.entries["etc/shadow"].head
	t.addFile("etc/shadow", old.Mode, []byte(out.String()))
	t.entries["etc/shadow"].head.Gid = old.Gid
	return nil
}

func (b *build) logf(format string, args ...any) {
	fmt.Fprintf(b.Log, "rescue image: "+format+"\n", args...)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
