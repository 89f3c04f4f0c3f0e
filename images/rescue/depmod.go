package rescue

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// index runs depmod over the modules of a tree and adds the indexes it makes.
// Those of the kernel's package name modules that the image leaves out, and udev
// would try each of them.
func (b *build) index(ctx context.Context, t *tree) error {
	dir := filepath.Join(b.work, "modules")
	defer os.RemoveAll(dir)
	modules := "usr/lib/modules/" + b.version + "/"
	for name, e := range t.entries {
		if e.data != nil && strings.HasPrefix(name, modules) {
			if err := extract(filepath.Join(dir, strings.TrimPrefix(name, "usr/")), e.data); err != nil {
				return err
			}
		}
	}
	if err := b.command(exec.CommandContext(ctx, "depmod", "-b", dir, b.version)); err != nil {
		return err
	}
	made, err := filepath.Glob(filepath.Join(dir, "lib/modules", b.version, "modules.*"))
	if err != nil {
		return err
	}
	for _, f := range made {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		t.addFile(modules+filepath.Base(f), 0o644, data)
	}
	return nil
}

func extract(path string, data *io.SectionReader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(data, 0, data.Size())); err != nil {
		return err
	}
	return f.Close()
}
