package rescue

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"time"
)

// writeCPIO writes the tree as the kernel's initramfs format, "newc" (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst): sorted, inode
// numbers counted, all owned by root, one time for all.
func (t *tree) writeCPIO(w io.Writer, epoch time.Time) error {
	c := &cpioWriter{w: bufio.NewWriterSize(w, 1<<20), time: epoch.Unix()}
	for _, name := range t.names() {
		if err := c.entry(name, t.entries[name]); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
	}
	c.header("TRAILER!!!", 0, 0)
	c.pad(512) // as cpio does; some boot loaders want initrds to be put together at such a boundary
	if c.err == nil {
		c.err = c.w.Flush()
	}
	return c.err
}

type cpioWriter struct {
	w    *bufio.Writer
	time int64
	ino  int
	at   int64
	err  error
}

// File types of st_mode.
const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeLink    = 0o120000
)

func (c *cpioWriter) entry(name string, e *entry) error {
	switch e.head.Typeflag {
	case tar.TypeDir:
		c.header(name, modeDir|e.head.Mode&0o7777, 0)
	case tar.TypeSymlink:
		c.header(name, modeLink|0o777, int64(len(e.head.Linkname)))
		c.write([]byte(e.head.Linkname))
		c.pad(4)
	case tar.TypeReg:
		c.header(name, modeRegular|e.head.Mode&0o7777, e.data.Size())
		n, err := io.Copy(c.w, io.NewSectionReader(e.data, 0, e.data.Size()))
		c.at += n
		if err != nil {
			return err
		}
		c.pad(4)
	default:
		return fmt.Errorf("type %q has no place in the initramfs", e.head.Typeflag)
	}
	return c.err
}

func (c *cpioWriter) header(name string, mode, size int64) {
	c.ino++
	links := 1
	if mode&modeDir != 0 && mode&modeRegular == 0 {
		links = 2
	}
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, links, c.time, size, 0, 0, 0, 0, len(name)+1, 0, name))
	c.pad(4)
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	var n int
	n, c.err = c.w.Write(b)
	c.at += int64(n)
}

func (c *cpioWriter) pad(to int64) {
	if over := c.at % to; over != 0 {
		c.write(make([]byte, to-over))
	}
}
