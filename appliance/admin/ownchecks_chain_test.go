package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// Debian's own signed loaders, then each damaged as a disk or a careless hand does.
func TestChains(t *testing.T) {
	shim, errShim := os.ReadFile("/usr/lib/shim/shimx64.efi.signed")
	grub, errGRUB := os.ReadFile("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed")
	if errShim != nil || errGRUB != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("apt-get install shim-signed grub-efi-amd64-signed")
		}
		t.Skip("apt-get install shim-signed grub-efi-amd64-signed")
	}
	s := newSite(t)
	_, err := s.Images.Add(images.Image{Name: "shim", Kind: images.BootSet}, map[string]io.Reader{
		"shimx64.efi": bytes.NewReader(shim), "grubx64.efi": bytes.NewReader(grub)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.table.Arm("srv01", "rescue", "anna", 0); err != nil {
		t.Fatal(err)
	}
	mac := s.table.Machines()[0].MACs[0]
	s.table.Decide(boot.Client{MAC: mac, Arch: boot.UEFIX64, Program: boot.Firmware})
	h := &service{Server: s.Server}
	expect := func(what, key string) {
		t.Helper()
		found := h.checkChains(context.Background())
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Key == key && f.Text != "" }) {
			t.Errorf("%s: %+v, want %s", what, found, key)
		}
	}
	expect("a kernel that nobody signed", "chain-unsigned")

	dir := filepath.Join(s.Images.Dir, "shim")
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	broken := slices.Clone(grub)
	broken[len(broken)/3] ^= 1
	write("grubx64.efi", broken)
	expect("a flipped bit", "chain-file-changed")

	toml, err := os.ReadFile(filepath.Join(dir, "image.toml"))
	if err != nil {
		t.Fatal(err)
	}
	write("image.toml", bytes.ReplaceAll(toml, sum(grub), sum(broken)))
	expect("a loader that was changed before it was hashed", "chain-signature")

	if err := os.Remove(filepath.Join(dir, "grubx64.efi")); err != nil {
		t.Fatal(err)
	}
	expect("a file that is gone", "chain-file-missing")

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(s.Images.Dir, "ipxe")); err != nil {
		t.Fatal(err)
	}
	expect("no loader at all", "chain-broken")
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return []byte(hex.EncodeToString(s[:]))
}
