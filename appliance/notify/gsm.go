package notify

import "strings"

// The default alphabet of text messages (3GPP TS 23.038, section 6.2.1), as far as we
// write it, and its extension, of which each character takes two places.
const (
	gsmBasic    = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà\n"
	gsmExtended = "^{}\\[~]|€"
	gsmLength   = 160
)

// cyrillic in Latin letters, as signs on the street have it (ICAO Doc 9303, part 3,
// section 6): one letter outside the alphabet would leave a message 70 characters.
var cyrillic = map[rune]string{
	'а': "a", 'б': "b", 'в': "v", 'г': "g", 'д': "d", 'е': "e", 'ё': "e", 'ж': "zh", 'з': "z", 'и': "i", 'й': "i", 'к': "k",
	'л': "l", 'м': "m", 'н': "n", 'о': "o", 'п': "p", 'р': "r", 'с': "s", 'т': "t", 'у': "u", 'ф': "f", 'х': "kh", 'ц': "ts",
	'ч': "ch", 'ш': "sh", 'щ': "shch", 'ъ': "ie", 'ы': "y", 'ь': "", 'э': "e", 'ю': "iu", 'я': "ia",
	'–': "-", '—': "-", '…': "...", '“': "\"", '”': "\"", '«': "\"", '»': "\"", '’': "'", '\u00a0': " ", '\t': " ",
}

// gsm writes a text so that it fits one text message.
func gsm(s string) string {
	var b strings.Builder
	places := 0
	for _, r := range s {
		text := latin(r)
		n := len([]rune(text))
		if strings.ContainsRune(gsmExtended, r) {
			n = 2
		}
		if places += n; places > gsmLength {
			break
		}
		b.WriteString(text)
	}
	return strings.TrimSpace(b.String())
}

// latin is a character, or what stands for it, in the alphabet.
func latin(r rune) string {
	if strings.ContainsRune(gsmBasic, r) || strings.ContainsRune(gsmExtended, r) {
		return string(r)
	}
	if text, ok := cyrillic[r]; ok {
		return text
	}
	lower := []rune(strings.ToLower(string(r)))
	if text, ok := cyrillic[lower[0]]; ok && text != "" {
		return strings.ToUpper(text[:1]) + text[1:]
	}
	if text, ok := cyrillic[lower[0]]; ok {
		return text
	}
	return "?"
}
