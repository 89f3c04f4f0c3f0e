package modemtest

import (
	"io"
	"os/exec"
	"sync"
)

// Operator is a network's side of data calls that a program plays, such as "pppd notty": it has the line as its
// input and output, from CONNECT until it ends.
type Operator struct {
	// Command makes the program of a call.
	Command func() *exec.Cmd

	mu  sync.Mutex
	cmd *exec.Cmd
	end chan struct{}
}

// Dial is for Modem.Dial.
func (o *Operator) Dial(line io.ReadWriter) {
	cmd := o.Command()
	in, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	cmd.Stdout = line
	if err := cmd.Start(); err != nil {
		return
	}
	end := make(chan struct{})
	o.mu.Lock()
	o.cmd, o.end = cmd, end
	o.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(in, line)
		in.Close()
	})
	_ = cmd.Wait()
	if l, ok := line.(interface{ hangUp() }); ok {
		l.hangUp()
		wg.Wait()
	}
	close(end)
}

// Call is the program of the call of the hour and what is closed at its end; nil before the first call.
func (o *Operator) Call() (*exec.Cmd, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cmd, o.end
}
