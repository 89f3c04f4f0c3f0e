package sshd

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Cmd runs commands by Windows' cmd.exe. Dir is where they begin.
type Cmd struct{ Dir string }

// cmdline is the command line of cmd.exe. With /s it takes off the outer quotes
// and leaves the rest as the admin wrote it.
func cmdline(command string) string {
	if command == "" {
		return "cmd.exe"
	}
	return `cmd.exe /s /c "` + command + `"`
}

func (c Cmd) path() string {
	if p := os.Getenv("ComSpec"); p != "" {
		return p
	}
	return filepath.Join(os.Getenv("SystemRoot"), "System32", "cmd.exe")
}

// Pipes starts a command without a terminal.
func (c Cmd) Pipes(command string) (*Process, error) {
	if strings.ContainsRune(command, 0) {
		return nil, os.ErrInvalid
	}
	cmd := exec.Command(c.path())
	cmd.Dir = c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{
		CmdLine: cmdline(command), CreationFlags: windows.CREATE_NO_WINDOW | windows.CREATE_NEW_PROCESS_GROUP,
	}
	p, err := Pipes(cmd)
	if err != nil {
		return nil, err
	}
	if process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(cmd.Process.Pid)); err == nil {
		j := newJob(process)
		windows.CloseHandle(process)
		kill, wait := p.Kill, p.Wait
		p.Kill = func() { j.kill(); kill() }
		p.Wait = func() uint32 { defer j.close(); return wait() }
	}
	return p, nil
}

// job is a program and all it starts. What runs on when the program has ended by
// itself is left running, as an admin who starts a setup wants it.
type job struct {
	mu     sync.Mutex
	handle windows.Handle
}

func newJob(process windows.Handle) *job {
	h, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return &job{}
	}
	if windows.AssignProcessToJobObject(h, process) != nil {
		windows.CloseHandle(h)
		h = 0
	}
	return &job{handle: h}
}

func (j *job) kill() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.handle != 0 {
		windows.TerminateJobObject(j.handle, 1)
	}
}

func (j *job) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.handle != 0 {
		windows.CloseHandle(j.handle)
		j.handle = 0
	}
}

// Terminal starts a command in a pseudo console, which Windows has since 10.0.17763.
func (c Cmd) Terminal(command string, size Size) (*Process, error) {
	if windows.NewLazySystemDLL("kernel32.dll").NewProc("CreatePseudoConsole").Find() != nil {
		return nil, ErrNoTerminal
	}
	in, typed, err := pipe()
	if err != nil {
		return nil, err
	}
	shown, out, err := pipe()
	if err != nil {
		closeHandles(in, typed)
		return nil, err
	}
	t := &terminal{}
	err = windows.CreatePseudoConsole(coord(size), in, out, 0, &t.console)
	closeHandles(in, out) // the console has its own
	if err != nil {
		closeHandles(typed, shown)
		return nil, ErrNoTerminal // pipes are better than nothing
	}
	if err := t.start(c.path(), cmdline(command), c.Dir); err != nil {
		go drainTo(shown)
		windows.ClosePseudoConsole(t.console)
		closeHandles(typed)
		return nil, fmt.Errorf("start cmd.exe in a pseudo console: %w", err)
	}
	return &Process{
		In: os.NewFile(uintptr(typed), "typed"), Out: os.NewFile(uintptr(shown), "shown"),
		Wait: t.wait, Kill: t.kill, Resize: t.resize,
	}, nil
}

func pipe() (r, w windows.Handle, err error) {
	err = windows.CreatePipe(&r, &w, nil, 0)
	return r, w, err
}

func closeHandles(list ...windows.Handle) {
	for _, h := range list {
		windows.CloseHandle(h)
	}
}

// drainTo reads what a console says at its end: until then it does not close.
func drainTo(h windows.Handle) {
	f := os.NewFile(uintptr(h), "shown")
	io.Copy(io.Discard, f)
	f.Close()
}

func coord(s Size) windows.Coord { return windows.Coord{X: int16(s.Columns), Y: int16(s.Rows)} }

// terminal is a pseudo console and the program in it.
type terminal struct {
	process windows.Handle
	job     *job

	mu      sync.Mutex
	console windows.Handle // 0: closed
}

func (t *terminal) start(path, line, dir string) error {
	attributes, err := windows.NewProcThreadAttributeList(1)
	if err != nil {
		return err
	}
	defer attributes.Delete()
	// The value is the handle itself, not a pointer to it.
	console := *(*unsafe.Pointer)(unsafe.Pointer(&t.console))
	if err := attributes.Update(windows.PROC_THREAD_ATTRIBUTE_PSEUDOCONSOLE, console, unsafe.Sizeof(t.console)); err != nil {
		return err
	}
	var start windows.StartupInfoEx
	start.Cb = uint32(unsafe.Sizeof(start))
	start.ProcThreadAttributeList = attributes.List()
	// Handles of zero: else the program inherits the ones we have, and writes past its console.
	start.Flags = windows.STARTF_USESTDHANDLES
	path16, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	line16, err := windows.UTF16PtrFromString(line)
	if err != nil {
		return err
	}
	var dir16 *uint16
	if dir != "" {
		if dir16, err = windows.UTF16PtrFromString(dir); err != nil {
			return err
		}
	}
	var p windows.ProcessInformation
	if err := windows.CreateProcess(path16, line16, nil, nil, false, windows.EXTENDED_STARTUPINFO_PRESENT|windows.CREATE_UNICODE_ENVIRONMENT,
		nil, dir16, &start.StartupInfo, &p); err != nil {
		return err
	}
	windows.CloseHandle(p.Thread)
	t.process, t.job = p.Process, newJob(p.Process)
	return nil
}

// wait ends with the program; then its console writes what is left, and closes.
func (t *terminal) wait() uint32 {
	windows.WaitForSingleObject(t.process, windows.INFINITE)
	var code uint32 = 1
	windows.GetExitCodeProcess(t.process, &code)
	t.mu.Lock()
	defer t.mu.Unlock()
	windows.ClosePseudoConsole(t.console)
	t.console = 0
	t.job.close()
	windows.CloseHandle(t.process)
	t.process = 0
	return code
}

func (t *terminal) kill() {
	t.job.kill()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process != 0 {
		windows.TerminateProcess(t.process, 1)
	}
}

func (t *terminal) resize(s Size) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.console != 0 {
		windows.ResizePseudoConsole(t.console, coord(s))
	}
}
