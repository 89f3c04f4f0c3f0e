package boottest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// inside tells the test that it runs in its own network namespace.
const inside = "RESCUEBOX_BOOTTEST_NETNS"

// TestMain moves the whole test into a network namespace of its own, where the
// box's daemon can run that nobody outside hears. The storm brings its own.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" || os.Getenv(stormEnv) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "no network namespace for the tests:", err)
		}
		os.Exit(1)
	}
}

// needRoot skips a test where there is no namespace to play in.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		skip(t, "needs root for network namespaces")
	}
}

// need skips a test whose tool is missing; CI must have it.
func need(t *testing.T, tool, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		skip(t, fmt.Sprintf("%s is missing: apt-get install %s", tool, debianPackage))
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// spawn runs a command until the test ends.
func spawn(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if os.Getenv("BOOTTEST_LOG") == "" {
		cmd.Stdout, cmd.Stderr = nil, nil
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// eventually waits for something to become true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", within, what)
}
