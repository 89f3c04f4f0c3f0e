package images

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // the thumbprints of authorities, and the digests of old files
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// Signature is one Authenticode signature of a PE program.
type Signature struct {
	Signer string // common name of the certificate that signed: "Debian Secure Boot Signer 2022 - grub2"
	// Issuer is the authority that firmware or shim must trust: "Microsoft UEFI CA 2023",
	// "Debian Secure Boot CA"; of an own key, the name of its certificate.
	Issuer string
	Nested bool  // inside another signature, where Windows looks and firmware does not
	Err    error // nil if it fits the bytes of the file
}

// ErrUnfit is in the error of a signature that was made over other bytes, or
// by another key than its certificate's: the file changed since, or was forged.
var ErrUnfit = errors.New("the signature does not fit the file, which was damaged or changed after it was signed")

// ErrForged is in the error of a signature under a name that its key does not have.
var ErrForged = errors.New("the certificate is a forgery")

// The structures of PKCS#7 (RFC 2315) as far as Authenticode uses them. All of it is DER.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version  int
		Issuer   issuerSerial
		Digest   pkix.AlgorithmIdentifier
		Signed   asn1.RawValue `asn1:"optional,tag:0"` // attributes that the signature covers
		Cipher   pkix.AlgorithmIdentifier
		Value    []byte
		Unsigned asn1.RawValue `asn1:"optional,tag:1"`
	}
	issuerSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue `asn1:"set"`
	}
	digestInfo struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4} // SPC_INDIRECT_DATA: the digest of a file
	oidNested        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 4, 1}
)

// hashOf finds a hash by its identifier. MD5, of the last century, is not among them.
func hashOf(a pkix.AlgorithmIdentifier) (crypto.Hash, error) {
	switch a.Algorithm.String() {
	case "1.3.14.3.2.26":
		return crypto.SHA1, nil
	case "2.16.840.1.101.3.4.2.1":
		return crypto.SHA256, nil
	case "2.16.840.1.101.3.4.2.2":
		return crypto.SHA384, nil
	case "2.16.840.1.101.3.4.2.3":
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("the signature uses the hash %s, which is not known", a.Algorithm)
}

// checker checks the signatures of one file, and remembers its digests.
type checker struct {
	file        *peFile
	authorities []*x509.Certificate
	digests     map[crypto.Hash][]byte
	nested      int
}

// signature reads one PKCS#7 structure: the signature in it, and those nested in that.
func (c *checker) signature(der []byte) []Signature {
	sd, err := parseSignedData(der)
	if err != nil {
		return []Signature{{Err: err}}
	}
	if len(sd.Signers) != 1 {
		return []Signature{{Err: fmt.Errorf("the signature has %d signers where one is right", len(sd.Signers))}}
	}
	signer, certs := sd.Signers[0], certificates(sd.Certificates.Bytes)
	leaf := find(certs, signer.Issuer)
	if leaf == nil {
		return []Signature{{Err: errors.New("the signature comes without the certificate of its signer")}}
	}
	s := Signature{Signer: nameOf(leaf.Subject)}
	var forged error
	s.Issuer, forged = issuerOf(leaf, append(certs, c.authorities...))
	if s.Err = c.check(sd, signer, leaf); s.Err == nil {
		s.Err = forged
	}
	return append([]Signature{s}, c.inner(signer)...)
}

func parseSignedData(der []byte) (sd signedData, err error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err != nil || !outer.Type.Equal(oidSignedData) {
		return sd, errors.New("the signature is no PKCS#7 signed data")
	}
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil {
		return sd, fmt.Errorf("the signature cannot be read: %w", err)
	}
	return sd, nil
}

// certificates reads those that can be read: one of another kind, such as a
// time stamp's, is no reason to refuse the rest.
func certificates(der []byte) (list []*x509.Certificate) {
	for len(der) > 0 {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(der, &raw)
		if err != nil {
			return list
		}
		if cert, err := x509.ParseCertificate(raw.FullBytes); err == nil {
			list = append(list, cert)
		}
		der = rest
	}
	return list
}

func find(certs []*x509.Certificate, id issuerSerial) *x509.Certificate {
	for _, c := range certs {
		if id.Serial != nil && c.SerialNumber.Cmp(id.Serial) == 0 && bytes.Equal(c.RawIssuer, id.Issuer.FullBytes) {
			return c
		}
	}
	return nil
}

// check follows the chain from the file to the key: the file's digest is in
// the content, the content's digest in the attributes, and those are what the key
// has signed. Times are not looked at, as firmware does not: it has no clock to trust.
func (c *checker) check(sd signedData, signer signerInfo, leaf *x509.Certificate) error {
	hash, err := hashOf(signer.Digest)
	if err != nil {
		return err
	}
	if !sd.Content.Type.Equal(oidIndirectData) {
		return fmt.Errorf("the signature is over content of the kind %s, not over a program", sd.Content.Type)
	}
	var content asn1.RawValue
	if _, err := asn1.Unmarshal(sd.Content.Content.Bytes, &content); err != nil {
		return fmt.Errorf("the signature cannot be read: %w", err)
	}
	if err := c.checkDigest(content.Bytes); err != nil {
		return err
	}
	signed, err := signer.covered(content.Bytes, hash)
	if err != nil {
		return err
	}
	algorithm, err := algorithmOf(leaf, hash)
	if err != nil {
		return err
	}
	err = leaf.CheckSignature(algorithm, signed, signer.Value)
	if errors.As(err, new(x509.InsecureAlgorithmError)) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrUnfit, err)
	}
	return nil
}

// checkDigest compares the digest in an SpcIndirectDataContent with the file's.
func (c *checker) checkDigest(content []byte) error {
	var kind asn1.RawValue // SpcAttributeTypeAndOptionalValue: that it is a PE program
	var want digestInfo
	rest, err := asn1.Unmarshal(content, &kind)
	if err == nil {
		_, err = asn1.Unmarshal(rest, &want)
	}
	if err != nil {
		return fmt.Errorf("the signature cannot be read: %w", err)
	}
	hash, err := hashOf(want.Algorithm)
	if err != nil {
		return err
	}
	got, ok := c.digests[hash]
	if !ok {
		if got, err = c.file.digest(hash); err != nil {
			return fmt.Errorf("%w (the file %w)", ErrUnfit, err)
		}
		if c.digests == nil {
			c.digests = map[crypto.Hash][]byte{}
		}
		c.digests[hash] = got
	}
	if !bytes.Equal(got, want.Digest) {
		return ErrUnfit
	}
	return nil
}

// covered is what the signature was made over: the attributes, encoded as a set, or
// without them the content itself.
func (s signerInfo) covered(content []byte, hash crypto.Hash) ([]byte, error) {
	if len(s.Signed.FullBytes) == 0 {
		return content, nil
	}
	sum := hash.New()
	sum.Write(content)
	var digest []byte
	for value := range values(s.Signed.Bytes, oidMessageDigest) {
		digest = value.Bytes
		break
	}
	if !bytes.Equal(digest, sum.Sum(nil)) {
		return nil, ErrUnfit
	}
	set := bytes.Clone(s.Signed.FullBytes)
	set[0] = asn1.TagSet | 0x20
	return set, nil
}

// values yields the values of one kind of attribute.
func values(attributes []byte, kind asn1.ObjectIdentifier) func(func(asn1.RawValue) bool) {
	return func(yield func(asn1.RawValue) bool) {
		for len(attributes) > 0 {
			var a attribute
			rest, err := asn1.Unmarshal(attributes, &a)
			if err != nil {
				return
			}
			attributes = rest
			for set := a.Values.Bytes; a.Type.Equal(kind) && len(set) > 0; {
				var value asn1.RawValue
				if set, err = asn1.Unmarshal(set, &value); err != nil || !yield(value) {
					return
				}
			}
		}
	}
}

// inner reads the signatures nested in one, as tools do that put a second one
// into a file for Windows. Those nested deeper, which no tool makes, are not looked for.
func (c *checker) inner(outer signerInfo) (list []Signature) {
	if c.nested > 0 {
		return nil
	}
	c.nested++
	defer func() { c.nested-- }()
	for value := range values(outer.Unsigned.Bytes, oidNested) {
		for _, s := range c.signature(value.FullBytes) {
			s.Nested = true
			list = append(list, s)
		}
		if len(list) >= maxSignatures {
			return list
		}
	}
	return list
}

func algorithmOf(leaf *x509.Certificate, hash crypto.Hash) (x509.SignatureAlgorithm, error) {
	table := map[x509.PublicKeyAlgorithm]map[crypto.Hash]x509.SignatureAlgorithm{
		x509.RSA:   {crypto.SHA1: x509.SHA1WithRSA, crypto.SHA256: x509.SHA256WithRSA, crypto.SHA384: x509.SHA384WithRSA, crypto.SHA512: x509.SHA512WithRSA},
		x509.ECDSA: {crypto.SHA1: x509.ECDSAWithSHA1, crypto.SHA256: x509.ECDSAWithSHA256, crypto.SHA384: x509.ECDSAWithSHA384, crypto.SHA512: x509.ECDSAWithSHA512},
	}
	if a, ok := table[leaf.PublicKeyAlgorithm][hash]; ok {
		return a, nil
	}
	return 0, fmt.Errorf("the signature is of the kind %v with %v, which cannot be checked", leaf.PublicKeyAlgorithm, hash)
}
