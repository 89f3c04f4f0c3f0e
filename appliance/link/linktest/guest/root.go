package guest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// exitMark comes before the exit code of the guest's script.
const exitMark = "\nguest exit "

// initScript is the guest's first process. The tools of this system come before busybox's of the same
// name, and so the test's script runs by dash: busybox's shell takes its own first, whatever PATH says.
const initScript = `#!/bin/busybox sh
/bin/busybox mkdir -p /bb /bin /proc /sys /dev /run /tmp /root /var/run /var/log /etc/ppp
/bin/busybox --install -s /bb
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/bb HOME=/root TMPDIR=/tmp RESCUEBOX_GUEST=1 CI=true
/bb/ln -sf "$(/bb/which dash)" /bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns
/bin/sh -c 'ip link set lo up'
for m in $(cat /modules.wanted); do /bb/modprobe "$m" || echo "module $m is missing"; done
stty -F /dev/ttyS1 raw
{ dash /script; code=$?; echo; echo "guest exit $code"; } </dev/null >/dev/ttyS1 2>&1
poweroff -f
`

// archive writes an initramfs: cpio in the format "newc" (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w    *bufio.Writer
	seen map[string]bool
	n    int
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeLink = 0o120777
)

func (a *archive) entry(name string, mode int, size int64, content io.Reader) error {
	a.n++
	fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.n, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(110 + len(name) + 1)
	if _, err := io.CopyN(a.w, content, size); err != nil {
		return fmt.Errorf("write %s into the guest's files: %w", name, err)
	}
	a.pad(int(size % 4))
	return nil
}

// pad fills up to a multiple of four.
func (a *archive) pad(n int) { _, _ = a.w.Write(make([]byte, (4-n%4)%4)) } // Flush tells what went wrong

// folder adds a directory and those above it, once.
func (a *archive) folder(name string) error {
	if name == "." || name == "/" || a.seen[name] {
		return nil
	}
	a.seen[name] = true
	if err := a.folder(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name, modeDir, 0, strings.NewReader(""))
}

// text adds a file of a text.
func (a *archive) text(name, content string) error {
	name = strings.TrimPrefix(name, "/")
	if err := a.folder(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name, modeFile, int64(len(content)), strings.NewReader(content))
}

// file adds a file of this system, once.
func (a *archive) file(name, source string) error {
	name = strings.TrimPrefix(name, "/")
	if a.seen[name] {
		return nil
	}
	a.seen[name] = true
	if err := a.folder(path.Dir(name)); err != nil {
		return err
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.entry(name, modeFile, info.Size(), f)
}

// program adds a program with its libraries.
func (a *archive) program(name, source string) error {
	for _, lib := range libraries(source) {
		if err := a.file(lib, lib); err != nil {
			return err
		}
	}
	return a.file(name, source)
}

// writeRoot writes what the guest starts with.
func writeRoot(initrd, kernel string, files map[string]string, script string) error {
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{w: bufio.NewWriterSize(f, 1<<20), seen: map[string]bool{}}
	steps := []func() error{
		func() error { return a.text("init", initScript) },
		func() error { return a.text("script", script) },
		func() error { return a.text("etc/ppp/options", "") },
		func() error { return a.text("etc/passwd", "root:x:0:0:root:/root:/bb/sh\n") },
		func() error { return a.text("etc/group", "root:x:0:\ndialout:x:20:\n") },
		func() error { return a.text("etc/hosts", "127.0.0.1 localhost\n") },
		func() error { return a.busybox() },
		func() error { return a.tools() },
		func() error { return a.modules(kernel) },
	}
	for name, source := range files {
		steps = append(steps, func() error { return a.program(name, source) })
	}
	steps = append(steps, func() error { return a.entry("TRAILER!!!", 0, 0, strings.NewReader("")) }, a.w.Flush, f.Close)
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) busybox() error {
	source, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	return a.program("bin/busybox", source)
}

func (a *archive) tools() error {
	for tool := range tools {
		source, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		if err := a.program(source, source); err != nil {
			return err
		}
	}
	return nil
}

// modules adds the kernel's modules that are wanted, with all they depend on.
func (a *archive) modules(kernel string) error {
	dep, err := os.ReadFile(filepath.Join(kernel, "modules/modules.dep"))
	if err != nil {
		return err
	}
	under := "lib/modules/" + strings.TrimPrefix(filepath.Base(kernel), "linux-image-")
	needs, where := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(string(dep)) {
		file, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[file] = strings.Fields(list)
		where[moduleName(file)] = file
	}
	var kept []string
	for _, m := range modules {
		file, ok := where[m]
		if !ok {
			continue // built in
		}
		kept = append(kept, file+":"+prefixed(needs[file]))
		for _, f := range append([]string{file}, needs[file]...) {
			if f != file {
				kept = append(kept, f+":"+prefixed(needs[f]))
			}
			if err := a.file(path.Join(under, f), filepath.Join(kernel, "modules", f)); err != nil {
				return err
			}
		}
	}
	slices.Sort(kept)
	if err := a.text(path.Join(under, "modules.dep"), strings.Join(slices.Compact(kept), "\n")+"\n"); err != nil {
		return err
	}
	return a.text("modules.wanted", strings.Join(modules, "\n")+"\n")
}

func prefixed(list []string) string { return strings.Join(append([]string{""}, list...), " ") }

// moduleName is a module's name, where - and _ are the same.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}
