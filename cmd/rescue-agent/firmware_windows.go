//go:build go1.26

package main

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// firmwareTable is the SMBIOS table as Windows has it, nil if it does not tell.
func firmwareTable() []byte {
	const provider = 'R'<<24 | 'S'<<16 | 'M'<<8 | 'B'
	get := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetSystemFirmwareTable")
	if get.Find() != nil {
		return nil
	}
	size, _, _ := get.Call(provider, 0, 0, 0)
	if size == 0 || size > 1<<20 {
		return nil
	}
	table := make([]byte, size)
	n, _, _ := get.Call(provider, 0, uintptr(unsafe.Pointer(&table[0])), size)
	if n > size {
		return nil
	}
	return table[:n]
}
