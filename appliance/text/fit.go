package text

import (
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/warthog618/sms/encoding/gsm7"
)

// What one message holds, and each part of a long one: septets of the default alphabet (3GPP TS 23.038),
// or where a character is not in it, UCS-2 (3GPP TS 23.040, section 9.2.3.24).
const (
	oneGSM, partGSM   = 160, 153
	oneUCS2, partUCS2 = 70, 67
	maxParts          = 10
)

// typography is what stands for the characters that programs and keyboards put where plain ones would do, and
// that would leave a message 70 characters.
var typography = strings.NewReplacer("…", "...", "“", `"`, "”", `"`, "„", `"`, "«", `"`, "»", `"`, "’", "'", "‘", "'", "`", "'",
	"–", "-", "—", "-", "\u00a0", " ", "→", "->")

// plain takes out what steers a terminal or breaks a line.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(typography.Replace(s)), " ")
}

// alphabet is made before anything runs: the library makes its table for whoever wants it first, and not for two at once.
var alphabet = gsm7.NewEncoder()

// septets is how many places a character takes in the default alphabet; 0 is none.
func septets(r rune) int {
	code, err := alphabet.Encode([]byte(string(r)))
	if err != nil {
		return 0
	}
	return len(code)
}

// places is how long a text is, and whether in the default alphabet.
func places(s string) (n int, gsm bool) {
	for _, r := range s {
		k := septets(r)
		if k == 0 {
			return len(utf16.Encode([]rune(s))), false
		}
		n += k
	}
	return n, true
}

// parts is how many messages a text costs.
func parts(s string) int {
	n, gsm := places(s)
	one, part := oneUCS2, partUCS2
	if gsm {
		one, part = oneGSM, partGSM
	}
	if n <= one {
		return 1
	}
	return (n + part - 1) / part
}

// fit makes one message of a text.
func fit(s string) string {
	const more = "..."
	if s = plain(s); parts(s) == 1 {
		return s
	}
	_, gsm := places(s)
	room, used := oneUCS2-len(more), 0
	if gsm {
		room = oneGSM - len(more)
	}
	for i, r := range s {
		k := len(utf16.Encode([]rune{r}))
		if gsm {
			k = septets(r)
		}
		if used += k; used > room {
			return strings.TrimRight(s[:i], " ") + more
		}
	}
	return s
}

// maxKept bounds what is kept of a message that came: ten parts.
const maxKept = 1600

func bounded(s string) string {
	if r := []rune(s); len(r) > maxKept {
		return string(r[:maxKept])
	}
	return s
}
