package config

import (
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"
)

// The bounds of times. A TTL of a week covers the order that waits for
// somebody to come in on Monday; a lease of a second is for nobody.
const (
	shortestTTL   = time.Second
	longestTTL    = 7 * 24 * time.Hour
	shortestLease = 10 * time.Second
	longestLease  = 30 * 24 * time.Hour
)

func siteName(s string) (string, *fault) {
	const hint = `name the branch at the top of the file: site = "kazan-2"`
	switch {
	case s == "":
		return "", faultf(hint, "missing")
	case utf8.RuneCountInString(s) > 63 || strings.TrimSpace(s) != s || strings.ContainsFunc(s, unicode.IsControl):
		return "", faultf(hint, "%s is no name: want up to 63 printable characters", quote(s))
	}
	return s, nil
}

// interfaceName takes what the kernel takes (net/core/dev.c, dev_valid_name).
func interfaceName(s string) (string, *fault) {
	const hint = "`ip -br link` lists the box's interfaces"
	switch {
	case s == "":
		return "", faultf(hint, "missing: the interface on the rescue LAN")
	case len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/:") || strings.ContainsFunc(s, notGraphic):
		return "", faultf(hint, "%s is no interface name: want up to 15 characters such as eth1", quote(s))
	}
	return s, nil
}

func notGraphic(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

func dhcpMode(s string) (Mode, *fault) {
	switch m := Mode(s); m {
	case Auto, Full, Proxy, Off:
		return m, nil
	}
	return "", faultf(`"auto" looks first and is right nearly everywhere`, "%s is no mode: want auto, full, proxy or off", quote(s))
}

var (
	dnsLabel  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	imageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	groupForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

func domainName(s string) (string, *fault) {
	for _, label := range strings.Split(s, ".") {
		if !dnsLabel.MatchString(strings.ToLower(label)) || len(s) > 253 {
			return "", faultf(`for example domain = "kazan.example.org"`, "%s is no domain name", quote(s))
		}
	}
	return s, nil
}

func machineName(s string) (string, *fault) {
	const hint = `letters a to z, digits and inner dashes, at most 63: name = "srv01"`
	switch {
	case s == "":
		return "", faultf(hint, "missing")
	case dnsLabel.MatchString(s):
		return s, nil
	case dnsLabel.MatchString(strings.ToLower(s)):
		return "", faultf(fmt.Sprintf("write name = %q", strings.ToLower(s)), "%s has capital letters", quote(s))
	}
	return "", faultf(hint, "%s is no DNS label", quote(s))
}

func imageName(s string) (string, *fault) {
	if !imageForm.MatchString(s) {
		return "", faultf("`rescuebox image list` names those there are", "%s is no image name", quote(s))
	}
	return s, nil
}

func imageOrLocal(s string) (string, *fault) {
	if s == "" {
		return "", faultf(`write unknown = "local" to leave them alone`, "empty: what shall machines boot that nobody named?")
	}
	return imageName(s)
}

func groupName(s string) (string, *fault) {
	if !groupForm.MatchString(s) {
		return "", faultf(`the package makes the group "rescuebox"`, "%s is no group name", quote(s))
	}
	return s, nil
}

func chainName(s string) (string, *fault) {
	switch s {
	case "":
		return "auto", nil
	case "auto", "shim", "ipxe", "windows":
		return s, nil
	}
	return "", faultf(`leave it out for "auto"`, "%s is no chain: want auto, shim, ipxe or windows", quote(s))
}

func secureBoot(s string) (string, *fault) {
	switch s {
	case "", "auto":
		return "", nil
	case "on", "off":
		return s, nil
	}
	return "", faultf(`leave it out for "auto": a machine that booted a rescue system has told it`, "%s is neither auto, on nor off", quote(s))
}

// loaderCA is an authority of Microsoft's, by the year in its name.
func loaderCA(s string) (string, *fault) {
	switch s {
	case "", "auto":
		return "", nil
	case "2011", "2023":
		return s, nil
	}
	return "", faultf(`leave it out for "auto": what worked last on this machine is taken`, "%s is neither auto, 2011 nor 2023", quote(s))
}

// Dialects are those of package dhcp.
var Dialects = []string{"auto", "control", "binl", "plain", "late", "address", "wds", "menu", "header", "option", "small"}

func dialectName(s string) (string, *fault) {
	switch {
	case s == "", s == "auto":
		return "", nil
	case !slices.Contains(Dialects, s):
		return "", faultf(`leave it out for "auto"; there are `+strings.Join(Dialects, ", "), "%s is no dialect", quote(s))
	}
	return s, nil
}

// between parses a Go duration within bounds; usual is the default.
func between(least, most time.Duration, usual string) func(string) (time.Duration, *fault) {
	return func(s string) (time.Duration, *fault) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, faultf(`units are s, m and h, with no space: "90s", "30m", "24h", "1h30m"`, "%s is no duration", quote(s))
		}
		if d < least || d > most {
			return 0, faultf(fmt.Sprintf("the default is %q", usual), "%s is not between %s and %s", quote(s), plain(least), plain(most))
		}
		return d, nil
	}
}

// plain is a duration without its zero units: 720h, not 720h0m0s.
func plain(d time.Duration) string {
	return strings.Replace(strings.Replace(d.String(), "m0s", "m", 1), "h0m", "h", 1)
}

// Units of sizes in bytes, and of rates as network people count them, in bits.
var units = map[string]float64{
	"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	"kbit": 1e3 / 8, "Mbit": 1e6 / 8, "Gbit": 1e9 / 8,
}

var sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)$`)

// size parses a number with its unit into bytes.
func size(s string) (int64, *fault) {
	const hint = "units are B, kB, MB, GB, KiB, MiB, GiB, and kbit, Mbit, Gbit"
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, faultf(hint, "%s is no size: want a number and a unit such as 20MiB", quote(s))
	}
	unit, known := units[m[2]]
	if !known {
		return 0, faultf(hint, "%s has an unknown unit %s", quote(s), quote(m[2]))
	}
	n, _ := strconv.ParseFloat(m[1], 64) // the pattern takes nothing else; too large a number is +Inf
	if n *= unit; n >= math.MaxInt64 {
		return 0, faultf(hint, "%s is too large", quote(s))
	}
	return int64(n), nil
}

// Rates below slowest would make a boot take hours: most likely a wrong unit.
const slowest = 64 << 10

// rate parses bytes per second; 0 is no limit.
func rate(s string) (int64, *fault) {
	if s == "0" || s == "none" {
		return 0, nil
	}
	n, f := size(strings.TrimSuffix(s, "/s"))
	switch {
	case f != nil:
		return 0, faultf(f.hint+`; "none" is no limit`, "%s is no rate: want a number and a unit such as 20MiB/s", quote(s))
	case n < slowest:
		return 0, faultf(`"none" is no limit`, "%s is slower than 64KiB/s", quote(s))
	}
	return n, nil
}

func absolutePath(s string) (string, *fault) {
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) {
		return "", faultf("write it from the root: /…", "%s is no absolute path", quote(s))
	}
	return filepath.Clean(s), nil
}

// socketPath is bounded by the kernel's sockaddr_un.
func socketPath(s string) (string, *fault) {
	if len(s) > 107 {
		return "", faultf("the default is /run/rescuebox/api.sock", "the path is longer than the 107 bytes that a socket can have")
	}
	return absolutePath(s)
}

func addrPort(s string) (netip.AddrPort, *fault) {
	const hint = `for example listen = "10.8.0.2:8443"`
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, faultf(hint, "%s is no IP address with a port", quote(s))
	}
	if a.Port() == 0 {
		return netip.AddrPort{}, faultf(hint, "%s has port 0, where nobody would find it", quote(s))
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func logLevel(s string) (zapcore.Level, *fault) {
	switch s {
	case "debug", "info", "warn", "error":
		level, _ := zapcore.ParseLevel(s) // it knows these four
		return level, nil
	}
	return 0, faultf("info is the default; debug shows every packet", "%s is no level: want debug, info, warn or error", quote(s))
}
