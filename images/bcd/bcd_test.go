package bcd

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// walker reads a hive by the offsets of the format's specification, and fails at
// the first thing that is not as it says. What it returns is every value by its path.
type walker struct {
	t    testing.TB
	file []byte
	used map[uint32]bool
	keys uint32
	sk   uint32
	out  map[string]string
}

func read(t testing.TB, file []byte) map[string]string {
	t.Helper()
	w := &walker{t: t, file: file, used: map[uint32]bool{}, out: map[string]string{}}
	w.base()
	w.key(le.Uint32(file[36:]), 0, "")
	w.security()
	w.tile()
	return w.out
}

func (w *walker) want(what string, got, want any) {
	w.t.Helper()
	if got != want {
		w.t.Fatalf("%s is %#x, want %#x", what, got, want)
	}
}

func (w *walker) base() {
	b := w.file
	w.want("signature", string(b[:4]), "regf")
	w.want("sequence numbers", le.Uint32(b[4:]), le.Uint32(b[8:]))
	w.want("version", [4]uint32{le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])}, [4]uint32{1, 3, 0, 1})
	w.want("size of bins", int(le.Uint32(b[40:])), len(b)-4096)
	w.want("size in pages", len(b)%4096, 0)
	w.want("cluster", le.Uint32(b[44:]), uint32(1))
	var sum uint32
	for at := 0; at < 508; at += 4 {
		sum ^= le.Uint32(b[at:])
	}
	w.want("checksum", le.Uint32(b[508:]), sum)
	w.want("bin", string(b[4096:4100]), "hbin")
	w.want("bin's place", le.Uint32(b[4100:]), uint32(0))
	w.want("bin's size", int(le.Uint32(b[4104:])), len(b)-4096)
}

// cell is the payload of a cell in use, each of which belongs to one thing.
func (w *walker) cell(at uint32, signature string) []byte {
	w.t.Helper()
	size := -int32(le.Uint32(w.file[4096+at:]))
	if size < 8 || size%8 != 0 || at%8 != 0 || w.used[at] {
		w.t.Fatalf("cell %#x has size %d, used before: %v", at, size, w.used[at])
	}
	w.used[at] = true
	payload := w.file[4096+at+4 : 4096+at+uint32(size)]
	w.want("signature", string(payload[:len(signature)]), signature)
	return payload
}

func (w *walker) key(at, parent uint32, path string) {
	nk := w.cell(at, "nk")
	name := string(nk[76 : 76+le.Uint16(nk[72:])])
	flags := uint16(0x20)
	if path == "" {
		flags, path = 0x2c, "" // the root's name says nothing
		w.want("root", name, "NewStoreRoot")
	} else {
		path += name
	}
	w.keys++
	w.sk = le.Uint32(nk[44:])
	w.want(path+" flags", le.Uint16(nk[2:]), flags)
	w.want(path+" parent", le.Uint32(nk[16:]), parent)
	w.want(path+" class, volatile", le.Uint64([]byte{nk[32], nk[33], nk[34], nk[35], nk[48], nk[49], nk[50], nk[51]}), uint64(1<<64-1))
	w.values(nk, path)
	n := le.Uint32(nk[20:])
	if n == 0 {
		w.want(path+" list of keys", le.Uint32(nk[28:]), uint32(0xffffffff))
		return
	}
	list := w.cell(le.Uint32(nk[28:]), "lf")
	w.want(path+" keys", uint32(le.Uint16(list[2:])), n)
	last, longest := "", 0
	for ; n > 0; n-- {
		list = list[4:]
		sub := le.Uint32(list)
		subName := string(w.file[4096+sub+4+76:][:le.Uint16(w.file[4096+sub+4+72:])])
		w.want("hint of "+subName, string(list[4:8]), subName[:4])
		if strings.ToUpper(subName) <= last {
			w.t.Fatalf("%s comes after %s", subName, last)
		}
		last, longest = strings.ToUpper(subName), max(longest, 2*len(subName))
		w.key(sub, at, path+"/")
		list = list[4:]
	}
	w.want(path+" longest name", int(le.Uint32(nk[52:])), longest)
}

func (w *walker) values(nk []byte, path string) {
	n := le.Uint32(nk[36:])
	if n == 0 {
		w.want(path+" list of values", le.Uint32(nk[40:]), uint32(0xffffffff))
		return
	}
	list := w.cell(le.Uint32(nk[40:]), "")
	for i := range n {
		vk := w.cell(le.Uint32(list[4*i:]), "vk")
		name := string(vk[20 : 20+le.Uint16(vk[2:])])
		size := le.Uint32(vk[4:])
		data := vk[8:12]
		if size>>31 == 0 {
			if size <= 4 {
				w.t.Fatalf("%s: %d bytes in a cell of their own", path, size)
			}
			data = w.cell(le.Uint32(vk[8:]), "")
		}
		data = data[:size&^(1<<31)]
		w.want(path+" longest value name, largest value", [2]uint32{le.Uint32(nk[60:]), le.Uint32(nk[64:])},
			[2]uint32{uint32(2 * len(name)), uint32(len(data))})
		w.want(path+" name is ASCII", le.Uint16(vk[16:]), uint16(1))
		w.out[path+"/"+name] = fmt.Sprintf("%d:%x", le.Uint32(vk[12:]), data)
	}
}

func (w *walker) security() {
	sk := w.cell(w.sk, "sk")
	w.want("ring of descriptors", [2]uint32{le.Uint32(sk[4:]), le.Uint32(sk[8:])}, [2]uint32{w.sk, w.sk})
	w.want("users of the descriptor", le.Uint32(sk[12:]), w.keys)
	const sd = "01000490" + "48000000" + "58000000" + "00000000" + "14000000" +
		"02003400" + "02000000" + "00021800" + "3f000f00" + "01020000000000052000000020020000" +
		"00021400" + "3f000f00" + "010100000000000512000000" +
		"01020000000000052000000020020000" + "010100000000000512000000"
	w.want("descriptor", hex.EncodeToString(sk[20:20+le.Uint32(sk[16:])]), sd)
}

// tile makes sure that cells lie without a gap, and that what is not used is one free cell at the end.
func (w *walker) tile() {
	at := uint32(32)
	for at < uint32(len(w.file)-4096) {
		size := int32(le.Uint32(w.file[4096+at:]))
		if size > 0 {
			w.want("free cell up to the end", int(at)+int(size), len(w.file)-4096)
			return
		}
		if !w.used[at] {
			w.t.Fatalf("nobody uses the cell at %#x", at)
		}
		at += uint32(-size)
	}
}

func utf16hex(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return hex.EncodeToString(b)
}

func sz(s string) string { return "1:" + utf16hex(s) + "0000" }

const (
	mgr  = "/Objects/{9dea862c-5cdd-4e70-acc1-f32b344d4795}/"
	ram  = "/Objects/{ae5534e0-a924-466c-b836-758539a3ee3a}/"
	ldr  = "/Objects/{7619dcc9-fafe-11d9-b411-000476eba25f}/"
	zero = "00"
)

func zeros(n int) string { return strings.Repeat(zero, n) }

// ramdisk is the device value, field by field, as the facts measured it in a store of
// bcdedit's; total is the number of its bytes.
func ramdisk(path string, total byte) string {
	return "3:" + "e03455ae24a96c46b836758539a3ee3a" +
		zeros(4) + "01000000" + hex.EncodeToString([]byte{total - 0x10}) + zeros(3) + zeros(4) + "03000000" +
		zeros(0x38-0x24) + "01000000" + hex.EncodeToString([]byte{total - 0x38}) + zeros(3) + "05000000" +
		"05000000" + zeros(4) + "48000000" + zeros(0x48-12) + utf16hex(path) + "0000"
}

// elements is what a store of a machine must hold, every value with its type and bytes.
func elements(s Store, winload, description string, total byte) map[string]string {
	want := map[string]string{
		"/Description/KeyName":            sz("BCD00000001"),
		mgr + "Description/Type":          "4:02001010",
		mgr + "Elements/12000004/Element": sz("Windows Boot Manager"),
		mgr + "Elements/12000005/Element": sz("en-US"),
		mgr + "Elements/23000003/Element": sz("{7619dcc9-fafe-11d9-b411-000476eba25f}"),
		mgr + "Elements/24000001/Element": "7:" + utf16hex("{7619dcc9-fafe-11d9-b411-000476eba25f}") + zeros(4),
		mgr + "Elements/25000004/Element": "3:" + zeros(8),
		mgr + "Elements/26000020/Element": "3:00",
		ram + "Description/Type":          "4:00000030",
		ram + "Elements/31000003/Element": "3:" + zeros(16) + "05000000" + zeros(4) + "48000000" + zeros(0x48-12),
		ram + "Elements/32000004/Element": sz(s.SDI),
		ldr + "Description/Type":          "4:03002010",
		ldr + "Elements/11000001/Element": ramdisk(s.WIM, total),
		ldr + "Elements/12000002/Element": sz(winload),
		ldr + "Elements/12000004/Element": sz(description),
		ldr + "Elements/21000001/Element": ramdisk(s.WIM, total),
		ldr + "Elements/22000002/Element": sz(`\windows`),
		ldr + "Elements/26000010/Element": "3:01",
		ldr + "Elements/26000022/Element": "3:01",
	}
	return want
}

func TestStore(t *testing.T) {
	bios := Store{WIM: `\Boot\boot.wim`, SDI: `\Boot\boot.sdi`}
	uefi := Store{EFI: true, Loader: `\windows\system32\winload.efi`, WIM: `\boot\525400123456\boot.wim`, SDI: `\boot\525400123456\boot.sdi`,
		BlockSize: 1456, Window: 8, VariableWindow: true, LoadOptions: "RB=0A1B2C", Description: "Спасение 🛟"}
	full := elements(uefi, uefi.Loader, uefi.Description, 0x8c+56)
	full[ram+"Elements/35000007/Element"] = "3:b005" + zeros(6)
	full[ram+"Elements/35000008/Element"] = "3:08" + zeros(7)
	full[ram+"Elements/3600000b/Element"] = "3:01"
	full[ldr+"Elements/12000030/Element"] = sz("RB=0A1B2C")
	for name, c := range map[string]struct {
		store Store
		want  map[string]string
	}{
		"BIOS": {bios, elements(bios, `\windows\system32\boot\winload.exe`, "Windows PE", 170)}, // 170: facts' example
		"UEFI": {uefi, full},
	} {
		if err := c.store.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file := c.store.Bytes()
		if diff := cmp.Diff(c.want, read(t, file)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if len(file) != 12288 || !bytes.Equal(file, c.store.Bytes()) {
			t.Errorf("%s: %d bytes, and not the same each time", name, len(file))
		}
	}
	uefi.Loader, uefi.BlockSize = "", 65464
	got := read(t, uefi.Bytes())
	if got[ldr+"Elements/12000002/Element"] != sz(`\windows\system32\boot\winload.efi`) || got[ram+"Elements/35000007/Element"] != "3:b8ff"+zeros(6) {
		t.Errorf("default loader for UEFI, largest block: %v", got)
	}
}

// A store of more than one page, and the longest that is allowed.
func TestLongStore(t *testing.T) {
	long := Store{WIM: `\` + strings.Repeat("w", 126), SDI: `\` + strings.Repeat("s", 126),
		Loader: `\` + strings.Repeat("l", 250) + ".exe", LoadOptions: strings.Repeat("O", 1024), Description: strings.Repeat("я", 512)}
	if err := long.Check(); err != nil {
		t.Fatal(err)
	}
	got := read(t, long.Bytes())
	for path, want := range map[string]string{
		ldr + "Elements/12000030/Element": sz(long.LoadOptions), ldr + "Elements/12000004/Element": sz(long.Description),
		ldr + "Elements/12000002/Element": sz(long.Loader), ram + "Elements/32000004/Element": sz(long.SDI),
	} {
		if got[path] != want {
			t.Errorf("%s: %s", path, got[path])
		}
	}
	device, err := hex.DecodeString(got[ldr+"Elements/11000001/Element"][2:])
	if err != nil || int(le.Uint32(device[0x18:])) != len(device)-0x10 || int(le.Uint32(device[0x3c:])) != len(device)-0x38 || len(device) != 0x8c+2*128 {
		t.Errorf("device of %d bytes: %x, %v", len(device), device, err)
	}
}

func TestCheck(t *testing.T) {
	good := Store{WIM: `\boot\boot.wim`, SDI: `\boot\boot.sdi`, Loader: `\Windows\System32\WINLOAD.EXE`}
	for want, change := range map[string]func(*Store){
		"":                                   func(*Store) {},
		"path of the WIM: it is missing":     func(s *Store) { s.WIM = "" },
		"(boot.sdi): it is missing":          func(s *Store) { s.SDI = "" },
		"not written with backslashes":       func(s *Store) { s.WIM = "boot/boot.wim" },
		`"\\boot/x" is not written`:          func(s *Store) { s.SDI = `\boot/x` },
		"other characters than printable AS": func(s *Store) { s.WIM = `\boot\спасение.wim` },
		`"\\a\x00b" holds other characters`:  func(s *Store) { s.SDI = "\\a\x00b" },
		"longer than 127 characters":         func(s *Store) { s.WIM = `\` + strings.Repeat("a", 127) },
		"longer than 255 characters":         func(s *Store) { s.Loader = `\` + strings.Repeat("a", 255) },
		"is no loader for this firmware":     func(s *Store) { s.EFI = true },
		"block size 7 is not":                func(s *Store) { s.BlockSize = 7 },
		"block size 65465 is not":            func(s *Store) { s.BlockSize = 65465 },
		"window 65536 is not":                func(s *Store) { s.Window = 65536 },
		"window -1 is not":                   func(s *Store) { s.Window = -1 },
		"load options are":                   func(s *Store) { s.LoadOptions = "a\nb" },
		"load options are at most":           func(s *Store) { s.LoadOptions = strings.Repeat("a", 1025) },
		"a description is":                   func(s *Store) { s.Description = "a\x1b[2J" },
	} {
		s := good
		change(&s)
		if err := s.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// dump is every value by its path, and what stands for all the bytes.
func dump(t testing.TB, file []byte) string {
	var b strings.Builder
	values := read(t, file)
	for _, path := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s %s\n", path, values[path])
	}
	fmt.Fprintf(&b, "%d bytes, SHA-256 %x\n", len(file), sha256.Sum256(file))
	return b.String()
}

// The whole store as text, so that a change is seen. UPDATE_GOLDEN=1 writes it anew.
func TestGolden(t *testing.T) {
	for name, s := range map[string]Store{"bios": {WIM: `\boot\525400123456\boot.wim`, SDI: `\boot\525400123456\boot.sdi`, BlockSize: 1456, Window: 4},
		"uefi": {EFI: true, WIM: `\boot\525400123456\boot.wim`, SDI: `\boot\525400123456\boot.sdi`, BlockSize: 1456, Window: 4, VariableWindow: true, LoadOptions: "RESCUEBOX=0A"}} {
		path := filepath.Join("testdata", name+".txt")
		got := dump(t, s.Bytes())
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != got {
			t.Errorf("%s, %v (-want +got):\n%s", name, err, cmp.Diff(string(want), got))
		}
	}
}

func FuzzStore(f *testing.F) {
	f.Add(`\boot\boot.wim`, `\boot\boot.sdi`, "", "opt", 1456, 4, true)
	f.Add("", "\xff", `\x.efi`, "я\x00", -1, 1<<20, false)
	f.Fuzz(func(t *testing.T, wim, sdi, winload, options string, block, window int, efi bool) {
		s := Store{EFI: efi, Loader: winload, WIM: wim, SDI: sdi, BlockSize: block, Window: window, LoadOptions: options}
		got := read(t, s.Bytes())
		if s.Check() == nil && (got[ram+"Elements/32000004/Element"] != sz(sdi) || !strings.HasSuffix(got[ldr+"Elements/11000001/Element"], sz(wim)[2:])) {
			t.Errorf("%+v is read back as %v", s, got)
		}
	})
}
