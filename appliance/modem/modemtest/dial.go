package modemtest

import (
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// TTY stands for the network's side of the line in the arguments of Program.
const TTY = "{tty}"

// Program is the network's side of a data call as a program on a tty of its own, for Dial: pppd as the operator is
//
//	modemtest.Program("pppd", modemtest.TTY, "nodetach", "noauth", "local", "192.0.2.1:192.0.2.2")
//
// It ends with the call, and the call with it.
func Program(argv ...string) func(line io.ReadWriter) {
	return func(line io.ReadWriter) {
		master, name, err := openPTY(false)
		if err != nil {
			return
		}
		defer master.Close()
		args := slices.Clone(argv[1:])
		for i := range args {
			if args[i] == TTY {
				args[i] = name
			}
		}
		cmd := exec.Command(argv[0], args...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if cmd.Start() != nil {
			return
		}
		join(line, master, cmd)
	}
}

// join copies both ways until the program or the caller goes.
func join(line io.ReadWriter, far io.ReadWriteCloser, cmd *exec.Cmd) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { listen(line, far, ended) })
	wg.Go(func() {
		_ = cmd.Wait()
		close(ended)
		readUntil(far, time.Now())
	})
	_, _ = io.Copy(far, line) // the caller speaks, until it hangs up
	_ = cmd.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	wg.Wait()
}

// listen is what the network says, until its program has ended and its last words have come through the kernel.
func listen(line io.Writer, far io.Reader, ended <-chan struct{}) {
	buf := make([]byte, 4096)
	for late := 0; late < 20; {
		select {
		case <-ended: // a child of its may hold the tty; and we may stand still, so that each look has a time of its own
			readUntil(far, time.Now().Add(100*time.Millisecond))
		default:
		}
		n, err := far.Read(buf)
		if n > 0 {
			_, _ = line.Write(buf[:n])
		}
		if err == nil {
			continue
		}
		select { // nobody has the tty open: not yet, or no more
		case <-ended:
			late++
		default:
		}
		time.Sleep(10 * time.Millisecond)
	}
	if l, ok := line.(interface{ hangUp() }); ok {
		l.hangUp()
	}
}

// readUntil bounds reading, where that can be.
func readUntil(r io.Reader, t time.Time) {
	if f, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = f.SetReadDeadline(t)
	}
}
