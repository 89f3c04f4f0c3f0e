package rescue

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a small tree, made in the order that the names say.
func sample(names ...string) *tree {
	t := &tree{entries: map[string]*entry{}}
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, "/"):
			t.addDir(strings.TrimSuffix(name, "/"), 0o755)
		case strings.Contains(name, " -> "):
			link, target, _ := strings.Cut(name, " -> ")
			t.addLink(link, target)
		default:
			t.addFile(name, 0o755, []byte("content of "+name))
		}
	}
	return t
}

// GNU cpio reads what the kernel reads.
func TestCPIOReadByOthers(t *testing.T) {
	program := need(t, "cpio", "cpio")
	var b bytes.Buffer
	epoch := time.Unix(1_700_000_000, 0)
	if err := sample("init", "bin/busybox", "bin/sh -> busybox", "dev/", "lib/modules/x.ko").writeCPIO(&b, epoch); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(program, "-idm", "--no-absolute-filenames", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	var got []string
	filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if name, _ := filepath.Rel(dir, path); name != "." {
			text, _ := os.ReadFile(path)
			got = append(got, fmt.Sprintf("%s %v %q", name, info.Mode(), text))
			if info.Mode().IsRegular() && !info.ModTime().Equal(epoch) {
				t.Errorf("%s has the time %v", name, info.ModTime())
			}
		}
		return err
	})
	want := []string{
		`bin drwxr-xr-x ""`, `bin/busybox -rwxr-xr-x "content of bin/busybox"`, `bin/sh Lrwxrwxrwx "content of bin/busybox"`,
		`dev drwxr-xr-x ""`, `init -rwxr-xr-x "content of init"`, `lib drwxr-xr-x ""`, `lib/modules drwxr-xr-x ""`,
		`lib/modules/x.ko -rwxr-xr-x "content of lib/modules/x.ko"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("\ngot  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// The same tree gives the same bytes, in whatever order it was made.
func TestCPIOSameBytes(t *testing.T) {
	var a, b bytes.Buffer
	epoch := time.Unix(1_700_000_000, 0)
	if err := sample("init", "bin/a", "x -> y").writeCPIO(&a, epoch); err != nil {
		t.Fatal(err)
	}
	if err := sample("x -> y", "bin/a", "init").writeCPIO(&b, epoch); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two orders, two archives")
	}
}

// need finds a program; without it the test is skipped, or fails where everything must be tested.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", program, pkg)
	}
	if err != nil {
		t.Skipf("%s is missing: apt-get install %s", program, pkg)
	}
	return path
}
