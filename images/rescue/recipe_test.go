package rescue

import (
	"slices"
	"strings"
	"testing"
	"time"

	"rescuebox/images"
)

func TestPatterns(t *testing.T) {
	p := patterns{"doc/*", "!doc/*/copyright", "a*b*c", "exact"}
	for name, want := range map[string]bool{
		"doc/bash/README": true, "doc/bash/copyright": false, "doc": false, "docs/x": false,
		"abc": true, "a/x/b/y/c": true, "ab": false, "exact": true, "exact/x": false, "aXc": false,
	} {
		if got := p.match(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzWildcard checks the matcher against a slow one that follows the definition.
func FuzzWildcard(f *testing.F) {
	f.Add("a*b", "axb")
	f.Add("*", "")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 12 {
			return
		}
		if got := wildcard(pattern, name); got != slowly(pattern, name) {
			t.Errorf("%q matches %q: %v", pattern, name, got)
		}
	})
}

func slowly(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	if pattern[0] != '*' {
		return name != "" && name[0] == pattern[0] && slowly(pattern[1:], name[1:])
	}
	for i := range len(name) + 1 {
		if slowly(pattern[1:], name[i:]) {
			return true
		}
	}
	return false
}

// What the issue asks to be in the image is asked of Debian, for both architectures.
func TestPackages(t *testing.T) {
	want := strings.Fields(`smartmontools mdadm lvm2 cryptsetup-bin gddrescue testdisk ntfs-3g chntpw parted gdisk e2fsprogs
		xfsprogs btrfs-progs efibootmgr grub2-common ipmitool nvme-cli lshw dmidecode ethtool tcpdump mtr-tiny curl rsync
		tmux vim-tiny openssh-server mokutil`)
	for arch, own := range map[string][]string{
		"amd64": {"linux-image-amd64", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed"},
		"arm64": {"linux-image-arm64", "grub-efi-arm64-bin", "grub-efi-arm64-signed", "shim-signed"},
	} {
		got, err := packages(arch)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(own, want...) {
			if !slices.Contains(got, name) {
				t.Errorf("%s: no package %s", arch, name)
			}
		}
		if slices.ContainsFunc(got, func(s string) bool { return strings.ContainsAny(s, " []") }) {
			t.Errorf("%s: %q", arch, got)
		}
	}
	if arm, _ := packages("arm64"); slices.Contains(arm, "grub-pc-bin") {
		t.Error("arm64 has no BIOS")
	}
}

func TestRecipeFiles(t *testing.T) {
	r := &tree{entries: map[string]*entry{}}
	if err := addRecipe(r, "root"); err != nil {
		t.Fatal(err)
	}
	if err := addLinks(r); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]int64{"usr/lib/rescuebox/resolv-conf": 0o755, "etc/motd": 0o644} {
		if e := r.entries[name]; e == nil || e.head.Mode != mode {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if e := r.entries["etc/systemd/system/smartmontools.service"]; e == nil || e.head.Linkname != "/dev/null" {
		t.Errorf("smartd would test the disks of the patient: %+v", e)
	}
	sshd, err := r.read("etc/ssh/sshd_config.d/rescuebox.conf")
	if err != nil || !strings.Contains(string(sshd), "\nPasswordAuthentication no\n") {
		t.Errorf("sshd takes passwords: %s %v", sshd, err)
	}
}

// The token and the hash reach the kernel; BOOTIF is written as PXELINUX writes it.
func TestCommandLine(t *testing.T) {
	i := images.Image{Cmdline: cmdline + amd64.consoles}
	got, err := i.CommandLine(images.Args{
		Machine: "srv01", MAC: "52:54:00:12:34:56", Token: "secret", Server: "http://192.168.77.1",
		URL: "http://192.168.77.1/boot/525400123456", SHA256: map[string]string{Root: "abcd"},
	})
	want := "rescuebox.url=http://192.168.77.1/boot/525400123456/root.squashfs rescuebox.sha256=abcd " +
		"rescuebox.server=http://192.168.77.1 rescuebox.token=secret rescuebox.machine=srv01 " +
		"BOOTIF=01-52-54-00-12-34-56 console=tty0 console=ttyS0,115200n8 loglevel=4 panic=60"
	if err != nil || got != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
}

func TestManifest(t *testing.T) {
	const status = `Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.2.13.dfsg-1)
Version: 1:1.2.13.dfsg-1+b1
Description: library
 Version: not this

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7

Package: gone
Status: deinstall ok config-files
Version: 1
`
	want := "bash 5.2.15-2+b7 amd64 source bash 5.2.15-2+b7\n" +
		"zlib1g 1:1.2.13.dfsg-1+b1 amd64 source zlib 1:1.2.13.dfsg-1\n"
	if got := manifest([]byte(status)); got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
}

func TestPasswordDates(t *testing.T) {
	r := sample("x")
	r.addFile("etc/shadow", 0o640, []byte("root:*:20414:0:99999:7:::\nsshd:!:20414::::::\n"))
	r.entries["etc/shadow"].head.Gid = 42
	if err := passwordDates(r, time.Unix(86400*20000+5, 0)); err != nil {
		t.Fatal(err)
	}
	got, _ := r.read("etc/shadow")
	if string(got) != "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n" || r.entries["etc/shadow"].head.Gid != 42 {
		t.Errorf("%s %+v", got, r.entries["etc/shadow"].head)
	}
}
