package appliance

import (
	"context"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/admin"
)

// clockSlack is how far what is stored may lie ahead of the clock: the steps of a time server.
const clockSlack = 2 * time.Minute

// checkClock looks whether the clock can be right. A box without a battery starts
// in the past; then certificates are not valid yet, and the timeline lies.
func (b *box) checkClock(context.Context) []admin.Finding {
	now := time.Now()
	if last, what := b.newest(); last.Sub(now) > clockSlack {
		return admin.Fault(admin.Failed, "clock-behind", "set it, and give the box a time server: timedatectl set-ntp true",
			"the clock says %s, but %s is of %s", now.Format(time.DateTime), what, last.Format(time.DateTime))
	}
	synced, known := clockSynced()
	switch {
	case known && !synced:
		return admin.Fault(admin.Warning, "clock-unsynced", "give the box a time server: timedatectl set-ntp true; timedatectl timesync-status",
			"the clock says %s, and no time server keeps it right", now.Format(time.DateTime))
	case !known:
		return admin.Fine("the clock says %s; whether a time server keeps it right the kernel does not tell", now.Format(time.DateTime))
	}
	return admin.Fine("the clock says %s, and a time server keeps it right", now.Format(time.DateTime))
}

// newest is the latest time that the clock must have passed, and where it stands.
func (b *box) newest() (last time.Time, what string) {
	note := func(t time.Time, of string) {
		if t.After(last) {
			last, what = t, of
		}
	}
	if exe, err := os.Executable(); err == nil {
		if fi, err := os.Stat(exe); err == nil {
			note(fi.ModTime(), "this program")
		}
	}
	for _, o := range b.table.AllOrders(1) {
		note(o.Created, "the last order")
	}
	if list, err := b.library.List(); len(err) == 0 {
		for _, i := range list {
			note(i.Added, "image "+i.Name)
		}
	}
	for _, l := range b.dhcp.Leases() {
		note(l.Renewed, "the lease of "+l.Addr.String())
	}
	return last, what
}

// clockSynced asks the kernel whether a time server disciplines the clock
// (adjtimex(2)). A sandbox that protects the clock, as the unit's does, forbids to ask: then
// systemd does it for us.
func clockSynced() (synced, known bool) {
	var t unix.Timex // mode 0: only asks
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return timedated()
	}
	const timeError = 5 // TIME_ERROR
	return state != timeError && t.Status&unix.STA_UNSYNC == 0, true
}

// timedatedLimit is for a service that may have to be started first.
const timedatedLimit = 2 * time.Second

// timedated asks org.freedesktop.timedate1(5).
func timedated() (synced, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), timedatedLimit)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return false, false
	}
	defer bus.Close()
	const name = "org.freedesktop.timedate1"
	err = bus.Object(name, "/org/freedesktop/timedate1").CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, name, "NTPSynchronized").Store(&synced)
	return synced, err == nil
}
