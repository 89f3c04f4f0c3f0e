package modem

import (
	"context"
	"regexp"
	"strconv"
	"time"
)

// clockForm is +CCLK's "yy/MM/dd,hh:mm:ss±zz" (3GPP TS 27.007 section 8.15), zz in quarters of an hour.
var clockForm = regexp.MustCompile(`^"?(\d\d)/(\d\d)/(\d\d),(\d\d):(\d\d):(\d\d)([+-]\d{1,3})"?$`)

// clockSince is the oldest time that a modem is believed: one that nobody told the time begins in 1980, 2000, 2002 or 2004.
var clockSince = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// parseClock reads a modem's clock. One without a zone may be 14 hours off, and a clock ahead of the time is
// worse than a late one: the WireGuard peer would take nothing more from us until the time has caught up. It is not ok.
func parseClock(line string) (time.Time, bool) {
	f := clockForm.FindStringSubmatch(line)
	if f == nil {
		return time.Time{}, false
	}
	var n [7]int
	for i := range n {
		n[i], _ = strconv.Atoi(f[i+1])
	}
	if n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || n[3] > 23 || n[4] > 59 || n[5] > 60 || n[6] < -96 || n[6] > 96 {
		return time.Time{}, false
	}
	if n[0] >= 80 { // Qualcomm's modems begin on 6 January 1980
		n[0] -= 100
	}
	local := time.Date(2000+n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.UTC)
	at := local.Add(-time.Duration(n[6]) * 15 * time.Minute)
	return at, at.After(clockSince)
}

// offerClock tells whoever needs a clock what time the network says (NITZ, by +CTZU=1). A modem that does not know it yet is
// to be asked again soon: some networks say it minutes after the registration. One that has no clock counts as told.
func (m *Modem) offerClock(ctx context.Context, s commander) (told bool, err error) {
	if m.Clock == nil {
		return true, nil
	}
	lines, err := s.command(ctx, "+CCLK?", "+CCLK", shortAnswer)
	if isRefusal(err) {
		return true, nil
	}
	for _, line := range lines {
		if at, ok := parseClock(line); ok {
			m.Clock(at)
			told = true
		}
	}
	return told, err
}
