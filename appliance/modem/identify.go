package modem

import (
	"context"
	"strings"
)

// identify asks who the modem is. What it does not say stays empty.
func (m *Modem) identify(ctx context.Context, s *session) {
	id := map[string]string{}
	for _, cmd := range []string{"+CGMI", "+CGMM", "+CGMR", "+CGSN"} {
		id[cmd] = askOne(ctx, s, cmd)
	}
	m.show(func(st *Status) {
		st.Manufacturer, st.Model, st.Firmware = id["+CGMI"], id["+CGMM"], id["+CGMR"]
		st.IMEI = parseIMEI(id["+CGSN"])
	})
}

// identifySIM asks who the SIM is, once it is unlocked, and reports whether it says so. One that does not yet is taken for
// the one that was there: for another account its quota would be as new.
func (m *Modem) identifySIM(ctx context.Context, s *session) (named bool) {
	iccid, imsi := readICCID(ctx, s), askOne(ctx, s, "+CIMI")
	if strings.Trim(imsi, "0123456789") != "" || len(imsi) > 15 {
		imsi = ""
	}
	m.opened(iccid)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.IMSI = imsi
	if iccid == "" {
		return false
	}
	if m.status.ICCID != iccid {
		m.movedLocked() // another SIM, another quota
	}
	m.status.ICCID = iccid
	return true
}

// askOne is the one line of an answer, with the command before it or without.
func askOne(ctx context.Context, s commander, cmd string) string {
	lines, err := s.command(ctx, cmd, "", shortAnswer)
	if err != nil {
		return ""
	}
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, cmd+":"); ok {
			line = rest
		} else if linePrefix(line) != "" { // news of its own: ZTE's +ZUSIMR comes each second
			continue
		}
		if line = strings.Trim(strings.TrimSpace(line), `"`); line != "" {
			return brief(line)
		}
	}
	return ""
}

// parseIMEI keeps the 15 digits, of which the last checks the others (3GPP TS 23.003 section 6.2); some modems
// say 16, with the software version, or the IMEI between other words.
func parseIMEI(line string) string {
	digits := strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, line)
	if len(digits) < 14 || len(digits) > 17 {
		return ""
	}
	return digits
}
