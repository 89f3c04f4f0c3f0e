package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/images"
)

// addFlags are the flags of "rescuebox image add".
type addFlags struct {
	kernel, cmdline, up, title string
	initrd                     []string
	bootset                    string
	sha256                     []string
	name                       string // of an image of Windows
	index                      int
	with                       []string
}

func (o *imageOptions) addCommand() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add FILE.iso|FILE.wim|DIR | add NAME [DIR] | add NAME --kernel FILE | add --bootset NAME [FILE...|DIR]",
		Short: "Add an image from files of this box",
		Long: `Add an image to the library of this box, from one of:

  an ISO of DaRT, Windows PE or Windows' setup, its boot.wim, or a directory that
  it is mounted or unpacked in; it is called as the file, or as --name says
  a kernel and its initrds, with --kernel, --initrd and --cmdline
  DIR, a netboot directory of Debian's installer, for its rescue mode
  a Debian package on this box, by the name alone: debian-installer or memtest86+
  network boot programs, with --bootset; without FILE, those of Debian's packages:
  shim and GRUB for the name "shim", otherwise iPXE

Of a boot set, every .efi must be a program for UEFI whose signature, if it has
one, fits it; what a shim of iPXE's loads must be beside it; and hashes that are
given, with --sha256 or as SHA256SUMS in DIR, must be right. A DIR with one
directory for each architecture makes as many boot sets: NAME and NAME-arm64.

Of Windows, everything that boots is taken out of the ISO and its boot.wim, every
file of which is read once; what is missing is said, and may be added --with.

An image of the name that exists is replaced. Arguments are a Go template:
{{.Machine}} {{.MAC}} {{.BootIF}} {{.Order}} {{.Token}} {{.Server}} {{.URL}}
{{index .SHA256 "file"}}`,
		Example: `  rescuebox image add dart.iso
  rescuebox image add boot.wim --name dart --with boot.sdi
  rescuebox image add memtest86+
  rescuebox image add setup /usr/lib/debian-installer/images/12/amd64/text
  rescuebox image add mine --kernel vmlinuz --initrd initrd.img --cmdline 'quiet url={{.URL}}'
  rescuebox image add --bootset ipxe
  rescuebox image add --bootset ipxe20 ipxeboot/x86_64-sb --sha256 snponly.efi=5f06…e8e3`,
		RunE: func(_ *cobra.Command, args []string) error {
			begin := time.Now()
			p := o.progress()
			list, err := f.source(args, p.tell)
			defer closeImports(list)
			for _, m := range list {
				if err != nil {
					break
				}
				err = o.add(m, p, begin)
				begin = time.Now()
			}
			p.end()
			return boxError(err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kernel, "kernel", "", "kernel: a Linux bzImage or a UEFI program")
	fs.StringArrayVar(&f.initrd, "initrd", nil, "initrd; once for each, in order")
	fs.StringVar(&f.cmdline, "cmdline", "", "kernel arguments, a template")
	fs.StringVar(&f.up, "up", "", "what tells that the image is up: served (its last file was fetched; default) or agent (its agent reports)")
	fs.StringVar(&f.title, "title", "", "title for people")
	fs.StringVar(&f.bootset, "bootset", "", "add a boot set of this name")
	fs.StringVar(&f.name, "name", "", "name of an image of Windows (default: that of the file)")
	fs.IntVar(&f.index, "index", 0, "the image in the WIM that boots (default: the one that the WIM names)")
	fs.StringArrayVar(&f.with, "with", nil, "a file that an image of Windows lacks, such as boot.sdi; once for each")
	fs.StringArrayVar(&f.sha256, "sha256", nil, "FILE=HASH: what a file of a boot set must hash to; once for each")
	return cmd
}

// source finds out what kind of image the arguments mean. Only boot sets can be several.
func (f addFlags) source(args []string, progress func(string, int64, int64)) ([]images.Import, error) {
	if up := images.Signal(f.up); up != "" && up != images.Served && up != images.Agent {
		return nil, usagef("--up is served or agent, not %q", f.up)
	}
	list, err := f.find(args, progress)
	if err != nil {
		return nil, err
	}
	for n := range list {
		i := &list[n].Image
		i.Title, i.Up, i.Cmdline = cmp.Or(f.title, i.Title), cmp.Or(images.Signal(f.up), i.Up), cmp.Or(f.cmdline, i.Cmdline)
	}
	return list, nil
}

func (f addFlags) find(args []string, progress func(string, int64, int64)) ([]images.Import, error) {
	if f.isWindows(args) {
		return f.findWindows(args, progress)
	}
	if f.name != "" || f.index != 0 || len(f.with) > 0 {
		return nil, usagef("--name, --index and --with go with an ISO or a WIM of Windows: rescuebox image add FILE.iso")
	}
	if f.bootset != "" {
		return f.findBootSet(args)
	}
	if len(f.sha256) > 0 {
		return nil, usagef("--sha256 goes with --bootset")
	}
	m, err := f.findImage(args)
	return []images.Import{m}, err
}

func (f addFlags) findImage(args []string) (images.Import, error) {
	pair := f.kernel != "" || len(f.initrd) > 0
	switch {
	case len(args) == 0:
		return images.Import{}, usagef("name the image: rescuebox image add NAME")
	case pair && (len(args) > 1 || f.kernel == ""):
		return images.Import{}, usagef("a kernel and its initrds are: rescuebox image add NAME --kernel FILE --initrd FILE")
	case pair:
		return images.Pair{Name: args[0], Kernel: f.kernel, Initrd: f.initrd}.Import()
	case len(args) == 1:
		return images.WellKnown(args[0])
	case len(args) == 2:
		return images.Netboot(args[0], args[1])
	}
	return images.Import{}, usagef("too many arguments: one name and one directory")
}

// isWindows tells an ISO, a WIM, or a directory with one from the name of an image.
func (f addFlags) isWindows(args []string) bool {
	if f.bootset != "" || f.kernel != "" || len(args) == 0 || len(args) > 2 {
		return false
	}
	path := args[len(args)-1]
	switch strings.ToLower(filepath.Ext(path)) {
	case ".iso", ".wim", ".esd", ".swm": // be it there or not
		return true
	}
	return images.IsWindows(path) || len(args) == 1 && strings.ContainsAny(path, `/\`)
}

func (f addFlags) findWindows(args []string, progress func(string, int64, int64)) ([]images.Import, error) {
	if len(f.initrd) > 0 || f.cmdline != "" || len(f.sha256) > 0 {
		return nil, usagef("an image of Windows has no --initrd, --cmdline or --sha256")
	}
	w := images.WindowsFiles{Name: f.name, Path: args[len(args)-1], Index: f.index, With: f.with, Progress: progress}
	if len(args) == 2 {
		if f.name != "" && f.name != args[0] {
			return nil, usagef("two names are given, %s and %s", args[0], f.name)
		}
		w.Name = args[0]
	}
	if w.Name != "" {
		if err := images.CheckName(w.Name); err != nil { // not after a minute of work
			return nil, &usageError{err}
		}
	}
	return w.Imports()
}

func closeImports(list []images.Import) {
	for _, m := range list {
		m.Close()
	}
}

func (f addFlags) findBootSet(args []string) ([]images.Import, error) {
	if f.kernel != "" || len(f.initrd) > 0 || f.cmdline != "" || f.up != "" {
		return nil, usagef("a boot set has files only: no --kernel, --initrd, --cmdline or --up")
	}
	if len(args) > 0 {
		sums, err := f.sums()
		if err != nil {
			return nil, err
		}
		return images.BootFiles{Name: f.bootset, Source: "files", Paths: args, SHA256: sums}.Imports()
	}
	if len(f.sha256) > 0 {
		return nil, usagef("--sha256 goes with files that are named")
	}
	packaged := images.DebianIPXE
	if f.bootset == "shim" {
		packaged = images.DebianShim
	}
	m, err := packaged(f.bootset, "/")
	return []images.Import{m}, err
}

func (f addFlags) sums() (map[string]string, error) {
	sums := map[string]string{}
	for _, pair := range f.sha256 {
		name, hash, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--sha256 is FILE=HASH, not %q", pair)
		}
		sums[name] = hash
	}
	return sums, nil
}

// add puts one image into the library of this box, and says what is odd about it.
func (o *imageOptions) add(m images.Import, p *progress, begin time.Time) error {
	i, err := o.local().Import(m)
	p.end()
	if err != nil {
		return err
	}
	if m.Without != nil {
		for line := range strings.Lines(m.Without.Error()) {
			fmt.Fprintf(o.errOut, "%s: %s\n", i.Name, clean(strings.TrimSpace(line)))
		}
	}
	for _, warning := range i.Warnings() {
		fmt.Fprintf(o.errOut, "warning: %s\n", warning)
	}
	return o.added(i, begin)
}

// local is the library of this box.
func (o *imageOptions) local() *images.Library {
	if o.dir != "" {
		return &images.Library{Dir: o.dir}
	}
	return &images.Library{Dir: defaultLibrary}
}

// added tells what came in.
func (o *imageOptions) added(i images.Image, begin time.Time) error {
	return o.show(describe(i), func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s, %d files, %s, in %.1f s\n",
			i.Name, i.Title, len(i.Files), size(i.Size()), time.Since(begin).Seconds())
		if i.Windows != nil {
			err = errors.Join(err, writeLines(w, windowsLines(describe(i))))
		}
		return err
	})
}

// boxError adds to an error of the box's own files what to do about it.
func boxError(err error) error {
	var known *images.Hinted
	switch {
	case errors.As(err, &known):
		return hinted(err, "%s", known.Hint)
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return hinted(err, "run it as root on the box")
	case errors.Is(err, syscall.ENOSPC):
		return hinted(err, "make room: rescuebox image rm IMAGE")
	case errors.Is(err, syscall.EROFS):
		return hinted(err, "the file system is read-only: remount it, or name another place with --library")
	}
	return err
}
