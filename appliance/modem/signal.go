package modem

import (
	"context"
	"strings"
	"time"
)

// Signal is the radio at one moment. What the modem does not say is zero.
type Signal struct {
	Time       time.Time
	Technology string
	RSSI       int // dBm
	RSRP       int // of LTE and 5G, dBm
	RSRQ       int // dB
	SINR       int // dB
}

// Known says whether the modem said anything.
func (s Signal) Known() bool { return s.RSSI != 0 || s.RSRP != 0 }

// DBm is the one number for people: RSRP where there is one, for RSSI counts the neighbours' noise too.
func (s Signal) DBm() int {
	if s.RSRP != 0 {
		return s.RSRP
	}
	return s.RSSI
}

// Quality is the signal in a word, by the usual scales of planners.
func (s Signal) Quality() string {
	limits := [3]int{-70, -85, -100} // RSSI
	if s.RSRP != 0 {
		limits = [3]int{-80, -95, -110}
	}
	switch v := s.DBm(); {
	case v == 0:
		return "unknown"
	case v >= limits[0]:
		return "excellent"
	case v >= limits[1]:
		return "good"
	case v >= limits[2]:
		return "fair"
	}
	return "poor"
}

// The history is a day, a sample each minute.
const (
	sampleEvery = time.Minute
	maxSamples  = 24 * 60
)

// remember adds a sample to a bounded history.
func remember(history []Signal, s Signal) []Signal {
	if n := len(history); n > 0 && s.Time.Sub(history[n-1].Time) < sampleEvery {
		return history
	}
	history = append(history, s)
	if n := len(history); n > maxSamples {
		history = append(history[:0:0], history[n-maxSamples:]...)
	}
	return history
}

// meters are the commands that tell of the signal, the general ones first; what a modem does
// not know is asked once in a session.
var meters = []struct {
	cmd, prefix string
	read        func(f []string, s *Signal)
}{
	{"+CSQ", "+CSQ", readCSQ},
	{"+CESQ", "+CESQ", readCESQ},
	{"^HCSQ?", "^HCSQ", readHCSQ},
	{"+QCSQ", "+QCSQ", readQCSQ},
}

// askSignal asks all meters that this modem knows.
func askSignal(ctx context.Context, s commander, refused map[string]bool) (Signal, error) {
	sig := Signal{Time: time.Now()}
	for _, meter := range meters {
		if refused[meter.cmd] {
			continue
		}
		lines, err := s.command(ctx, meter.cmd, meter.prefix, shortAnswer)
		if isRefusal(err) {
			refused[meter.cmd] = true
			continue
		}
		if err != nil {
			return sig, err
		}
		for _, line := range lines {
			meter.read(fields(line), &sig)
		}
	}
	return sig, nil
}

// readCSQ is 3GPP TS 27.007 section 8.5: 0…31 from -113 dBm in steps of 2, 99 not known; 100…191 is TD-SCDMA's.
func readCSQ(f []string, s *Signal) {
	n, ok := number(f, 0)
	switch {
	case ok && n >= 0 && n <= 31:
		s.RSSI = -113 + 2*n
	case ok && n >= 100 && n <= 191:
		s.RSSI = -116 + n - 100
	}
}

// readCESQ is 3GPP TS 27.007 section 8.69: <rxlev>,<ber>,<rscp>,<ecno>,<rsrq>,<rsrp>; 99 and 255 are not known.
func readCESQ(f []string, s *Signal) {
	if n, ok := number(f, 4); ok && n >= 0 && n <= 34 {
		s.RSRQ = n/2 - 20
	}
	if n, ok := number(f, 5); ok && n >= 0 && n <= 97 {
		s.RSRP = n - 141
	}
}

// readHCSQ is Huawei's: "LTE",<rssi>,<rsrp>,<sinr>,<rsrq>; "WCDMA",<rssi>,<rscp>,<ecio>; "GSM",<rssi>.
func readHCSQ(f []string, s *Signal) {
	value := func(i, most int) (int, bool) {
		n, ok := number(f, i)
		return n, ok && n >= 0 && n <= most
	}
	if n, ok := value(1, 96); ok {
		s.RSSI = n - 121
	}
	if strings.ToUpper(f[0]) != "LTE" {
		return
	}
	if n, ok := value(2, 97); ok {
		s.RSRP = n - 141
	}
	if n, ok := value(3, 251); ok {
		s.SINR = n/5 - 20
	}
	if n, ok := value(4, 34); ok {
		s.RSRQ = n/2 - 20
	}
}

// readQCSQ is Quectel's: "LTE",<rssi>,<rsrp>,<sinr>,<rsrq>, in dBm and dB but for the <sinr>, 0…250 in fifths from -20.
func readQCSQ(f []string, s *Signal) {
	value := func(i int) (int, bool) {
		n, ok := number(f, i)
		return n, ok && n < 0 && n >= -150
	}
	if n, ok := value(1); ok {
		s.RSSI = n
	}
	if kind := strings.ToUpper(f[0]); !strings.Contains(kind, "LTE") && kind != "CAT-M1" && kind != "EMTC" && kind != "CAT-NB1" {
		return
	}
	if n, ok := value(2); ok {
		s.RSRP = n
	}
	if n, ok := number(f, 3); ok && n >= 0 && n <= 250 {
		s.SINR = n/5 - 20
	}
	if n, ok := value(4); ok {
		s.RSRQ = n
	}
}
