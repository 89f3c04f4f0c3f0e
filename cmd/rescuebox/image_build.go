package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/images"
	"rescuebox/images/rescue"
)

// buildCommand makes an image from Debian's packages and puts it into the library.
func (o *imageOptions) buildCommand() *cobra.Command {
	var build rescue.Options
	var work, name string
	cmd := &cobra.Command{
		Use:   "build rescue",
		Short: "Build the Linux rescue image from Debian's packages, and add it",
		Long: `Build the Linux rescue image from Debian's packages, and add it to the library
of this box. It takes some minutes, 1.5 GB of --work, and the Debian mirror that
this box's apt uses. For another architecture than this box's own, Debian's
qemu-user-static runs the packages' installation scripts; the image is then
called rescue-arm64, and an order of "rescue" takes it where it fits the machine.`,
		Example: "  rescuebox image build rescue\n  rescuebox image build rescue --arch arm64", Args: cobra.ExactArgs(1), ValidArgs: []string{"rescue"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "rescue" {
				return usagef("no recipe %q: there is one, for rescue", args[0])
			}
			if name == "" {
				name = rescue.ImageName(build.Arch)
			}
			begin := time.Now()
			build.Log = o.errOut
			i, err := o.build(cmd, build, name, work)
			if err != nil {
				return boxError(err)
			}
			return o.added(i, begin)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&build.Arch, "arch", runtime.GOARCH, "architecture, as Debian names it")
	fs.StringVar(&build.Agent, "agent", "", "the static rescue-agent for that architecture (default: the installed one)")
	fs.StringVar(&build.Mirror, "mirror", "", "URL of a Debian mirror (default: the one that apt uses)")
	fs.StringVar(&build.Cache, "cache", "", "keep downloaded packages in this directory")
	fs.StringVar(&name, "name", "", "name of the image (default: rescue, for arm64 rescue-arm64)")
	fs.StringVar(&work, "work", "/var/tmp", "directory to build in")
	return cmd
}

func (o *imageOptions) build(cmd *cobra.Command, build rescue.Options, name, work string) (images.Image, error) {
	if err := images.CheckName(name); err != nil {
		return images.Image{}, &usageError{err}
	}
	dir, err := os.MkdirTemp(work, "rescuebox-build-")
	if err != nil {
		return images.Image{}, err
	}
	defer os.RemoveAll(dir)
	build.Out = filepath.Join(dir, "image")
	result, err := rescue.Build(cmd.Context(), build)
	if err != nil {
		return images.Image{}, fmt.Errorf("build %s: %w", name, err)
	}
	content, closeAll, err := result.Open()
	if err != nil {
		return images.Image{}, err
	}
	defer closeAll()
	result.Image.Name = name
	return o.local().Add(result.Image, content)
}
