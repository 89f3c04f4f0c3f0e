package appliance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// shownElsewhere are the tests with real faults that are not in a clinic.
var shownElsewhere = []string{"admin.TestChains", "admin.TestChainSignersDiffer", "TestAskedAtOnce"}

// notShown are the keys without a real fault, and why.
var notShown = map[string]string{
	"doctor-broken":  "a mistake in rescuebox itself: admin.TestExamine lets a check panic",
	"check-too-slow": "ten seconds of a disk that hangs: admin.TestExamine has checks that do not end",
}

// Every diagnosis that is documented has a test that makes its fault for real, and
// wants its key. (That the code has these keys and no others the next test sees, and boot's TestCauseTable.)
func TestEveryDiagnosisIsShown(t *testing.T) {
	shown := map[string][]string{}
	for _, dir := range []string{".", "admin"} {
		for name, f := range testsIn(t, dir) {
			if dir != "." {
				name = dir + "." + name
			}
			if !calls(f, "newClinic", "plug") && !slices.Contains(shownElsewhere, name) {
				continue
			}
			for _, key := range literals(f) {
				shown[key] = append(shown[key], name)
			}
		}
	}
	for _, key := range keysIn(t, "doctor.go", "func (b *box) checks") {
		switch why, excused := notShown[key]; {
		case excused && len(shown[key]) > 0:
			t.Errorf("%s is shown by %s, and yet is in notShown: %s", key, shown[key], why)
		case !excused && len(shown[key]) == 0:
			t.Errorf("no test makes the fault %s for real", key)
		default:
			slices.Sort(shown[key])
			t.Logf("%-27s %s%s", key, strings.Join(shown[key], " "), why)
		}
	}
	for _, key := range keysIn(t, "boot/cause.go", "type Cause struct") {
		by := slices.DeleteFunc(shown[key], func(name string) bool { return !strings.HasPrefix(name, "TestCause") })
		if len(by) == 0 {
			t.Errorf("no test makes a boot stand still for %s", key)
		}
		slices.Sort(by)
		t.Logf("%-27s %s", key, strings.Join(by, " "))
	}
}

// The comment of checks lists the keys of all findings, and no others.
func TestDoctorKeysAreDocumented(t *testing.T) {
	used := map[string]bool{}
	for _, pattern := range []string{"doctor*.go", "admin/doctor.go", "admin/ownchecks*.go", "dhcp/doctor.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			maps.Copy(used, keysUsed(t, file))
		}
	}
	documented := keysIn(t, "doctor.go", "func (b *box) checks")
	for key := range used {
		if !slices.Contains(documented, key) {
			t.Errorf("%s is not in the comment of checks", key)
		}
	}
	for _, key := range documented {
		if !used[key] {
			t.Errorf("nothing says %s, which is in the comment of checks", key)
		}
	}
}

// keyWord is how keys look: one of the causes is a single word.
var keyWord = regexp.MustCompile(`\b(refused|[a-z0-9]+(-[a-z0-9]+)+)\b`)

// keysIn reads the keys out of the table in the comment before a declaration: its
// lines are indented, and of the causes' only the second column has keys.
func keysIn(t *testing.T, file, before string) (keys []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	comment, _, ok := strings.Cut(string(text), "\n"+before)
	if !ok {
		t.Fatalf("%s has no %q", file, before)
	}
	comment = comment[strings.LastIndex(comment, "\n\n")+2:]
	for line := range strings.Lines(comment) {
		line = strings.TrimPrefix(line, "//")
		if rest, isRow := strings.CutPrefix(line, "\t"); isRow && strings.Contains(before, "Cause") {
			line = rest[min(len(rest), len("nothing seen    ")):]
			line, _, _ = strings.Cut(line, " ")
		} else if !isRow && strings.Contains(before, "Cause") {
			continue
		}
		keys = append(keys, keyWord.FindAllString(line, -1)...)
	}
	if len(keys) < 10 {
		t.Fatalf("%s: only %d keys: the comment is not as it was", file, len(keys))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// keysUsed are the keys of the findings that a file makes.
func keysUsed(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if nameOf(n.Fun) == "Fault" && len(n.Args) > 1 {
				note(used, n.Args[1])
			}
		case *ast.CompositeLit:
			if nameOf(n.Type) == "Effect" && len(n.Elts) > 0 {
				first := n.Elts[0]
				if kv, ok := first.(*ast.KeyValueExpr); ok {
					first = kv.Value
				}
				note(used, first)
			}
		}
		return true
	})
	return used
}

func note(used map[string]bool, e ast.Expr) {
	if s, ok := stringOf(e); ok {
		used[s] = true
	}
}

// testsIn are the test functions of a directory, by name.
func testsIn(t *testing.T, dir string) map[string]*ast.FuncDecl {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]*ast.FuncDecl{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				list[fn.Name.Name] = fn
			}
		}
	}
	return list
}

// calls reports whether a function calls one of these.
func calls(f *ast.FuncDecl, names ...string) (does bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			does = does || slices.Contains(names, nameOf(c.Fun))
		}
		return true
	})
	return does
}

// literals are the strings in a function.
func literals(f *ast.FuncDecl) (list []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if s, ok := stringOf(e); ok && !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
		return true
	})
	return list
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func stringOf(e ast.Expr) (string, bool) {
	b, ok := e.(*ast.BasicLit)
	if !ok || b.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(b.Value)
	return s, err == nil
}
