package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// serviceBMC is the machine's controller.
const serviceBMC = "bmc"

// runBMC opens a port on this computer for each service of the machine's controller.
func (k *connector) runBMC(ctx context.Context) error {
	switch {
	case k.to.Ticket != "":
		return usagef("--ticket names a ticket, and a BMC has none")
	case len(k.rest) > 0:
		return usagef("arguments for ssh go with a ticket, not with a BMC")
	}
	at, err := netip.ParseAddrPort(k.listen)
	if err != nil || at.Port() != 0 {
		return usagef("--listen %s: a BMC has several ports: want an address with port 0, such as 127.0.0.1:0", k.listen)
	}
	probe, err := listenLocal(k.listen) // before the box opens anything
	if err != nil {
		return err
	}
	probe.Close()
	ways, err := k.client.ConnectBMC(ctx, k.to.Machine, k.to.For)
	if err != nil {
		return err
	}
	defer ways[0].Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var rows [][]string
	for _, way := range ways {
		l, err := listenSame(at.Addr(), way.Target)
		if err != nil {
			return err
		}
		f := &forward{cli: k.cli, way: way, listener: l}
		defer f.wg.Wait()
		defer stop()
		f.wg.Go(func() { f.run(ctx) })
		rows = append(rows, []string{way.Name, way.Target, serviceURL(way.Name, f.port())})
		if k.json {
			k.line("connect", map[string]any{"machine": way.Machine, "service": way.Name, "target": way.Target,
				"local": f.port().String(), "url": serviceURL(way.Name, f.port()), "expires": way.Expires})
		}
	}
	if !k.json {
		if err := table(k.out, []string{"SERVICE", "THERE", "HERE"}, rows); err != nil {
			return err
		}
		fmt.Fprintf(k.errOut, "the BMC of %s is reached here until %s; Ctrl-C closes the ports\n", clean(ways[0].Machine), clock(ways[0].Expires))
	}
	return k.wait(ctx, ways[0])
}

// listenSame opens the port that the service has there, since remote consoles expect it;
// another one where it is taken or needs rights.
func listenSame(addr netip.Addr, target string) (net.Listener, error) {
	if there, err := netip.ParseAddrPort(target); err == nil && there.Port() >= 1024 {
		if l, err := net.Listen("tcp", netip.AddrPortFrom(addr, there.Port()).String()); err == nil {
			return l, nil
		}
	}
	return listenLocal(netip.AddrPortFrom(addr, 0).String())
}

// serviceURL is how to use a service.
func serviceURL(name string, at netip.AddrPort) string {
	switch strings.ToLower(name) {
	case "https", "http":
		return strings.ToLower(name) + "://" + at.String() + "/"
	case "ssh":
		return fmt.Sprintf("ssh -p %d USER@%s", at.Port(), at.Addr())
	}
	return at.String()
}
