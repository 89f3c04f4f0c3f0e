package linktest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

const (
	// inside tells the test that it runs in its own network namespace.
	inside = "RESCUEBOX_LINKTEST_NETNS"
	// role tells a child what it is: a hub or an echo.
	role = "RESCUEBOX_LINKTEST_ROLE"
)

// Main is what TestMain calls: it moves the whole test into a network namespace of
// its own, which is the branch. The hubs are children that come through here as well.
func Main(m interface{ Run() int }) {
	if Child() {
		os.Exit(0)
	}
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
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
	os.Exit(0)
}

// Child reports that this process was started to be a hub or an echo, after it was one. A program
// without Main asks it before anything else.
func Child() bool {
	var err error
	switch os.Getenv(role) {
	case "":
		return false
	case "hub":
		err = serveHub(os.Stdin, os.Stdout)
	case "echo":
		err = serveEcho(os.Stdin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "linktest:", err)
		os.Exit(1)
	}
	return true
}

// child is this program once more, in a place. It ends with its input; a signal at its parent's death would come
// when the thread ends that started it, and Do ends threads.
func (p *Place) child(as string) *exec.Cmd {
	cmd := p.Command(fmt.Sprintf("/proc/%d/exe", os.Getpid()))
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.Stderr = os.Stderr
	return cmd
}
