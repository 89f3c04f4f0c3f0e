package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// unknown notes a key that nobody knows, and what its writer may have meant;
// that the key that was meant is missing is not said as well.
func (s *shape) unknown(p place, key *unstable.Node) {
	name := string(key.Data)
	meant, hint := meaning(p, name)
	s.wrong(key.Raw.Offset, under(p.path, cut(name)), fault{"unknown key", hint})
	if meant != "" {
		s.bad[meant] = true
	}
}

// meaning guesses which key was meant, if any, and makes a hint of it.
func meaning(p place, name string) (path, hint string) {
	if looksSecret(name) && p.typ.Kind() == reflect.Struct {
		with := "password_file"
		if _, ok := fieldsOf(p.typ)["secret_file"]; ok {
			with = "secret_file"
		}
		return "", "secrets stay out of this file: put it into a file of its own and name that with " + with
	}
	if p.typ.Kind() != reflect.Struct {
		return "", baseName(p.path) + " is a key, no table"
	}
	known := keysOf(p.typ)
	if near := nearest(name, known); near != "" {
		return under(p.path, near), fmt.Sprintf("did you mean %s?", near)
	}
	home, ok := homeOf(rawType, "", name)
	switch {
	case ok && home == "":
		return name, name + " belongs to the top of the file, before the first [table]"
	case ok:
		return under(home, name), fmt.Sprintf("%s belongs to [%s]", name, home)
	case p.path == "":
		return "", "the file knows " + strings.Join(known, ", ")
	}
	return "", fmt.Sprintf("[%s] knows %s", tableName(p.path), strings.Join(known, ", "))
}

func looksSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"password", "passwd", "passphrase", "secret", "token", "psk", "private_key"},
		func(word string) bool { return strings.HasPrefix(name, word) || strings.HasSuffix(name, word) })
}

// homeOf finds the table that has a key.
func homeOf(t reflect.Type, path, name string) (string, bool) {
	fields := fieldsOf(t)
	if _, ok := fields[name]; ok {
		return path, true
	}
	for _, key := range keysOf(t) {
		ft := fields[key]
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if ft.Kind() != reflect.Struct {
			continue
		}
		if home, ok := homeOf(ft, under(path, key), name); ok {
			return home, true
		}
	}
	return "", false
}

// nearest is the known key that is at most a third of its letters away.
func nearest(name string, known []string) string {
	best, least := "", 0
	for _, k := range known {
		d := distance(strings.ToLower(name), k)
		if limit := max(1, len(k)/3); d <= limit && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters to insert, delete, replace or swap with their
// neighbour to make one word of the other (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 2*len(b)+2 {
		return len(a)
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
		for j := range d[i] {
			switch {
			case i == 0:
				d[i][j] = j
			case j > 0:
				d[i][j] = cheapest(a, b, i, j, d)
			}
		}
	}
	return d[len(a)][len(b)]
}

func cheapest(a, b string, i, j int, d [][]int) int {
	replace := d[i-1][j-1]
	if a[i-1] != b[j-1] {
		replace++
	}
	n := min(replace, d[i-1][j]+1, d[i][j-1]+1)
	if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
		n = min(n, d[i-2][j-2]+1)
	}
	return n
}

// cut keeps a key of the file short enough to show.
func cut(name string) string {
	if q := quote(name); len(q) != len(name)+2 || strings.ContainsAny(name, " .[]") {
		return q
	}
	return name
}
