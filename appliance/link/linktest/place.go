package linktest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Place is a network namespace.
type Place struct{ file *os.File }

// thisThread is the namespace of the calling thread.
const thisThread = "/proc/thread-self/ns/net"

// newPlace makes a namespace with its loopback up, where no packet is dropped
// for the interface it came in by.
func newPlace() (*Place, error) {
	p := &Place{}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (are you root?): %w", err)
		}
		p.file, err = os.Open(thisThread)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = p.sysctl(map[string]string{
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"ipv6/conf/default/disable_ipv6": "1"}) // what it says by itself would be counted as volume
	if err == nil {
		err = p.IP("link set lo up")
	}
	return p, err
}

// here is the namespace of the calling process.
func here() (*Place, error) { return OpenPlace("/proc/self/ns/net") }

// OpenPlace uses a namespace that is there, by the file that stands for it.
func OpenPlace(file string) (*Place, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	return &Place{f}, nil
}

// onThread runs f on a thread that is thrown away after it, with all that f changed of it.
//
// The main thread is never thrown away, and the namespace of a process is that thread's: who reads
// /proc/self/ns/net later would find what f left. So it is held while another thread is taken.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			result <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		result <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-result
}

// Do runs f inside: the sockets that it opens stay there.
func (p *Place) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Command is a command that runs inside.
func (p *Place) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + p.File(), name}, args...)...)
}

// IP gives ip(8) commands to carry out inside, one after the other.
func (p *Place) IP(lines ...string) error {
	_, err := run(p.Command("ip", "-batch", "-"), strings.Join(lines, "\n")+"\n")
	return err
}

// nft gives nft(8) rules to carry out inside, all or none.
func (p *Place) nft(rules string) error {
	_, err := run(p.Command("nft", "-f", "-"), rules)
	return err
}

// sysctl writes settings below /proc/sys/net.
func (p *Place) sysctl(values map[string]string) error {
	return p.Do(func() error {
		for name, v := range values {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(v), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// File is where a command finds the namespace while this process lives.
func (p *Place) File() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd()) }

func (p *Place) close() { p.file.Close() }
