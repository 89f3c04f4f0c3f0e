package images

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readPE is ReadPE of a file.
func readPE(t testing.TB, path string) (PE, error) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return ReadPE(bytes.NewReader(content), int64(len(content)))
}

// needFile skips where a package is not installed, which must not happen in CI.
func needFile(t testing.TB, path, pkg string) string {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	miss(t, path+" is not there: apt-get install "+pkg)
	return ""
}

func needTool(t testing.TB, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		miss(t, name+" is not there: apt-get install "+pkg)
	}
}

func miss(t testing.TB, text string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

const (
	debianShim = "/usr/lib/shim/shimx64.efi.signed"
	debianMM   = "/usr/lib/shim/mmx64.efi.signed"
	debianGRUB = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
	unsigned   = "/usr/lib/ipxe/snponly.efi" // an unsigned program
)

// The programs that Debian has had signed, as sbverify sees them.
func TestReadPEDebian(t *testing.T) {
	needTool(t, "sbverify", "sbsigntool")
	for path, want := range map[string]struct {
		pkg     string
		signers []string
	}{
		debianShim: {"shim-signed", []string{MicrosoftUEFI2011, MicrosoftUEFI2023}},
		debianMM:   {"shim-helpers-amd64-signed", []string{DebianSecureBoot}},
		debianGRUB: {"grub-efi-amd64-signed", []string{DebianSecureBoot}},
		unsigned:   {"ipxe", nil},
	} {
		p, err := readPE(t, needFile(t, path, want.pkg))
		if err != nil || !p.EFI || p.Arch != "amd64" {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
		if diff := cmp.Diff(want.signers, p.signers()); diff != "" {
			t.Errorf("%s: signers (-want +got):\n%s%+v", path, diff, p)
		}
		out, _ := exec.Command("sbverify", "--list", path).Output()
		var theirs []string
		for _, m := range regexp.MustCompile(`image signature issuers:\n - .*/CN=(.*)`).FindAllStringSubmatch(string(out), -1) {
			theirs = append(theirs, strings.Replace(m[1], "Microsoft Corporation UEFI", "Microsoft UEFI", 1))
		}
		if diff := cmp.Diff(theirs, p.signers()); diff != "" {
			t.Errorf("%s: signers (-sbverify +ours):\n%s", path, diff)
		}
	}
}

// Any byte that a signature covers makes it unfit; those that it cannot cover do not.
func TestReadPEFlippedByte(t *testing.T) {
	content, err := os.ReadFile(needFile(t, debianGRUB, "grub-efi-amd64-signed"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := readPEHeader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		at  int64
		fit bool
	}{
		"DOS stub":            {0x45, false},
		"checksum":            {f.checksum, true},
		"first section":       {f.headers + 100, false},
		"last byte":           {f.certs.at - 1, false},
		"signed attributes":   {f.certs.at + f.certs.size - 350, false},
		"the signature value": {f.certs.at + f.certs.size - 100, false},
	} {
		changed := bytes.Clone(content)
		changed[c.at] ^= 1
		p, err := ReadPE(bytes.NewReader(changed), int64(len(changed)))
		if err != nil || len(p.Signatures) != 1 {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		if got := p.Signatures[0].Err; (got == nil) != c.fit || (!c.fit && !errors.Is(got, ErrUnfit)) || (len(p.signers()) == 1) != c.fit {
			t.Errorf("%s changed: %v, signers %v", name, got, p.signers())
		}
	}
	forgery := bytes.Clone(content)
	forgery[f.headers+100] ^= 1
	if p, err := ReadPE(withDigest(t, f, forgery)); err != nil || len(p.signers()) != 0 || !errors.Is(p.Signatures[0].Err, ErrUnfit) {
		t.Errorf("changed, and the digest in the signature with it: %+v, %v", p, err)
	}
	short := content[:len(content)-1000]
	if p, err := ReadPE(bytes.NewReader(short), int64(len(short))); !errors.Is(err, ErrUnfit) || p.Arch != "amd64" {
		t.Errorf("cut off: %+v, %v", p, err)
	}
}

// withDigest puts the digest of a changed file where its signature has the old one.
func withDigest(t testing.TB, signed *peFile, changed []byte) (*bytes.Reader, int64) {
	t.Helper()
	was, err := signed.digest(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	f := *signed
	f.r = bytes.NewReader(changed)
	is, err := f.digest(crypto.SHA256)
	if err != nil || bytes.Equal(was, is) || bytes.Count(changed, was) != 1 {
		t.Fatal("the digest is not to be found", err)
	}
	changed = bytes.Replace(changed, was, is, 1)
	return bytes.NewReader(changed), int64(len(changed))
}

// testKey makes a key and certificate with OpenSSL, signed by another if that is named.
func testKey(t testing.TB, dir, name, cn, by string) {
	t.Helper()
	args := []string{"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "30", "-subj", "/CN=" + cn,
		"-keyout", filepath.Join(dir, name+".key"), "-out", filepath.Join(dir, name+".crt")}
	if by != "" {
		args = append(args, "-CA", filepath.Join(dir, by+".crt"), "-CAkey", filepath.Join(dir, by+".key"))
	}
	command(t, "openssl", args...)
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// sbsign signs a program; signing a signed one appends a second signature.
func sbsign(t testing.TB, dir, key, from, to string) {
	t.Helper()
	command(t, "sbsign", "--key", filepath.Join(dir, key+".key"), "--cert", filepath.Join(dir, key+".crt"), "--output", to, from)
}

// pretenders are names under which an own key would pass for an authority.
var pretenders = []string{"Microsoft UEFI CA 2011", "Debian Secure Boot CA", "debian secure  boot ca", "Microsoft Corporation UEFI CA 2011"}

// Own keys: as sbsign and osslsigncode use them, beside another's signature, and inside one.
func TestReadPEOwnKeys(t *testing.T) {
	needTool(t, "sbsign", "sbsigntool")
	needTool(t, "osslsigncode", "osslsigncode")
	needTool(t, "openssl", "openssl")
	needFile(t, unsigned, "ipxe")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	testKey(t, dir, "own", "Own Key", "")
	testKey(t, dir, "ca", "Own CA", "")
	testKey(t, dir, "leaf", "Own Signer", "ca")
	testKey(t, dir, "fake", "Microsoft UEFI CA 2023", "")
	testKey(t, dir, "forged", "Microsoft UEFI CA 2023 signer", "fake")
	for n, cn := range pretenders {
		testKey(t, dir, fmt.Sprint("as", n), cn, "")
		sbsign(t, dir, fmt.Sprint("as", n), unsigned, in(fmt.Sprintf("as%d.efi", n)))
	}
	testKey(t, dir, "windows", "Windows UEFI CA 2023", "")
	testKey(t, dir, "unproven", "Windows 12", "windows")
	sbsign(t, dir, "unproven", unsigned, in("unproven.efi"))
	ossl := func(key, from, to string, more ...string) {
		command(t, "osslsigncode", append([]string{"sign", "-h", "sha256", "-certs", in(key + ".crt"), "-key", in(key + ".key"), "-in", from, "-out", to}, more...)...)
	}
	sbsign(t, dir, "own", unsigned, in("own.efi"))
	sbsign(t, dir, "leaf", in("own.efi"), in("two.efi"))
	ossl("leaf", unsigned, in("ossl.efi"))
	ossl("own", in("ossl.efi"), in("nested.efi"), "-nest")
	sbsign(t, dir, "forged", unsigned, in("forged.efi"))
	command(t, "sbsign", "--key", in("forged.key"), "--cert", in("forged.crt"), "--addcert", in("fake.crt"), "--output", in("brought.efi"), unsigned)

	for name, want := range map[string][]Signature{
		"own.efi":  {{Signer: "Own Key", Issuer: "Own Key"}},
		"two.efi":  {{Signer: "Own Key", Issuer: "Own Key"}, {Signer: "Own Signer", Issuer: "Own CA"}},
		"ossl.efi": {{Signer: "Own Signer", Issuer: "Own CA"}},
		// The certificate with which this would prove itself is neither in the signature nor here.
		"unproven.efi": {{Signer: "Windows 12", Issuer: "Windows UEFI CA 2023 (unproven)"}},
		"nested.efi":   {{Signer: "Own Signer", Issuer: "Own CA"}, {Signer: "Own Key", Issuer: "Own Key", Nested: true}},
	} {
		p, err := readPE(t, in(name))
		if err != nil || !cmp.Equal(p.Signatures, want) {
			t.Errorf("%s: %+v, %v", name, p.Signatures, err)
		}
	}
	for _, name := range []string{"forged.efi", "brought.efi", "as0.efi", "as1.efi", "as2.efi", "as3.efi"} { // the second brings the false authority's certificate
		p, err := readPE(t, in(name))
		if err != nil || len(p.signers()) != 0 || len(p.Signatures) != 1 || !errors.Is(p.Signatures[0].Err, ErrForged) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if p, err := readPE(t, in("nested.efi")); err != nil || !cmp.Equal(p.signers(), []string{"Own CA"}) {
		t.Errorf("firmware looks at no nested signature: %v, %v", p.signers(), err)
	}
}

// Machine types, with and without UEFI, and what is no PE program.
func TestReadPEArch(t *testing.T) {
	for machine, want := range map[uint16]string{0x8664: "amd64", 0xaa64: "arm64", 0x14c: "i386", 0x1c2: "armhf", 0x1c4: "armhf", 0x5064: ""} {
		b := peImage(machine, 10)
		if p, err := ReadPE(bytes.NewReader(b), int64(len(b))); err != nil || p.Arch != want || !p.EFI || p.Signatures != nil {
			t.Errorf("%#x: %+v, %v", machine, p, err)
		}
	}
	windows := peImage(0x8664, 3)
	if p, err := ReadPE(bytes.NewReader(windows), int64(len(windows))); err != nil || p.EFI || p.Arch != "amd64" {
		t.Errorf("a Windows program: %+v, %v", p, err)
	}
	for _, b := range [][]byte{nil, []byte("MZ"), bytes.Repeat([]byte("MZ"), 100), bzImage("6.1"), []byte(strings.Repeat("\x7fELF", 64))} {
		if p, err := ReadPE(bytes.NewReader(b), int64(len(b))); !errors.Is(err, errNoPE) {
			t.Errorf("%.8q…: %+v, %v", b, p, err)
		}
	}
}

// The certificates we carry are those that their names stand for.
func TestKnownAuthorities(t *testing.T) {
	list := knownAuthorities()
	if len(list) != 4 {
		t.Errorf("%d authorities", len(list))
	}
	for _, c := range list {
		if name, err := issuerOf(c, list); c.Issuer.CommonName == c.Subject.CommonName && (err != nil || authoritiesByCN[c.Subject.CommonName].name != name) {
			t.Errorf("%s: %s, %v", c.Subject, name, err)
		}
		if _, ok := authoritiesByCN[c.Subject.CommonName]; !ok {
			t.Errorf("%s has no name for people", c.Subject)
		}
	}
}

// borrowed is a small program with the signatures of a big one, which do not fit
// it; nil where that is not installed. With it the fuzzer gets as far as the signatures.
func borrowed(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	f, err := readPEHeader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return nil
	}
	b := peImage(0x8664, 10)
	binary.LittleEndian.PutUint32(b[0x40+24+60:], uint32(len(b))) // size of headers
	b[0x40+24+108] = 16                                           // directories
	binary.LittleEndian.PutUint32(b[0x40+24+112+4*8:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[0x40+24+112+4*8+4:], uint32(f.certs.size))
	return append(b, content[f.certs.at:][:f.certs.size]...)
}

func TestReadPEBorrowedSignatures(t *testing.T) {
	needFile(t, debianShim, "shim-signed")
	b := borrowed(debianShim)
	p, err := ReadPE(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(p.Signatures) != 2 || len(p.signers()) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	for i, want := range []string{MicrosoftUEFI2011, MicrosoftUEFI2023} {
		if s := p.Signatures[i]; s.Issuer != want || !errors.Is(s.Err, ErrUnfit) {
			t.Errorf("%+v", s)
		}
	}
}

func FuzzReadPE(f *testing.F) {
	f.Add(peImage(0xaa64, 10))
	f.Add(stub("6.1"))
	for _, path := range []string{debianShim, debianMM} {
		if b := borrowed(path); b != nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ReadPE(bytes.NewReader(b), int64(len(b)))
		if errors.Is(err, errNoPE) && (p.Arch != "" || p.Signatures != nil) {
			t.Errorf("no PE, but %+v", p)
		}
		if len(p.Signatures) > maxSignatures*(maxSignatures+1) || len(p.signers()) > len(p.Signatures) {
			t.Errorf("%d signatures", len(p.Signatures))
		}
		for _, s := range p.Signatures {
			if s.Err == nil && s.Issuer == "" {
				t.Errorf("a valid signature by nobody: %+v", s)
			}
			if checkText(s.Issuer, maxText) != nil {
				t.Errorf("a name for no line: %q", s.Issuer)
			}
		}
	})
}
