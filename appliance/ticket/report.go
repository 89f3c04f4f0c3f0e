package ticket

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// MaxReport is the size of the largest report that is taken; an honest one has
// one or two KiB.
const MaxReport = 64 << 10

const (
	maxAddresses = 64
	maxHostKeys  = 16
	maxText      = 128 // runes of a serial number, a host's name …
)

// Report is what the rescue agent says of the system it runs in, checked.
type Report struct {
	Kind         Kind
	User         string
	Port         int
	Addresses    []netip.Addr
	HostKeys     []string
	HostKeyLines []string
	Serial       string
	UUID         string
	Hostname     string
	System       string
	Kernel       string
	SecureBoot   string // "enabled", "disabled", or "" where there is none to tell
}

// wireReport is the report's JSON.
type wireReport struct {
	Kind         string   `json:"kind"`
	User         string   `json:"user"`
	Port         *int     `json:"port"`
	Addresses    []string `json:"addresses"`
	HostKeys     []string `json:"hostkeys"`
	HostKeyLines []string `json:"hostkey_lines"`
	Serial       string   `json:"serial"`
	UUID         string   `json:"uuid"`
	Hostname     string   `json:"hostname"`
	System       string   `json:"system"`
	Kernel       string   `json:"kernel"`
	SecureBoot   string   `json:"secure_boot"`
}

// ParseReport reads a report. It comes from a hostile LAN: what ends up in the
// admin's command line (user, port, address, key) is refused unless it has
// exactly the right form, what is only shown is cleaned. Unknown fields are
// left to newer agents. Errors name the field, never what stands in it.
func ParseReport(raw []byte) (Report, error) {
	if len(raw) > MaxReport {
		return Report{}, fmt.Errorf("the report has %d bytes, more than the %d of the largest one taken", len(raw), MaxReport)
	}
	var w wireReport
	if err := json.Unmarshal(raw, &w); err != nil {
		return Report{}, fmt.Errorf("the report is not the JSON of a rescue agent: %w", bare(err))
	}
	if w.Kind != string(SSH) {
		return Report{}, fmt.Errorf("the report's kind is not %q", SSH)
	}
	r := Report{
		Kind: SSH, Serial: clean(w.Serial), UUID: clean(w.UUID), Hostname: clean(w.Hostname),
		System: clean(w.System), Kernel: clean(w.Kernel),
	}
	if w.SecureBoot == "enabled" || w.SecureBoot == "disabled" {
		r.SecureBoot = w.SecureBoot
	}
	var errs [4]error
	r.User, errs[0] = parseUser(w.User)
	r.Port, errs[1] = parsePort(w.Port)
	r.Addresses, errs[2] = parseAddresses(w.Addresses)
	r.HostKeys, r.HostKeyLines, errs[3] = parseHostKeys(w.HostKeys, w.HostKeyLines)
	for _, err := range errs {
		if err != nil {
			return Report{}, err
		}
	}
	return r, nil
}

// bare strips a JSON error of what stood in the report.
func bare(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("field %q has the wrong type", clean(wrong.Field))
	}
	return err
}

// userForm is what useradd allows. A leading dash would be an option to ssh.
var userForm = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)

func parseUser(s string) (string, error) {
	if s == "" {
		return "root", nil
	}
	if !userForm.MatchString(s) {
		return "", errors.New("the report's user is no user name")
	}
	return s, nil
}

func parsePort(p *int) (int, error) {
	if p == nil {
		return 22, nil
	}
	if *p < 1 || *p > 65535 {
		return 0, errors.New("the report's port is not within 1 to 65535")
	}
	return *p, nil
}

func parseAddresses(list []string) ([]netip.Addr, error) {
	if len(list) > maxAddresses {
		return nil, fmt.Errorf("the report has %d addresses, more than %d", len(list), maxAddresses)
	}
	var addrs []netip.Addr
	for i, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %d of the report is no IP address", i+1)
		}
		// A zone is the machine's own interface: of no use to anybody else.
		if a = a.Unmap().WithZone(""); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// parseHostKeys checks that fingerprints and lines speak of the same keys: the
// line goes into known_hosts, the fingerprint is what a person compares.
func parseHostKeys(prints, lines []string) (hostKeys, hostKeyLines []string, err error) {
	if len(prints) > maxHostKeys || len(lines) > maxHostKeys {
		return nil, nil, fmt.Errorf("the report has more than %d host keys", maxHostKeys)
	}
	if len(prints)+len(lines) == 0 {
		return nil, nil, errors.New("the report has no host key")
	}
	for i, p := range prints {
		if !isFingerprint(p) {
			return nil, nil, fmt.Errorf("host key %d of the report is no SHA256 fingerprint", i+1)
		}
	}
	var computed []string
	for i, line := range lines {
		key, err := parseHostKey(line)
		if err != nil {
			return nil, nil, fmt.Errorf("host key line %d of the report %w", i+1, err)
		}
		computed = append(computed, ssh.FingerprintSHA256(key))
		hostKeyLines = append(hostKeyLines, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	}
	if len(lines) == 0 {
		return slices.Clone(prints), nil, nil
	}
	if len(prints) > 0 && !sameSet(prints, computed) {
		return nil, nil, errors.New("the report's fingerprints are not those of its host key lines")
	}
	return computed, hostKeyLines, nil
}

func parseHostKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, errors.New("is no public key")
	}
	if _, isCert := key.(*ssh.Certificate); isCert || len(options) > 0 || len(rest) > 0 {
		return nil, errors.New("is not one plain public key")
	}
	return key, nil
}

// isFingerprint checks the form of OpenSSH: SHA256: and base64 without padding.
func isFingerprint(s string) bool {
	b64, ok := strings.CutPrefix(s, "SHA256:")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(b64)
	return ok && err == nil && len(sum) == 32 && len(b64) == 43
}

func sameSet(a, b []string) bool {
	in := func(set []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(set, s) }
	}
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

// clean makes text from a machine safe to show: what does not print is dropped
// (escape sequences, line breaks, marks that turn the direction of writing), and so is what is too long.
func clean(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.TrimSpace(s) {
		if n == maxText {
			break
		}
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			b.WriteRune(r)
			n++
		}
	}
	return b.String()
}
