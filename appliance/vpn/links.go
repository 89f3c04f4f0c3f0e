package vpn

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// links hears that interfaces came, went or changed, and says no more than that: who hears it looks at all, so that
// nothing is lost where there is more news than a socket holds.
type links struct {
	changed chan struct{}
	file    *os.File
	wg      sync.WaitGroup
}

// watchLinks hears of interfaces until close.
func watchLinks() (*links, error) {
	l, err := openLinks()
	if err == nil {
		l.wg.Go(l.run)
	}
	return l, err
}

// openLinks has the socket only: news waits in it.
func openLinks() (*links, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to news of interfaces: %w", err)
	}
	l := &links{changed: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "rtnetlink")}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("subscribe to news of interfaces: %w", err)
	}
	return l, nil
}

// run reads until the socket is closed. Of a socket that fails otherwise nothing more is heard: the interfaces
// are looked at now and then all the same.
func (l *links) run() {
	for buf := make([]byte, 1<<16); ; {
		_, err := l.file.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		tell(l.changed)
	}
}

func (l *links) close() {
	l.file.Close()
	l.wg.Wait()
}
