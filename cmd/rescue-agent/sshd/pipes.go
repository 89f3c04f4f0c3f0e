package sshd

import (
	"io"
	"os"
	"os/exec"
)

// Pipes starts a program whose input and output are pipes of ours. Unlike exec's
// own, they do not make Wait wait for programs that this one started and left behind.
func Pipes(cmd *exec.Cmd) (*Process, error) {
	var ours, theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	for i := 0; i < 3; i++ {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		if i == 0 {
			ours, theirs = append(ours, w), append(theirs, r)
		} else {
			ours, theirs = append(ours, r), append(theirs, w)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	err := cmd.Start()
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	return &Process{
		In: ours[0], Out: io.ReadCloser(ours[1]), Err: io.ReadCloser(ours[2]),
		Wait: func() uint32 { return wait(cmd) },
		Kill: func() { cmd.Process.Kill() },
	}, nil
}

// wait yields the exit code; Windows has 32 bits of it.
func wait(cmd *exec.Cmd) uint32 {
	cmd.Wait()
	if cmd.ProcessState == nil {
		return 1
	}
	return uint32(cmd.ProcessState.ExitCode())
}
