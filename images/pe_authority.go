package images

import (
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// authoritiesPEM are certificates of authorities that Secure Boot is about. They are
// public: the first three stand in the db of every machine, the last in Debian's shim.
//
//go:embed authorities/secureboot.pem
var authoritiesPEM []byte

// The authorities by their short names.
const (
	MicrosoftUEFI2011    = "Microsoft UEFI CA 2011" // signs shims; stops with June 2026
	MicrosoftUEFI2023    = "Microsoft UEFI CA 2023" // its successor
	MicrosoftWindows2011 = "Microsoft Windows Production PCA 2011"
	MicrosoftWindows2023 = "Windows UEFI CA 2023"
	DebianSecureBoot     = "Debian Secure Boot CA"
)

// authority is one whose name alone proves nothing: it counts with its key.
type authority struct{ name, thumbprint string } // SHA-1 of the certificate, as Microsoft publishes it

// authoritiesByCN are the authorities by the common names in their certificates.
var authoritiesByCN = map[string]authority{
	"Microsoft Corporation UEFI CA 2011":    {MicrosoftUEFI2011, "46def63b5ce61cf8ba0de2e6639c1019d0ed14f3"},
	"Microsoft UEFI CA 2023":                {MicrosoftUEFI2023, "b5eeb4a6706048073f0ed296e7f580a790b59eaa"},
	"Microsoft Option ROM UEFI CA 2023":     {"Microsoft Option ROM UEFI CA 2023", "3fb39e2b8bd183bf9e4594e72183ca60afcd4277"},
	"Microsoft Windows Production PCA 2011": {MicrosoftWindows2011, "580a6f4cc4e4b669b9ebdc1b2b3e087b80d0678d"},
	"Windows UEFI CA 2023":                  {MicrosoftWindows2023, "45a0fa32604773c82433c3b7d59e7466b3ac0c67"},
	"Debian Secure Boot CA":                 {DebianSecureBoot, "53610cf81fbd7e0ceb67913c9ef3e794a9633ecb"},
}

// knownAuthorities are those whose certificates we have: Debian's signatures come without it.
func knownAuthorities() (list []*x509.Certificate) {
	for rest := authoritiesPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return list
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, cert)
		}
	}
}

// unproven stands behind the name of an authority whose certificate is not at hand.
const unproven = " (unproven)"

// issuerOf names the authority behind a certificate. Anybody can write a
// well-known name into a certificate; whether the authority's key really signed it is
// looked at where its certificate is at hand, in the signature or here. Where it is
// not, the name says so.
func issuerOf(leaf *x509.Certificate, candidates []*x509.Certificate) (name string, forged error) {
	known, ok := authorityBy(leaf.Issuer.CommonName)
	if !ok {
		return nameOf(leaf.Issuer), nil
	}
	for _, c := range candidates {
		sum := sha1.Sum(c.Raw)
		genuine := hex.EncodeToString(sum[:]) == known.thumbprint
		if !genuine && c.Subject.CommonName != leaf.Issuer.CommonName {
			continue
		}
		if genuine && c.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
			return known.name, nil
		}
		forged = fmt.Errorf("%w: %q names %s as its issuer, whose key did not sign it", ErrForged, nameOf(leaf.Subject), known.name)
	}
	return known.name + unproven, forged
}

// authorityBy finds an authority by the name in a certificate, or by a name that
// people would take for it: our short one, or with other blanks and capitals.
func authorityBy(cn string) (authority, bool) {
	plain := func(name string) string { return strings.ToLower(strings.Join(strings.Fields(name), " ")) }
	for full, a := range authoritiesByCN {
		if plain(cn) == plain(full) || plain(cn) == plain(a.name) {
			return a, true
		}
	}
	return authority{}, false
}

// nameOf is a name for people: the common name, or all there is.
func nameOf(n pkix.Name) string {
	name := n.CommonName
	if name == "" {
		name = n.String()
	}
	name = oneLine(name)
	for len(name) > maxName {
		_, last := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-last]
	}
	return name
}

// signers lists who has signed a program, as firmware sees it: signatures that do not
// fit, and those nested for Windows, do not count there.
func (p PE) signers() (names []string) {
	for _, s := range p.Signatures {
		if s.Err == nil && !s.Nested && !slices.Contains(names, s.Issuer) {
			names = append(names, s.Issuer)
		}
	}
	return names
}
