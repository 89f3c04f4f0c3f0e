package images

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// installerArgs brings Debian's installer into its rescue mode with as few
// questions as it can do without. What each is for:
//
//   - priority=critical: ask only what nothing works without
//   - locale, keymap, hostname, domain: the questions that are asked even so
//   - interface=auto with BOOTIF: netcfg takes the card that booted, where there are several
//   - netcfg/get_nameservers: asked for where DHCP names no DNS server, unused where it does
//   - consoles: the kernel speaks on both, the installer on the last, serial one;
//     the screen has shells on Alt-F2 and Alt-F3. (The installer would run on
//     both at once, were it not for the word "auto" in the line; without
//     questions the two would trip over each other.)
//
// The rescue mode itself is not in the initrd: the installer fetches it from
// Debian's mirror, so the machine needs a way to the Internet.
const installerArgs = "rescue/enable=true priority=critical locale=en_US.UTF-8 keymap=us " +
	"hostname={{.Machine}} domain=rescue interface=auto BOOTIF={{.BootIF}} netcfg/get_nameservers={{.Host}} " +
	"console=tty0 console=ttyS0,115200n8"

// BootIF is the MAC as PXELINUX passes it on: 01 for Ethernet, and dashes.
func (a Args) BootIF() string { return "01-" + strings.ReplaceAll(a.MAC, ":", "-") }

// Host is the box's address: Server without scheme and port.
func (a Args) Host() string {
	u, err := url.Parse(a.Server)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Netboot is Debian's installer in its rescue mode, from a directory as the
// packages debian-installer-12-netboot-amd64 and the tar archive netboot.tar.gz have it.
func Netboot(name, dir string) (Import, error) {
	kernel, err := netbootKernel(dir)
	if err != nil {
		return Import{}, err
	}
	m, err := Pair{Name: name, Kernel: kernel, Initrd: []string{filepath.Join(filepath.Dir(kernel), "initrd.gz")},
		Cmdline: installerArgs, Up: Served}.Import()
	if err != nil {
		return Import{}, err
	}
	info := versionInfo(dir)
	m.Image.Title = strings.TrimSpace("Debian "+info["Debian version"]) + " installer, rescue mode"
	m.Image.Source = strings.TrimSpace("debian-installer " + info["Installer build"])
	return m, nil
}

// netbootKernel finds the kernel in the directory itself or where the package has
// it: debian-installer/amd64/linux.
func netbootKernel(dir string) (string, error) {
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &Missing{Path: dir, Package: "debian-installer-12-netboot-amd64"}
	}
	if err != nil || !fi.IsDir() {
		return "", fmt.Errorf("%s is no directory: name the installer's netboot directory, or the kernel with --kernel", dir)
	}
	found, _ := filepath.Glob(filepath.Join(escape(dir), "debian-installer", "*", "linux"))
	if direct := filepath.Join(dir, "linux"); len(found) == 0 {
		found, _ = filepath.Glob(escape(direct))
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s is no netboot directory of Debian's installer: neither linux nor debian-installer/*/linux is in it", dir)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s holds the installers of several architectures: name one of %s", dir, strings.Join(dirsOf(found), ", "))
}

// escape makes a path mean itself in a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func dirsOf(paths []string) (dirs []string) {
	for _, path := range paths {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

// versionInfo reads the file version.info beside the installer: "Debian
// version:  12 (bookworm)". It is for people only; none is no error.
func versionInfo(dir string) map[string]string {
	info := make(map[string]string)
	text, err := readHead(filepath.Join(dir, "version.info"), maxText)
	if err != nil {
		return info
	}
	for line := range bytes.Lines(text) {
		if key, value, ok := strings.Cut(string(line), ":"); ok {
			info[strings.TrimSpace(key)] = oneLine(strings.TrimSpace(value))
		}
	}
	return info
}

// newestInstaller finds the installer of the highest Debian version that a
// package has put below root.
func newestInstaller(root string) (string, error) {
	base := filepath.Join(root, "usr/lib/debian-installer/images")
	found, _ := filepath.Glob(filepath.Join(escape(base), "*", "amd64", "text"))
	best, newest := "", -1
	for _, dir := range found {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(dir))))
		if err == nil && version > newest {
			best, newest = dir, version
		}
	}
	if best == "" {
		return "", &Missing{Path: filepath.Join(base, "12/amd64/text"), Package: "debian-installer-12-netboot-amd64"}
	}
	return best, nil
}
