package wim

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf16"
)

// loader reads a WIM as wimboot does (src/wim.c of v2.9.0), which knows no image but that of the
// header's boot metadata, no security, no part numbers and no counts: the first entry whose
// name fits, then the first blob whose hash fits.
type loader struct {
	t    *testing.T
	file []byte
}

// resource is an uncompressed resource, as its header says; nothing else of it is read.
func (l loader) resource(at int) []byte {
	size, flags := le64(l.file[at:])&(1<<56-1), l.file[at+7]
	if flags&0x14 != 0 || le64(l.file[at+16:]) != size {
		l.t.Fatalf("the resource at %d is packed, or has two sizes", at)
	}
	return l.file[le64(l.file[at+8:]):][:size]
}

func (l loader) read(path string) []byte {
	metadata, table := l.resource(headerMetadata), l.resource(headerTable)
	at := (uint64(le32(metadata)) + 7) &^ 7
	var entry []byte
	for _, name := range strings.Split(`\`+path, `\`)[1:] {
		if entry == nil {
			at = le64(metadata[at+16:]) // of the root
		}
		for {
			entry = metadata[at:]
			if le64(entry) == 0 {
				l.t.Fatalf("there is no %s", path)
			}
			b := entry[102:][:le16(entry[100:])]
			if strings.EqualFold(string(utf16.Decode(text(b))), name) {
				break
			}
			at += le64(entry)
		}
		at = le64(entry[16:])
	}
	for e := 0; e < len(table); e += 50 {
		if bytes.Equal(table[e+30:e+50], entry[64:84]) {
			size, at := le64(table[e:])&(1<<56-1), le64(table[e+8:])
			return l.file[at:][:size]
		}
	}
	l.t.Fatalf("no blob has the content of %s", path)
	return nil
}

// Loaders that go by the header alone find the order's files, and the system's, in the image that is to boot.
func TestLoadersSeeIt(t *testing.T) {
	setup := files{"Windows/System32/winpeshl.ini": []byte("of the first image"), "Windows/System32/first.txt": []byte("first")}
	base := setup.capture(t, "--compress=none")
	wimlib(t, "append", smallTree().write(t), base, "Setup")
	for image, neighbour := range map[int]string{1: "first.txt", 2: "startnet.cmd"} {
		joined := patched(t, base, image, []Added{{"winpeshl.ini", []byte("new")}, {"a.txt", []byte("added")}})
		b, err := os.ReadFile(joined)
		if err != nil {
			t.Fatal(err)
		}
		l := loader{t, b}
		for path, want := range map[string]string{`Windows\System32\WINPESHL.INI`: "new", `windows\system32\A.TXT`: "added"} {
			if got := l.read(path); string(got) != want {
				t.Errorf("%s of image %d is %q", path, image, got)
			}
		}
		if got := l.read(`Windows\System32\` + neighbour); len(got) == 0 {
			t.Errorf("image %d has an empty %s", image, neighbour)
		}
		if le32(b[headerBoot:]) != uint32(image) {
			t.Errorf("image %d boots", le32(b[headerBoot:]))
		}
	}
}
