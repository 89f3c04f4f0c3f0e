package modem

import (
	"strconv"
	"strings"
)

// fields takes the parameters of an answer apart: commas between quotes separate nothing (ITU-T V.250 section
// 5.4.2.2). A modem that forgets the closing quote gets what there is.
func fields(line string) []string {
	var list []string
	var b strings.Builder
	quoted := false
	for _, c := range line {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			list = append(list, strings.TrimSpace(b.String()))
			b.Reset()
		default:
			b.WriteRune(c)
		}
	}
	return append(list, strings.TrimSpace(b.String()))
}

// number is the field as a decimal number.
func number(f []string, i int) (int, bool) {
	if i >= len(f) {
		return 0, false
	}
	n, err := strconv.Atoi(f[i])
	return n, err == nil
}
