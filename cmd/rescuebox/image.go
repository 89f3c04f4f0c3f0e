package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
	"rescuebox/images"
)

// defaultLibrary is where the box keeps its images.
const defaultLibrary = "/var/lib/rescuebox/images"

// imageCommand is "rescuebox image". What only reads or removes goes through
// the daemon and so works from anywhere; add, build and usb need the box's own
// files, and its library.
func imageCommand(c *cli) *cobra.Command {
	o := &imageOptions{cli: c}
	g := group("image", "Images that machines can boot", "  rescuebox image list",
		o.listCommand(), o.showCommand(), o.addCommand(), o.buildCommand(), o.usbCommand(), o.verifyCommand(), o.removeCommand())
	g.PersistentFlags().StringVar(&o.dir, "library", "",
		"directory of the images, used without the daemon (add, build and usb: default "+defaultLibrary+")")
	return g
}

type imageOptions struct {
	*cli
	dir string // --library
}

// library is what the reading commands ask: the daemon, or a directory.
type library interface {
	Images(context.Context) (api.Library, error)
	Image(ctx context.Context, name string) (api.Image, error)
	VerifyImage(ctx context.Context, name string) (api.Verified, error)
	RemoveImage(ctx context.Context, name string) error
}

func (o *imageOptions) library() (library, error) {
	if o.dir != "" {
		return directory{&images.Library{Dir: o.dir}}, nil
	}
	client, err := o.connect()
	if err != nil {
		return nil, err
	}
	return client, nil
}

func (o *imageOptions) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the images", Example: "  rescuebox image list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lib, err := o.library()
			if err != nil {
				return err
			}
			list, err := lib.Images(cmd.Context())
			if err != nil {
				return err
			}
			for _, broken := range list.Broken {
				fmt.Fprintln(o.errOut, broken)
			}
			return o.show(list, func(w io.Writer) error { return writeImages(w, list) })
		},
	}
}

func writeImages(w io.Writer, list api.Library) error {
	if len(list.Images) == 0 {
		_, err := fmt.Fprintln(w, "no images: rescuebox image build rescue makes one, rescuebox image add brings one in")
		return err
	}
	var rows [][]string
	for _, i := range list.Images {
		rows = append(rows, []string{i.Name, i.Kind, i.Arch, size(i.Size), day(i.Added), i.Title})
	}
	return table(w, []string{"NAME", "KIND", "ARCH", "SIZE", "ADDED", "TITLE"}, rows)
}

func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

func (o *imageOptions) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show IMAGE", Short: "Show one image and its files", Example: "  rescuebox image show rescue",
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := o.library()
			if err != nil {
				return err
			}
			i, err := lib.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.show(i, func(w io.Writer) error { return writeImage(w, i) })
		},
	}
}

func writeImage(w io.Writer, i api.Image) error {
	lines := [][2]string{
		{"name", i.Name}, {"title", i.Title}, {"kind", i.Kind}, {"arch", i.Arch}, {"size", size(i.Size)}, {"source", i.Source},
		{"added", day(i.Added)}, {"kernel", i.Kernel}, {"kernel (UEFI)", i.KernelEFI}, {"initrd", strings.Join(i.Initrd, " ")},
		{"arguments", i.Cmdline}, {"up", upInWords(i.Up)},
	}
	if err := writeLines(w, append(lines, windowsLines(i)...)); err != nil {
		return err
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, f := range i.Files {
		rows = append(rows, []string{f.Name, size(f.Size), f.Arch, signedBy(f), f.SHA256})
	}
	if err := table(w, []string{"FILE", "SIZE", "ARCH", "SIGNED BY", "SHA256"}, rows); err != nil {
		return err
	}
	for _, warning := range warnings(i) {
		if _, err := fmt.Fprintf(w, "\nwarning: %s\n", warning); err != nil {
			return err
		}
	}
	return nil
}

func signedBy(f api.File) string {
	if f.Arch != "" && len(f.Signers) == 0 {
		return "nobody"
	}
	return strings.Join(f.Signers, ", ")
}

// warnings are those of the image that the API describes.
func warnings(i api.Image) []string {
	described := images.Image{Kind: images.Kind(i.Kind), Arch: i.Arch}
	for _, f := range i.Files {
		described.Files = append(described.Files, images.File{Name: f.Name, Arch: f.Arch, Signers: f.Signers})
	}
	if w := i.Windows; w != nil {
		described.Windows = &images.WindowsPE{Build: w.Build, DaRT: w.DaRT, Has: w.Has, SDI: w.SDI, WinloadBIOS: w.WinloadBIOS, WinloadEFI: w.WinloadEFI}
	}
	return described.Warnings()
}

func upInWords(up string) string {
	switch images.Signal(up) {
	case images.Agent:
		return "when its agent reports"
	case images.Served:
		return "when the last of its files was fetched"
	}
	return up
}

func (o *imageOptions) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify [IMAGE...]", Short: "Hash the files of images (all of them, if none is named) and compare",
		Example: "  rescuebox image verify rescue", ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := o.library()
			if err != nil {
				return err
			}
			results, err := verifyAll(cmd.Context(), lib, args)
			if err != nil {
				return err
			}
			if err := o.show(results, func(w io.Writer) error { return writeVerified(w, results) }); err != nil {
				return err
			}
			for _, r := range results {
				if !r.OK {
					return &silentError{}
				}
			}
			return nil
		},
	}
}

// verifyAll verifies the named images, or all. An image that cannot be read fails as one that changed.
func verifyAll(ctx context.Context, lib library, names []string) ([]api.Verified, error) {
	results := []api.Verified{}
	if len(names) == 0 {
		list, err := lib.Images(ctx)
		if err != nil {
			return nil, err
		}
		for _, i := range list.Images {
			names = append(names, i.Name)
		}
		for _, broken := range list.Broken {
			results = append(results, api.Verified{Error: broken})
		}
	}
	for _, name := range names {
		r, err := lib.VerifyImage(ctx, name)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

func writeVerified(w io.Writer, results []api.Verified) error {
	for _, r := range results {
		text := r.Image + ": all files are as they were added"
		if !r.OK {
			text = r.Error
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

func (o *imageOptions) removeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images", Example: "  rescuebox image rm memtest86+",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := o.library()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := lib.RemoveImage(cmd.Context(), name); err != nil {
					return boxError(err)
				}
				fmt.Fprintf(o.errOut, "removed %s\n", name)
			}
			return nil
		},
	}
}

// complete offers the names of images to the shell, which must not hang.
func (o *imageOptions) complete(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	lib, err := o.library()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := lib.Images(ctx)
	var names []string
	for _, i := range list.Images {
		names = append(names, i.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// directory is a library without its daemon.
type directory struct{ lib *images.Library }

func (d directory) Images(context.Context) (api.Library, error) {
	list, errs := d.lib.List()
	out := api.Library{Images: []api.Image{}}
	for _, i := range list {
		out.Images = append(out.Images, describe(i))
	}
	for _, err := range errs {
		out.Broken = append(out.Broken, err.Error())
	}
	return out, nil
}

func (d directory) Image(_ context.Context, name string) (api.Image, error) {
	i, err := d.lib.Get(name)
	return describe(i), err
}

func (d directory) VerifyImage(_ context.Context, name string) (api.Verified, error) {
	i, err := d.lib.Get(name)
	var missing *images.NotFound
	if errors.As(err, &missing) {
		return api.Verified{}, err
	}
	if err == nil {
		err = d.lib.Verify(i)
	}
	if err != nil {
		return api.Verified{Image: name, Error: err.Error()}, nil
	}
	return api.Verified{Image: name, OK: true}, nil
}

func (d directory) RemoveImage(_ context.Context, name string) error { return d.lib.Remove(name) }

// describe is an image as the API has it.
func describe(i images.Image) api.Image {
	out := api.Image{Name: i.Name, Kind: string(i.Kind), Title: i.Title, Arch: i.Arch, Source: i.Source, Added: i.Added,
		Size: i.Size(), Up: string(i.Up), Kernel: i.Kernel, KernelEFI: i.KernelEFI, Initrd: i.Initrd, Cmdline: i.Cmdline, Windows: windowsOf(i.Windows), Files: []api.File{}}
	for _, f := range i.Files {
		out.Files = append(out.Files, api.File{Name: f.Name, Size: f.Size, SHA256: f.SHA256, Arch: f.Arch, Signers: f.Signers})
	}
	return out
}
