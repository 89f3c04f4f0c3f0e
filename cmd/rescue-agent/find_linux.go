package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// leases is where the DHCP script of the initramfs leaves what it learned.
const leases = "/run/dhcp"

// finder looks for the box where the kernel command line does not name it: this
// system came from a stick or from virtual media and not by an order. Whoever
// gave the address, or is named beside it, is asked; the box says what it is.
type finder struct {
	dir    string // leases
	client *http.Client
	out    io.Writer
	wait   time.Duration // between two rounds
}

func newFinder(out io.Writer) finder {
	return finder{dir: leases, client: &http.Client{Timeout: 5 * time.Second}, out: out, wait: 3 * time.Second}
}

// complete fills in what the command line does not say, and tries for ever.
func (f finder) complete(ctx context.Context, o order) (order, error) {
	if o.Server != nil && o.URL != nil {
		return o, nil
	}
	for told := false; o.Server == nil; told = true {
		if o.Server = f.box(ctx); o.Server != nil {
			fmt.Fprintf(f.out, "rescuebox: the box is at %s\n", o.Server.Host)
			break
		}
		if !told {
			fmt.Fprintln(f.out, "rescuebox: looking for the box; DHCP names none yet")
		}
		if !sleep(ctx, f.wait) {
			return o, ctx.Err()
		}
	}
	if o.URL != nil {
		return o, nil
	}
	mac, err := f.mac()
	if err != nil {
		return o, err
	}
	o.URL = o.Server.JoinPath("boot", mac, "root.squashfs")
	return o, nil
}

// box is the first of the servers that DHCP named which says that it is one.
func (f finder) box(ctx context.Context) *url.URL {
	text, err := os.ReadFile(filepath.Join(f.dir, "servers"))
	if err != nil {
		return nil
	}
	tried := map[string]bool{}
	for _, word := range strings.Fields(string(text)) {
		if tried[word] || net.ParseIP(word) == nil {
			continue
		}
		tried[word] = true
		u := &url.URL{Scheme: "http", Host: word}
		if f.isBox(ctx, u) {
			return u
		}
	}
	return nil
}

func (f finder) isBox(ctx context.Context, u *url.URL) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+"/", nil)
	if err != nil {
		return false
	}
	res, err := f.client.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	greeting, _ := io.ReadAll(io.LimitReader(res.Body, 64))
	return res.StatusCode == http.StatusOK && strings.HasPrefix(string(greeting), "rescuebox ")
}

// mac is the card that got the lease, as the box writes it in paths.
func (f finder) mac() (string, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "lease"))
	if err != nil {
		return "", fmt.Errorf("find the network card of the lease: %w", err)
	}
	mac, err := net.ParseMAC(strings.TrimSpace(string(text)))
	if err != nil || len(mac) != 6 {
		return "", errors.New("find the network card of the lease: it has no Ethernet address")
	}
	return fmt.Sprintf("%x", []byte(mac)), nil
}
