package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// Flags of CreateProcess that package syscall does not name.
const (
	detachedProcess  = 0x00000008
	createNewConsole = 0x00000010
)

// system32 starts the programs of \Windows\System32.
type system32 string

// Start has the program's current directory be System32: RemoteRecovery.exe leaves
// its ticket in the current directory. No console joins it to ours, whose end
// would be its own.
func (s system32) Start(name string, args ...string) (*process, error) {
	cmd := exec.Command(filepath.Join(string(s), name), args...)
	cmd.Dir = string(s)
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: detachedProcess | syscall.CREATE_NEW_PROCESS_GROUP}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan int, 1)
	go func() {
		cmd.Wait()
		exited <- cmd.ProcessState.ExitCode()
	}()
	return &process{exited: exited, kill: func() { cmd.Process.Kill() }}, nil
}

// Running asks the list of processes.
func (s system32) Running(name string) bool {
	list, err := syscall.CreateToolhelp32Snapshot(syscall.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return false
	}
	defer syscall.CloseHandle(list)
	e := syscall.ProcessEntry32{}
	e.Size = uint32(unsafe.Sizeof(e))
	for err = syscall.Process32First(list, &e); err == nil; err = syscall.Process32Next(list, &e) {
		if strings.EqualFold(syscall.UTF16ToString(e.ExeFile[:]), name) {
			return true
		}
	}
	return false
}

// Have asks the directory.
func (s system32) Have(name string) bool {
	info, err := os.Stat(filepath.Join(string(s), name))
	return err == nil && info.Mode().IsRegular()
}
