package wim_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/images/wim"
)

// tool skips where a peer is not installed, and fails in CI with its package.
func tool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("%s is missing: apt-get install %s", name, pkg)
	}
}

// curl fetches a patched WIM in parts, with borders before, in and behind the original's bytes, and
// wimlib finds what it put together sound.
func TestRanges(t *testing.T) {
	tool(t, "curl", "curl")
	tool(t, "wimlib-imagex", "wimtools")
	dir := t.TempDir()
	tree, base, out := filepath.Join(dir, "tree"), filepath.Join(dir, "boot.wim"), filepath.Join(dir, "out.wim")
	if err := os.MkdirAll(filepath.Join(tree, "Windows", "System32"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "Windows", "System32", "startnet.cmd"), []byte(strings.Repeat("wpeinit\r\n", 9000)), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "wimlib-imagex", "capture", tree, base, "PE", "--check")
	f, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	w, err := wim.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.Patch(0, added())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, joined(f, info.Size(), p))
	}))
	defer server.Close()
	borders := []int64{0, 100, 208, 209, info.Size() - 1, info.Size() + 3, info.Size() + 5_000_000, p.Size}
	var got []byte
	for i, from := range borders[:len(borders)-1] {
		part := run(t, "curl", "-sSf", "--noproxy", "*", "-r", strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(borders[i+1]-1, 10), server.URL)
		got = append(got, part...)
	}
	if err := os.WriteFile(out, got, 0o644); err != nil {
		t.Fatal(err)
	}
	if said := run(t, "wimlib-imagex", "verify", out); !strings.Contains(string(said), "successfully verified") {
		t.Errorf("%s", said)
	}
	if said := run(t, "wimlib-imagex", "extract", out, "1", "/Windows/System32/rescue-agent.json", "--to-stdout"); string(said) != string(added()[2].Data) {
		t.Errorf("the order's file is %q", said)
	}
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.String())
	}
	return out
}
