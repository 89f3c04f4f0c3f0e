package rescue

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBuildTwice builds the image twice and compares every byte. It takes some
// minutes and the Debian mirror, so it runs only where RESCUE_BUILD=1 asks for it.
func TestBuildTwice(t *testing.T) {
	if os.Getenv("RESCUE_BUILD") != "1" {
		t.Skip("RESCUE_BUILD=1 builds the image twice")
	}
	dir := t.TempDir()
	agent := filepath.Join(dir, "rescue-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "rescuebox/cmd/rescue-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	once := func(out string) (Result, map[string]string) {
		r, err := Build(context.Background(), Options{Agent: agent, Out: filepath.Join(dir, out), Cache: filepath.Join(dir, "cache"), Log: os.Stderr})
		if err != nil {
			t.Fatal(err)
		}
		return r, hashes(t, r)
	}
	_, first := once("1")
	r, second := once("2")
	if first[Packages] != second[Packages] {
		t.Log("Debian has published packages in between: once more")
		first = second
		r, second = once("3")
	}
	if boot := r.Sizes[Kernel] + r.Sizes[Initrd]; boot > 45e6 {
		t.Errorf("kernel and initramfs have %d bytes: too much for TFTP", boot)
	}
	for name, sum := range first {
		t.Logf("%s %s", sum, name)
		if second[name] != sum {
			t.Errorf("%s differs: %s and %s", name, sum, second[name])
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", ".build-*"))
	if len(first) != 8 || len(second) != 8 || left != nil {
		t.Errorf("%d and %d files, left behind %q", len(first), len(second), left)
	}
}

func hashes(t *testing.T, r Result) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for name := range r.Sizes {
		b, err := os.ReadFile(filepath.Join(r.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return sums
}
