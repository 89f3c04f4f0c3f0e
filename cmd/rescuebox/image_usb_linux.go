package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCache has the kernel forget what it holds of a disk: what is read after
// that comes from the disk.
func dropCache(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0) }

// readPartitions has the kernel look at the new partition table; if it does not, the next
// plugging in does.
func readPartitions(f *os.File) { _ = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0) }
