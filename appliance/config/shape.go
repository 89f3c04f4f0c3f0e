package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// shape is the text's outline: where each key stands, and whether it is one
// that the raw structs know with a value of the right type. go-toml's decoder
// could tell as much, but stops at the first wrong type, names Go types in
// its errors and loses the lines that the checks need later.
type shape struct {
	text     []byte         // a copy for the decoder; what is wrong is blanked out
	lines    []int          // offsets of line ends
	at       map[string]int // "machine[0].mac[1]" → line
	bad      map[string]bool
	names    map[string]string // values of "machine[0].name"
	count    map[string]int    // elements of "machine", "lan.relay"
	hopeless bool              // tables are where no table can be: decoding would only repeat that
	problem  func(line int, path string, f fault)
	problems int
}

// place is a path of the file and what the raw structs have there.
type place struct {
	path string
	typ  reflect.Type
}

var (
	rawType     = reflect.TypeFor[rawFile]()
	stringsType = reflect.TypeFor[[]string]()
)

func newShape(text []byte, problem func(line int, path string, f fault)) *shape {
	s := &shape{
		text: bytes.Clone(text), at: map[string]int{}, bad: map[string]bool{}, names: map[string]string{}, count: map[string]int{},
		problem: problem,
	}
	for i, b := range text {
		if b == '\n' {
			s.lines = append(s.lines, i)
		}
	}
	return s
}

// scan walks the text up to its end or its first syntax error, which is left
// for the decoder to report.
func (s *shape) scan(text []byte) {
	root := place{typ: rawType}
	table, known := root, true
	var p unstable.Parser
	p.Reset(text)
	for s.problems < maxProblems && p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			table, known = s.header(root, e)
			continue
		}
		if known {
			s.keyValue(table, e, e.Raw)
		} else {
			s.blank(e.Raw)
		}
	}
}

// line is the line of an offset, from 1.
func (s *shape) line(offset uint32) int { return sort.SearchInts(s.lines, int(offset)) + 1 }

// lineOf is the line of a path, or of the innermost table around it that is in the file.
func (s *shape) lineOf(path string) int {
	for path != "" {
		if line, ok := s.at[path]; ok {
			return line
		}
		path = outer(path)
	}
	return 1
}

// spoiled reports whether a path, or a table around it, is wrong already.
func (s *shape) spoiled(path string) bool {
	for path != "" {
		if s.bad[path] {
			return true
		}
		path = outer(path)
	}
	return false
}

// outer is the path of what a path is in, or "".
func outer(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func (s *shape) wrong(offset uint32, path string, f fault) {
	s.problems++
	s.bad[path] = true
	s.problem(s.line(offset), path, f)
}

// header resolves [table] and [[table]]; false means to skip what stands below it.
func (s *shape) header(root place, e *unstable.Node) (place, bool) {
	p, last, ok := s.resolve(root, e.Key())
	if !ok {
		// go-toml takes [LAN] for [lan]; we do not.
		s.blank(s.wholeLine(last.Raw.Offset))
		return place{}, false
	}
	isList := p.typ.Kind() == reflect.Slice && p.typ != stringsType
	switch {
	case isList && e.Kind == unstable.ArrayTable:
		p = s.element(p)
	case isList:
		return s.noTable(last, p, "one pair of brackets is for a table that stands once", "write [[%s]]")
	case p.typ.Kind() == reflect.Struct && e.Kind == unstable.ArrayTable:
		return s.noTable(last, p, "two pairs of brackets are for a table that can stand several times", "write [%s]")
	case p.typ.Kind() != reflect.Struct:
		return s.noTable(last, p, "this is a key, no table", "write "+baseName(p.path)+" = … in its table")
	}
	if first, ok := s.at[p.path]; ok {
		return s.noTable(last, p, fmt.Sprintf("it stands on line %d already", first), "put its keys together")
	}
	s.note(p.path, last)
	return p, true
}

func (s *shape) noTable(key *unstable.Node, p place, text, hint string) (place, bool) {
	s.hopeless = true
	if strings.Contains(hint, "%s") {
		hint = fmt.Sprintf(hint, tableName(p.path))
	}
	s.wrong(key.Raw.Offset, p.path, fault{text, hint})
	return place{}, false
}

// element is a new last element of a list.
func (s *shape) element(p place) place {
	n := s.count[p.path]
	s.count[p.path]++
	return place{fmt.Sprintf("%s[%d]", p.path, n), p.typ.Elem()}
}

func (s *shape) note(path string, key *unstable.Node) {
	s.at[path] = s.line(key.Raw.Offset)
}

// resolve follows a dotted key down from a place.
func (s *shape) resolve(p place, key unstable.Iterator) (_ place, last *unstable.Node, ok bool) {
	for key.Next() {
		last = key.Node()
		name := string(last.Data)
		if p.typ.Kind() == reflect.Slice && p.typ != stringsType {
			// [machine.bmc] means that of the last [[machine]].
			if s.count[p.path] == 0 {
				s.hopeless = true
				s.wrong(last.Raw.Offset, p.path+"."+name, fault{"it stands before its machine or network", "put it below its [[" + tableName(p.path) + "]]"})
				return place{}, last, false
			}
			p = place{fmt.Sprintf("%s[%d]", p.path, s.count[p.path]-1), p.typ.Elem()}
		}
		next := place{under(p.path, name), nil}
		if p.typ.Kind() == reflect.Struct {
			next.typ = fieldsOf(p.typ)[name]
		}
		if next.typ == nil {
			s.unknown(p, last)
			return place{}, last, false
		}
		p = next
	}
	return p, last, true
}

// keyValue checks one key = value; expr is the whole expression it stands in.
func (s *shape) keyValue(table place, e *unstable.Node, expr unstable.Range) {
	p, last, ok := s.resolve(table, e.Key())
	if !ok {
		s.blank(expr)
		return
	}
	if first, ok := s.at[p.path]; ok {
		s.wrong(last.Raw.Offset, p.path, fault{fmt.Sprintf("it stands on line %d already", first), "keep one of the two"})
		s.blank(expr)
		return
	}
	s.note(p.path, last)
	s.value(p, last, e.Value(), expr)
}

func (s *shape) value(p place, key, v *unstable.Node, expr unstable.Range) {
	if v.Kind != kindOf(p.typ) {
		s.wrong(key.Raw.Offset, p.path, wrongType(baseName(p.path), p.typ, v.Kind))
		s.blank(expr)
		return
	}
	it := v.Children()
	switch v.Kind {
	case unstable.String:
		if baseName(p.path) == "name" {
			s.names[p.path] = string(v.Data)
		}
	case unstable.InlineTable:
		for it.Next() {
			s.keyValue(p, it.Node(), expr)
		}
	case unstable.Array:
		s.list(p, key, it, expr)
	}
}

func (s *shape) list(p place, key *unstable.Node, it unstable.Iterator, expr unstable.Range) {
	for n := 0; it.Next(); n++ {
		v := it.Node()
		e := place{fmt.Sprintf("%s[%d]", p.path, n), p.typ.Elem()}
		if v.Kind == unstable.String {
			key = v // its own line, in a list over several
		}
		if v.Kind == unstable.InlineTable && e.typ.Kind() == reflect.Struct {
			s.count[p.path] = n + 1
		}
		s.note(e.path, key)
		if s.value(e, key, v, expr); s.bad[e.path] {
			s.bad[p.path] = true
			return
		}
	}
}

// blank hides an expression from the decoder, and leaves the lines where they are.
func (s *shape) blank(r unstable.Range) {
	for i := r.Offset; i < r.Offset+r.Length; i++ {
		if s.text[i] != '\n' && s.text[i] != '\r' {
			s.text[i] = ' '
		}
	}
}

// wholeLine is the line that an offset is in, without its end.
func (s *shape) wholeLine(offset uint32) unstable.Range {
	n := s.line(offset) - 1
	start, end := 0, len(s.text)
	if n > 0 {
		start = s.lines[n-1] + 1
	}
	if n < len(s.lines) {
		end = s.lines[n]
	}
	return unstable.Range{Offset: uint32(start), Length: uint32(end - start)}
}

// fieldsOf lists the keys of a raw struct and their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		keys[f.Tag.Get("toml")] = ft
	}
	return keys
}

// kindOf is the kind of value that a field of a raw struct takes.
func kindOf(t reflect.Type) unstable.Kind {
	switch t.Kind() {
	case reflect.String:
		return unstable.String
	case reflect.Int:
		return unstable.Integer
	case reflect.Bool:
		return unstable.Bool
	case reflect.Slice:
		return unstable.Array
	case reflect.Struct:
		return unstable.InlineTable
	}
	return unstable.Invalid
}

func wrongType(name string, want reflect.Type, got unstable.Kind) fault {
	hint := map[unstable.Kind]string{
		unstable.String:      fmt.Sprintf("put the value in quotes: %s = \"…\"", name),
		unstable.Integer:     fmt.Sprintf("write the number without quotes: %s = 1", name),
		unstable.Bool:        fmt.Sprintf("write it without quotes: %s = true", name),
		unstable.Array:       fmt.Sprintf("put the value in brackets: %s = [\"…\"]", name),
		unstable.InlineTable: fmt.Sprintf("write [%s] on a line of its own and its keys below", name),
	}[kindOf(want)]
	if list, _, ok := strings.Cut(name, "["); ok && want.Kind() == reflect.Struct {
		hint = fmt.Sprintf("write [[%s]] on a line of its own and its keys below", list)
	} else if ok {
		hint = "every element of " + list + " is one text in quotes"
	}
	return fault{fmt.Sprintf("want %s, got %s", kindWord(kindOf(want)), kindWord(got)), hint}
}

func kindWord(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "a text"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a fraction"
	case unstable.Bool:
		return "true or false"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

// under appends a key to a path.
func under(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// baseName is a path's last element; tableName is the path as a table's header has it.
func baseName(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

func tableName(path string) string {
	parts := strings.Split(path, ".")
	for i, p := range parts {
		parts[i], _, _ = strings.Cut(p, "[")
	}
	return strings.Join(parts, ".")
}

// keysOf lists the keys of a raw struct in order.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		keys = append(keys, f.Tag.Get("toml"))
	}
	slices.Sort(keys)
	return keys
}
