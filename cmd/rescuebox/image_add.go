package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
}

func (o *imageOptions) addCommand() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add NAME [DIR] | add NAME --kernel FILE | add --bootset NAME [FILE...]",
		Short: "Add an image from files of this box",
		Long: `Add an image to the library of this box, from one of:

  a kernel and its initrds, with --kernel, --initrd and --cmdline
  DIR, a netboot directory of Debian's installer, for its rescue mode
  a Debian package on this box, by the name alone: debian-installer or memtest86+
  network boot programs, with --bootset; without FILE, those of Debian's package ipxe

An image of the name that exists is replaced. Arguments are a Go template:
{{.Machine}} {{.MAC}} {{.BootIF}} {{.Order}} {{.Token}} {{.Server}} {{.URL}}
{{index .SHA256 "file"}}`,
		Example: `  rescuebox image add memtest86+
  rescuebox image add setup /usr/lib/debian-installer/images/12/amd64/text
  rescuebox image add mine --kernel vmlinuz --initrd initrd.img --cmdline 'quiet url={{.URL}}'
  rescuebox image add --bootset ipxe`,
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := f.source(args)
			if err != nil {
				return boxError(err)
			}
			begin := time.Now()
			i, err := o.local().Import(m)
			if err != nil {
				return boxError(err)
			}
			return o.added(i, begin)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kernel, "kernel", "", "kernel: a Linux bzImage or a UEFI program")
	fs.StringArrayVar(&f.initrd, "initrd", nil, "initrd; once for each, in order")
	fs.StringVar(&f.cmdline, "cmdline", "", "kernel arguments, a template")
	fs.StringVar(&f.up, "up", "", "what tells that the image is up: served (its last file was fetched; default) or agent (its agent reports)")
	fs.StringVar(&f.title, "title", "", "title for people")
	fs.StringVar(&f.bootset, "bootset", "", "add a boot set of this name")
	return cmd
}

// source finds out what kind of image the arguments mean.
func (f addFlags) source(args []string) (images.Import, error) {
	if up := images.Signal(f.up); up != "" && up != images.Served && up != images.Agent {
		return images.Import{}, usagef("--up is served or agent, not %q", f.up)
	}
	m, err := f.find(args)
	if err != nil {
		return images.Import{}, err
	}
	if f.title != "" {
		m.Image.Title = f.title
	}
	if f.up != "" {
		m.Image.Up = images.Signal(f.up)
	}
	if f.cmdline != "" {
		m.Image.Cmdline = f.cmdline
	}
	return m, nil
}

func (f addFlags) find(args []string) (images.Import, error) {
	pair := f.kernel != "" || len(f.initrd) > 0
	switch {
	case f.bootset != "" && (pair || f.cmdline != "" || f.up != ""):
		return images.Import{}, usagef("a boot set has files only: no --kernel, --initrd, --cmdline or --up")
	case f.bootset != "" && len(args) == 0:
		return images.DebianIPXE(f.bootset, "/")
	case f.bootset != "":
		return images.NBPs(f.bootset, "files", args)
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
		return err
	})
}

// boxError adds to an error of the box's own files what to do about it.
func boxError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return hinted(err, "run it as root on the box")
	case errors.Is(err, syscall.ENOSPC):
		return hinted(err, "make room: rescuebox image rm IMAGE")
	case errors.Is(err, syscall.EROFS):
		return hinted(err, "the file system is read-only: remount it, or name another place with --library")
	}
	return err
}
