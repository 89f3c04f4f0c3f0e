package main

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// Values of the console's and the window's functions (wincon.h, winuser.h).
const (
	enableQuickEdit     = 0x0040
	enableExtendedFlags = 0x0080
	scClose             = 0xF060
)

// openWindow makes our console one that a person may look at and click into
// without doing harm: no selection that stops the agent, no button that ends it.
// What of that fails is left as it is.
func openWindow() io.Writer {
	kernel, user := syscall.NewLazyDLL("kernel32.dll"), syscall.NewLazyDLL("user32.dll")
	if title, err := syscall.UTF16PtrFromString("rescuebox - please leave this window open"); err == nil {
		call(kernel.NewProc("SetConsoleTitleW"), uintptr(unsafe.Pointer(title)))
	}
	if in, err := os.OpenFile("CONIN$", os.O_RDWR, 0); err == nil {
		var mode uint32
		if syscall.GetConsoleMode(syscall.Handle(in.Fd()), &mode) == nil {
			call(kernel.NewProc("SetConsoleMode"), in.Fd(), uintptr(mode&^enableQuickEdit|enableExtendedFlags))
		}
		in.Close()
	}
	if window := call(kernel.NewProc("GetConsoleWindow")); window != 0 {
		if menu := call(user.NewProc("GetSystemMenu"), window, 0); menu != 0 {
			call(user.NewProc("DeleteMenu"), menu, scClose, 0)
		}
	}
	out, err := os.OpenFile("CONOUT$", os.O_RDWR, 0)
	if err != nil {
		return os.Stdout
	}
	return out
}

// alone says whether this is the only agent. The mutex lives as long as we do.
func alone() bool {
	name, err := syscall.UTF16PtrFromString("rescuebox-agent")
	if err != nil {
		return true
	}
	create := syscall.NewLazyDLL("kernel32.dll").NewProc("CreateMutexW")
	if create.Find() != nil {
		return true
	}
	_, _, err = create.Call(0, 0, uintptr(unsafe.Pointer(name)))
	return err != syscall.ERROR_ALREADY_EXISTS
}

// call calls a function that this Windows may not have; then its result is 0.
func call(p *syscall.LazyProc, args ...uintptr) uintptr {
	if p.Find() != nil {
		return 0
	}
	result, _, _ := p.Call(args...)
	return result
}
