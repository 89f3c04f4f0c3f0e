package rescue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"rescuebox/images"
)

// ISO is the image as one file that firmware starts as a whole: by UEFI HTTP
// Boot, which makes a RAM disk of it, as virtual media of a BMC, or from a stick.
//
//	sector 0      boot record for sticks: BIOS code, and a partition table that names
//	              the FAT image, for UEFI
//	efi.img       FAT, named by El Torito for UEFI: shim, GRUB, and the configuration
//	              in which the order's kernel arguments go
//	boot/…        GRUB for BIOS, named by El Torito; kernel, initramfs
//
// All of it fits into what firmware keeps as a RAM disk. The root file system is not in it: the
// initramfs fetches it from the box, as with every other chain.
const ISO = "rescue.iso"

// configSize is the room for the order's kernel arguments: the kernel takes 2,048 bytes.
const configSize = 4096

// biosGRUB is GRUB for BIOS as Debian's own tool makes it from the packages.
const biosGRUB = "boot/rescuebox-bios.img"

// biosHook makes GRUB for BIOS while the packages are still a system: its tool is
// then of the same version as its modules.
func (b *build) biosHook() []string {
	if !b.machine.bios {
		return nil
	}
	const modules = "biosdisk iso9660 part_msdos fat loopback linux normal configfile search search_fs_file echo sleep reboot"
	return []string{`--customize-hook=chroot "$1" grub-mkimage -O i386-pc-eltorito -p /boot/grub -o /` + biosGRUB + " " + modules}
}

// makeISO puts kernel, initramfs and loaders together. Its id names the content, so that
// GRUB finds this kernel and no other: not that of an old stick which is still plugged in.
func (b *build) makeISO(ctx context.Context, all *tree) error {
	root, id, err := b.isoID()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.work, "iso")
	config := b.isoConfig(root)
	if err := b.efiImage(ctx, all, filepath.Join(dir, "efi.img"), id, config); err != nil {
		return err
	}
	// Where the firmware shows the disk as a CD, GRUB takes the whole of it for the
	// volume that it came from, and looks for its configuration here.
	whole := []byte("loopback efi /efi.img\nsource (efi)/EFI/debian/rescuebox.cfg\n" + bootCommands(id))
	files := map[string][]byte{"boot/" + id: nil, "EFI/debian/grub.cfg": whole, "boot/grub/grub.cfg": whole}
	if b.machine.bios {
		if files["boot/bios.img"], err = all.read(biosGRUB); err != nil {
			return err
		}
	}
	for _, name := range []string{Kernel, Initrd} {
		if files["boot/"+name], err = os.ReadFile(filepath.Join(b.Out, name)); err != nil {
			return err
		}
	}
	if err := writeAll(dir, files); err != nil {
		return err
	}
	if err := b.xorriso(ctx, all, dir); err != nil {
		return err
	}
	return b.finishISO(config, filepath.Join(dir, "efi.img"))
}

// isoID is the sum of the root, and one over all that the ISO starts.
func (b *build) isoID() (root, id string, err error) {
	var sums []string
	for _, name := range []string{Root, Kernel, Initrd} {
		sum, err := fileSum(filepath.Join(b.Out, name))
		if err != nil {
			return "", "", err
		}
		sums = append(sums, sum)
	}
	return sums[0], textSum(strings.Join(sums, " "))[:16], nil
}

// isoConfig is the text at the place where an order's goes: as it is, the rescue system
// asks the DHCP server's address for its root, and reports without a token.
func (b *build) isoConfig(root string) []byte {
	text := fmt.Sprintf("set rescuebox_args=\"rescuebox.sha256=%s %s\"\n", root, b.machine.consoles)
	return append([]byte(text), bytes.Repeat([]byte("\n"), configSize-len(text))...)
}

// bootCommands start the kernel; GRUB has read the configuration before. A
// disk that cannot be read gets no menu and no prompt: the machine starts anew.
func bootCommands(id string) string {
	return "search --no-floppy --file --set=root /boot/" + id + "\n" +
		"linux /boot/" + Kernel + " $rescuebox_args\n" +
		"initrd /boot/" + Initrd + "\n" +
		"boot\n" +
		"echo \"This rescue system cannot be started. The machine restarts in one minute.\"\nsleep 60\nreboot\n"
}

// efiImage makes the FAT image. shim starts grubx64.efi beside it; GRUB's image for
// CDs reads /EFI/debian/grub.cfg of the volume that it came from.
func (b *build) efiImage(ctx context.Context, all *tree, path, id string, config []byte) error {
	m := b.machine
	files := map[string][]byte{
		"EFI/debian/grub.cfg":      []byte("source $prefix/rescuebox.cfg\n" + bootCommands(id)),
		"EFI/debian/rescuebox.cfg": config,
	}
	for name, from := range map[string]string{
		"EFI/BOOT/BOOT" + strings.ToUpper(m.efi) + ".EFI": "usr/lib/shim/shim" + m.efi + ".efi.signed",
		"EFI/BOOT/grub" + m.efi + ".efi":                  "usr/lib/grub/" + m.grub + "/gcd" + m.efi + ".efi.signed",
		"EFI/BOOT/mm" + m.efi + ".efi":                    "usr/lib/shim/mm" + m.efi + ".efi.signed",
	} {
		data, err := all.read(from)
		if err != nil {
			return err
		}
		files[name] = data
	}
	var size int64
	for _, data := range files {
		size += int64(len(data))
	}
	dir := filepath.Join(b.work, "efi")
	if err := errors.Join(writeAll(dir, files), os.MkdirAll(filepath.Dir(path), 0o755), b.setTimes(dir)); err != nil {
		return err
	}
	// Room for the tables of the FAT, in whole tracks of 64 sectors.
	sectors := (size/512 + 1024) / 64 * 64
	if err := b.tool(ctx, "mformat", "-i", path, "-C", "-T", fmt.Sprint(sectors), "-h", "16", "-s", "64",
		"-c", "8", "-N", id[:8], "-v", "RESCUEBOX", "::"); err != nil {
		return err
	}
	return b.tool(ctx, "mcopy", "-i", path, "-s", "-m", "-Q", filepath.Join(dir, "EFI"), "::")
}

// xorriso makes the ISO from a folder. The padding is for GRUB on BIOS: it reads CDs
// in blocks of 64 KB, and where one goes beyond the end of the disk it takes what was
// in memory for the end of the last file (seen with SeaBIOS: a kernel with a wrong sum).
func (b *build) xorriso(ctx context.Context, all *tree, dir string) error {
	args := []string{"-as", "mkisofs", "-quiet", "-o", b.temp(ISO), "-R", "-iso-level", "3", "-V", "RESCUEBOX", "-pad",
		"-partition_offset", "0"}
	if b.machine.bios {
		record, err := all.read("usr/lib/grub/i386-pc/boot_hybrid.img")
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.temp("record"), record, 0o600); err != nil {
			return err
		}
		args = append(args, "-b", "boot/bios.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
			"--grub2-boot-info", "--grub2-mbr", b.temp("record"), "-eltorito-alt-boot")
	}
	args = append(args, "-e", "efi.img", "-no-emul-boot", dir)
	if err := b.setTimes(dir); err != nil {
		return err
	}
	return b.tool(ctx, "xorriso", args...)
}

// tool runs a program that takes the time of what it writes from the environment.
func (b *build) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Epoch.Unix()), "TZ=UTC", "MTOOLSRC=/dev/null")
	return b.command(cmd)
}

// setTimes gives all files in a folder the image's time.
func (b *build) setTimes(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, b.Epoch, b.Epoch)
	})
}

// finishISO writes the partition table, and notes where the configuration lies.
func (b *build) finishISO(config []byte, efiImage string) error {
	data, err := os.ReadFile(b.temp(ISO))
	if err != nil {
		return err
	}
	efi, err := os.ReadFile(efiImage)
	if err != nil {
		return err
	}
	efiAt, err := locate(data, efi)
	if err != nil {
		return err
	}
	at, err := locate(data, config)
	if err != nil {
		return err
	}
	b.iso = &images.ISO{File: ISO, ConfigAt: at, ConfigSize: configSize}
	partitionTable(data, efiAt, int64(len(efi)))
	return b.write(ISO, data)
}

// locate finds where one content lies in another: in one piece, and once.
func locate(data, part []byte) (int64, error) {
	at := bytes.Index(data, part)
	if at < 0 || bytes.Contains(data[at+1:], part) {
		return 0, errors.New("make the ISO: a file of it does not lie in one piece")
	}
	return int64(at), nil
}

// partitionTable makes a stick of an ISO. The FAT image is a partition of UEFI's
// type. An active one stands before it, because some BIOSes start no
// disk without; its type is 0 ("not used"), because UEFI takes no table whose
// partitions overlap, and this one goes over all.
func partitionTable(iso []byte, efiAt, efiSize int64) {
	const sector, first = 512, 446
	entry := func(i int, flag, kind byte, at, size int64) {
		e := iso[first+16*i : first+16*(i+1)]
		copy(e, []byte{flag, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff}) // CHS: "too far, use LBA"
		binary.LittleEndian.PutUint32(e[8:], uint32(at/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(size/sector))
	}
	entry(0, 0x80, 0, 0, int64(len(iso)))
	entry(1, 0, 0xef, efiAt, efiSize)
	iso[510], iso[511] = 0x55, 0xaa
}

func writeAll(dir string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func textSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
