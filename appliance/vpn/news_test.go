package vpn

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/link/linktest"
)

// More news of interfaces than a socket holds, as of a driver gone mad, costs none of it: the next change is heard by
// the same socket, and nothing stays when it is closed.
func TestMoreNewsThanTheSocketHolds(t *testing.T) {
	w := linktest.New(t)
	ok(t, w.Branch.IP("link add mad0 type veth peer name mad1"))
	t.Cleanup(func() { ok(t, w.Branch.IP("link del mad0")) })
	mad, err := netlink.LinkByName("mad0")
	ok(t, err)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		ok(t, err)
		return len(list)
	}
	files, routines := open(), runtime.NumGoroutine()
	l, err := openNews(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	ok(t, err)
	raw, err := l.file.SyscallConn()
	ok(t, err)
	ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }))
	ok(t, err)
	mtu := 1400
	change := func() {
		mtu++
		ok(t, netlink.LinkSetMTU(mad, mtu))
	}
	for range 20 { // nobody reads yet
		change()
	}
	if _, err := l.file.Read(make([]byte, 1<<16)); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("the test itself: all the news fits: %v", err)
	}
	for { // it begins anew once the socket is empty
		ok(t, l.file.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if _, err := l.file.Read(make([]byte, 1<<16)); err != nil {
			break
		}
	}
	ok(t, l.file.SetReadDeadline(time.Time{}))
	for range 20 {
		change()
	}
	l.wg.Go(l.run)
	heard := func() bool {
		select {
		case <-l.changed:
			return true
		default:
			return false
		}
	}
	eventually(t, 20*time.Second, "that something changed is heard", heard)
	for range 3 {
		eventually(t, 20*time.Second, "a change after the overflow is heard", func() bool {
			change()
			return heard()
		})
	}
	l.close()
	eventually(t, 20*time.Second, "all ends", func() bool { return open() <= files && runtime.NumGoroutine() <= routines })
}
