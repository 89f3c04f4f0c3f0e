package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"rescuebox/appliance/admin/api"
)

// TestImageCommand runs testdata/image*.txt. Their command run takes the exit
// code that is expected, and the arguments of rescuebox.
func TestImageCommand(t *testing.T) {
	runImageScripts(t, imageScripts(t))
}

// TestImageWindows runs testdata/windows.txt, whose ISO and WIM are made with Debian's tools.
func TestImageWindows(t *testing.T) {
	for tool, pkg := range map[string]string{"wimlib-imagex": "wimtools", "genisoimage": "genisoimage"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("apt-get install %s: %v", pkg, err)
		} else if err != nil {
			t.Skipf("apt-get install %s: %v", pkg, err)
		}
	}
	runImageScripts(t, []string{"testdata/windows.txt"})
}

func runImageScripts(t *testing.T, files []string) {
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			kernel := filepath.Join(env.WorkDir, ".kernel")
			env.Setenv("KERNEL", kernel)
			env.Setenv("SOCKET", imageDaemon(t, env))
			return os.WriteFile(kernel, testKernel(), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"run": runCommand},
	})
}

// The boot set of Debian's shim: who signed it is shown, and what authorities it may miss.
func TestImageShowSigners(t *testing.T) {
	for path, pkg := range map[string]string{"/usr/lib/shim/shimx64.efi.signed": "shim-signed",
		"/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": "grub-efi-amd64-signed"} {
		if _, err := os.Stat(path); err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%v: apt-get install %s", err, pkg)
		} else if err != nil {
			t.Skipf("%v: apt-get install %s", err, pkg)
		}
	}
	dir := t.TempDir()
	var out, errOut strings.Builder
	for _, args := range [][]string{{"add", "--bootset", "shim"}, {"show", "shim"}, {"show", "shim", "--json"}} {
		args = append([]string{"image", "--library", dir}, args...)
		if code := run(t.Context(), args, strings.NewReader(""), &out, &errOut); code != 0 {
			t.Fatalf("%v: exit code %d, %s", args, code, errOut.String())
		}
	}
	for _, want := range []string{`(?m)^shimx64.efi +\S+ \S+ +amd64 +Microsoft UEFI CA 2011, Microsoft UEFI CA 2023 +[0-9a-f]{64}$`,
		`(?m)^grubx64.efi +\S+ \S+ +amd64 +Debian Secure Boot CA +[0-9a-f]{64}$`, `"signers": *\[\s*"Microsoft UEFI CA 2011",\s*"Microsoft UEFI CA 2023"`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "warning") {
		t.Errorf("signed by both authorities, and yet:\n%s", out.String())
	}
}

func TestWriteImageWarns(t *testing.T) {
	var out strings.Builder
	old := api.Image{Name: "ipxe20", Kind: "bootset", Files: []api.File{{Name: "ipxe-shimx64.efi", Signers: []string{"Microsoft UEFI CA 2011"}}}}
	if err := writeImage(&out, old); err != nil || !strings.Contains(out.String(), "warning: ipxe-shimx64.efi is signed by Microsoft UEFI CA 2011 only") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}

func imageScripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/image*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	return files
}

// imageDaemon stands for the daemon: a socket that has one image, "far", which changed.
func imageDaemon(t *testing.T, env *testscript.Env) string {
	dir, err := os.MkdirTemp("", "rb") // a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	env.Defer(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	far := `{"name":"far","kind":"linux","size":5,"files":[]}`
	mux := http.NewServeMux()
	for pattern, body := range map[string]string{
		"GET /v1/images":             `{"images":[` + far + `],"broken":["image near: no image.toml"]}`,
		"GET /v1/images/far":         far,
		"POST /v1/images/far/verify": `{"image":"far","ok":false,"error":"file vmlinuz of image far changed"}`,
		"DELETE /v1/images/far":      `{}`,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, body)
		})
	}
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	env.Defer(func() { server.Close() })
	return socket
}

func runCommand(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := run(context.Background(), args[1:], strings.NewReader(""), ts.Stdout(), ts.Stderr()); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// testKernel is the beginning of a bzImage with an EFI stub.
func testKernel() []byte {
	b := make([]byte, 0x400)
	copy(b, "MZ")
	b[0x3c] = 0x82
	copy(b[0x82:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[0x82+4:], 0x8664)
	b[0x82+20], b[0x82+24], b[0x82+25] = 112, 0x0b, 0x02 // a PE32+ header
	binary.LittleEndian.PutUint16(b[0x82+24+68:], 10)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	b[0x211] = 1
	return b
}
