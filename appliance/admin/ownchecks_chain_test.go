package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// Debian's own signed loaders, then each damaged as a disk or a careless hand does.
func TestChains(t *testing.T) {
	shim, errShim := os.ReadFile("/usr/lib/shim/shimx64.efi.signed")
	grub, errGRUB := os.ReadFile("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed")
	if errShim != nil || errGRUB != nil {
		missing(t, "shim-signed grub-efi-amd64-signed")
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

// A kernel of one's own behind Debian's loaders: shim lets GRUB start only what Debian has signed.
func TestChainSignersDiffer(t *testing.T) {
	for tool, pkg := range map[string]string{"sbsign": "sbsigntool", "openssl": "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, pkg)
		}
	}
	var files [3][]byte
	for i, name := range []string{"/usr/lib/shim/shimx64.efi.signed", "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "/usr/lib/ipxe/snponly.efi"} {
		var err error
		if files[i], err = os.ReadFile(name); err != nil {
			missing(t, "shim-signed grub-efi-amd64-signed ipxe")
		}
	}
	dir := t.TempDir()
	unsigned, signed := filepath.Join(dir, "unsigned"), filepath.Join(dir, "signed")
	if err := os.WriteFile(unsigned, files[2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Another Vendor/", "-days", "3650", "-keyout", dir + "/key", "-out", dir + "/crt"},
		{"sbsign", "--key", dir + "/key", "--cert", dir + "/crt", "--output", signed, unsigned}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	kernel, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	add := func(i images.Image, files map[string][]byte) {
		content := map[string]io.Reader{}
		for name, b := range files {
			content[name] = bytes.NewReader(b)
		}
		if _, err := s.Images.Add(i, content); err != nil {
			t.Fatal(err)
		}
	}
	add(images.Image{Name: "shim", Kind: images.BootSet}, map[string][]byte{"shimx64.efi": files[0], "grubx64.efi": files[1]})
	add(images.Image{Name: "own", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Served}, map[string][]byte{"vmlinuz": kernel})
	if _, err := s.table.Arm("srv01", "own", "anna", 0); err != nil {
		t.Fatal(err)
	}
	s.table.Decide(boot.Client{MAC: s.table.Machines()[0].MACs[0], Arch: boot.UEFIX64, Program: boot.Firmware})
	found := (&service{Server: s.Server}).checkChains(t.Context())
	if len(found) != 1 || found[0].Key != "chain-signers-differ" || !strings.Contains(found[0].Text, "Another Vendor") || found[0].Hint == "" {
		t.Errorf("%+v", found)
	}
}

// missing skips a test whose packages are missing; CI must have them.
func missing(t *testing.T, packages string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("apt-get install " + packages)
	}
	t.Skip("apt-get install " + packages)
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return []byte(hex.EncodeToString(s[:]))
}
