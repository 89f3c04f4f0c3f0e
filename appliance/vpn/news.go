package vpn

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// news hears that something changed in the kernel, and says no more than that: who hears it looks at all, so that
// nothing is lost where there is more news than a socket holds.
type news struct {
	changed chan struct{}
	matters func([]byte) bool // of messages as they came; nil: all do
	file    *os.File
	wg      sync.WaitGroup
}

// watchLinks hears of interfaces until close.
func watchLinks() (*news, error) {
	n, err := openNews(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("subscribe to news of interfaces: %w", err)
	}
	n.wg.Go(n.run)
	return n, nil
}

// watchFilter hears of changes of our packet filter, by us and by others, until close.
func watchFilter() (*news, error) {
	n, err := openNews(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("subscribe to news of nftables: %w", err)
	}
	n.matters = ofFilter
	n.wg.Go(n.run)
	return n, nil
}

// ofFilter reports whether messages of nfnetlink speak of our table: each names the one that it is about.
func ofFilter(b []byte) bool {
	list, _ := syscall.ParseNetlinkMessage(b)
	return slices.ContainsFunc(list, func(m syscall.NetlinkMessage) bool {
		return m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && bytes.Contains(m.Data, []byte(filterName+"\x00"))
	})
}

// openNews has the socket only: news of a group of netlink waits in it.
func openNews(protocol, group int) (*news, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	n := &news{changed: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "netlink")}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (group - 1)}); err != nil {
		n.file.Close()
		return nil, err
	}
	return n, nil
}

// run reads until the socket is closed. Of a socket that fails otherwise nothing more is heard: all is
// looked at now and then all the same.
func (n *news) run() {
	for buf := make([]byte, 1<<16); ; {
		size, err := n.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // more changed than the socket holds
		case err != nil:
			return
		case n.matters != nil && !n.matters(buf[:size]):
			continue
		}
		tell(n.changed)
	}
}

func (n *news) close() {
	n.file.Close()
	n.wg.Wait()
}
