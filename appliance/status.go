package appliance

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"rescuebox/appliance/admin/api"
)

// status is what the API shows of the box.
func (b *box) status() api.Status {
	d := b.dhcp.Status()
	s := api.Status{Site: b.Config.Site, Version: b.Version, Started: b.started,
		LAN:  api.LAN{Interface: b.Config.LAN.Interface, Address: b.Config.LAN.Address.String()},
		DHCP: api.DHCP{Configured: string(b.Config.LAN.DHCP), Mode: string(d.Mode), Why: d.Why}}
	for _, h := range b.sup.Health() {
		p := api.Part{Name: h.Part, State: "starting", Since: h.Since, Restarts: h.Restarts, Error: h.Err}
		switch {
		case h.Ready:
			p.State = "running"
		case h.Err != "":
			p.State = "failed"
		}
		s.Parts = append(s.Parts, p)
	}
	return s
}

// summary is the status in one line, for systemctl status.
func (b *box) summary() string {
	var failed []string
	for _, h := range b.sup.Health() {
		if !h.Ready {
			failed = append(failed, h.Part)
		}
	}
	if len(failed) > 0 {
		return "not running: " + strings.Join(failed, ", ")
	}
	return fmt.Sprintf("all parts run, DHCP mode %s", b.dhcp.Status().Mode)
}

// leases lists the addresses that DHCP gave out.
func (b *box) leases() ([]api.Lease, error) {
	list := []api.Lease{}
	for _, l := range b.dhcp.Leases() {
		machine, _ := b.table.MachineOf(l.MAC)
		list = append(list, api.Lease{Address: l.Addr.String(), MAC: l.MAC.String(), Machine: machine,
			Host: l.Host, State: "bound", Expires: l.Expires})
	}
	return list, nil
}

// watchdogInterval is half of what systemd asks for, or a minute without systemd.
func watchdogInterval() time.Duration {
	if usec, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC")); err == nil && usec > 0 {
		return time.Duration(usec) * time.Microsecond / 2
	}
	return time.Minute
}
