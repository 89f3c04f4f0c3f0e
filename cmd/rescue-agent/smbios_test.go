package main

import (
	"strings"
	"testing"
)

// table is a BIOS's structure, one with the system's, and the end.
func table() []byte {
	system := "\x01\x1b\x01\x00\x01\x02\x00\x03" + "\x44\x45\x4c\x4c\x42\x00\x10\x35\x80\x54\xb4\xc0\x4f\x56\x44\x32" + "\x06\x00\x00"
	return []byte("\x00\x02\x08\x00\x50\x00\x00\x00" +
		"\x00\x05\x00\x00\x01" + "Dell\x00\x00" + system + "Dell Inc.\x00PowerEdge\x00CZ1234 \x00\x00" + "\x7f\x04\x02\x00\x00\x00")
}

func TestSMBIOS(t *testing.T) {
	serial, uuid := smbios(table())
	if serial != "CZ1234" || uuid != "4c4c4544-0042-3510-8054-b4c04f564432" {
		t.Errorf("%q, %q", serial, uuid)
	}
	none := []byte(strings.Replace(string(table()), string(table()[27:43]), strings.Repeat("\xff", 16), 1))
	if _, uuid := smbios(none); uuid != "" {
		t.Errorf("a UUID that is none: %s", uuid)
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(table())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if serial, uuid := smbios(raw); serial != printable(serial) || len(uuid) != 36 && uuid != "" {
			t.Errorf("%q, %q", serial, uuid)
		}
	})
}
