package rescue

import (
	"bytes"
	"context"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/images"
)

// loadersOf is a tree with what the packages bring for an ISO, as random bytes.
func loadersOf(m machine) *tree {
	t := sample("x")
	r := rand.New(rand.NewPCG(1, 2))
	for i, name := range []string{
		"usr/lib/shim/shim" + m.efi + ".efi.signed", "usr/lib/shim/mm" + m.efi + ".efi.signed",
		"usr/lib/grub/" + m.grub + "/gcd" + m.efi + ".efi.signed", biosGRUB, "usr/lib/grub/i386-pc/boot_hybrid.img",
	} {
		data := make([]byte, []int{90_000, 80_000, 300_000, 40_000, 512}[i])
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		t.addFile(name, 0o644, data)
	}
	return t
}

// testISO makes an ISO in a folder of its own, at a time of day of its own.
func testISO(t *testing.T, m machine) (*build, []byte) {
	t.Helper()
	b := &build{Options: Options{Out: t.TempDir(), Log: io.Discard, Epoch: time.Unix(1_790_000_000, 0)}, machine: m, sizes: map[string]int64{}}
	b.work = filepath.Join(b.Out, "work")
	if err := os.Mkdir(b.work, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Kernel, Initrd, Root} {
		if err := os.WriteFile(filepath.Join(b.Out, name), []byte(strings.Repeat("this is "+name+"\n", 5000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.makeISO(context.Background(), loadersOf(m)); err != nil {
		t.Fatal(err)
	}
	iso, err := os.ReadFile(filepath.Join(b.Out, ISO))
	if err != nil {
		t.Fatal(err)
	}
	if b.sizes[ISO] != int64(len(iso)) {
		t.Errorf("size %d noted, %d there", b.sizes[ISO], len(iso))
	}
	return b, iso
}

// What firmware and GRUB find in the ISO, as other programs read it; and the same bytes again.
func TestISO(t *testing.T) {
	for name, m := range map[string]machine{"amd64": amd64, "arm64": arm64} {
		t.Run(name, func(t *testing.T) {
			xorriso, mtype := need(t, "xorriso", "xorriso"), need(t, "mtype", "mtools")
			b, iso := testISO(t, m)
			path := filepath.Join(b.Out, ISO)
			if _, again := testISO(t, m); !bytes.Equal(iso, again) {
				t.Error("built again it has other bytes")
			}
			if end := iso[len(iso)-64<<10:]; !bytes.Equal(end, make([]byte, len(end))) {
				t.Error("a file ends within the last 64 KB, where GRUB reads wrongly from a CD")
			}
			// The kernel, as a reader of ISO 9660 sees it.
			kernel := filepath.Join(t.TempDir(), "kernel")
			if out, err := exec.Command(xorriso, "-osirrox", "on", "-indev", path, "-extract", "/boot/vmlinuz", kernel).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			want, _ := os.ReadFile(filepath.Join(b.Out, Kernel))
			if got, _ := os.ReadFile(kernel); !bytes.Equal(got, want) {
				t.Errorf("a kernel of %d bytes", len(got))
			}
			// El Torito's and the partition table's image for UEFI are one.
			report, err := exec.Command(xorriso, "-indev", path, "-report_el_torito", "plain").Output()
			if err != nil {
				t.Fatal(err)
			}
			second := iso[462:478]
			at := int64(binary.LittleEndian.Uint32(second[8:])) * 512
			if !strings.Contains(string(report), "  UEFI  y") || !strings.Contains(string(report), fmt.Sprintf(" %d\n", at/2048)) ||
				strings.Contains(string(report), "  BIOS  y") != m.bios || second[4] != 0xef || iso[446] != 0x80 || iso[450] != 0 {
				t.Errorf("partition at %d, % x\n%s", at, iso[446:512], report)
			}
			// An order's text over the configuration is what GRUB reads; without it, the default is.
			text := func(content io.Reader) string {
				t.Helper()
				all, err := io.ReadAll(content)
				if err != nil {
					t.Fatal(err)
				}
				disk := filepath.Join(t.TempDir(), "disk")
				if err := os.WriteFile(disk, all, 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(mtype, "-i", fmt.Sprintf("%s@@%d", disk, at), "::/EFI/debian/rescuebox.cfg").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return strings.TrimRight(string(out), "\n")
			}
			if got := text(bytes.NewReader(iso)); !strings.HasPrefix(got, `set rescuebox_args="rescuebox.sha256=`) || !strings.HasSuffix(got, m.consoles+`"`) {
				t.Errorf("default %q", got)
			}
			order := append([]byte(`set rescuebox_args="x"`), bytes.Repeat([]byte("\n"), configSize-22)...)
			patch := images.Patch{At: b.iso.ConfigAt, Data: order}
			if got := text(images.NewOverlay(bytes.NewReader(iso), int64(len(iso)), patch)); got != `set rescuebox_args="x"` {
				t.Errorf("with an order %q", got)
			}
		})
	}
}

func TestLocate(t *testing.T) {
	if at, err := locate([]byte("abcabd"), []byte("abd")); at != 3 || err != nil {
		t.Error(at, err)
	}
	for _, part := range []string{"ab", "x"} {
		if _, err := locate([]byte("abcabd"), []byte(part)); err == nil {
			t.Errorf("%q was found once", part)
		}
	}
}

func TestMachines(t *testing.T) {
	if _, err := machineOf("riscv64"); err == nil || !strings.Contains(err.Error(), "amd64 and arm64") {
		t.Errorf("%v", err)
	}
	if a, b := ImageName("amd64"), ImageName("arm64"); a != "rescue" || b != "rescue-arm64" {
		t.Error(a, b)
	}
	files := arm64.loaderFiles()
	if files["grubaa64.efi"] != "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed" || files["shimaa64.efi"] == "" || files["mmaa64.efi"] == "" {
		t.Errorf("%v", files)
	}
}

// A program without a signature is seen before the image is handed out.
func TestSigned(t *testing.T) {
	program := make([]byte, 512)
	copy(program, "MZ")
	program[0x3c] = 0x40
	copy(program[0x40:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(program[0x44:], pe.IMAGE_FILE_MACHINE_AMD64)
	binary.LittleEndian.PutUint16(program[0x54:], 240) // optional header
	binary.LittleEndian.PutUint16(program[0x58:], 0x20b)
	binary.LittleEndian.PutUint32(program[0x58+108:], 16)
	if signed(program) || signed([]byte("MZ")) || signed(nil) {
		t.Error("signed without a signature")
	}
	binary.LittleEndian.PutUint32(program[0x58+112+4*8+4:], 1000)
	if !signed(program) {
		t.Error("the signature is not seen")
	}
}
