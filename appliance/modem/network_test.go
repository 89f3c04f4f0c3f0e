package modem

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRegistration(t *testing.T) {
	for _, test := range []struct {
		line string
		stat registration
		act  int
		ok   bool
	}{
		{"0,1", home, -1, true},
		{"2,5", roaming, -1, true},
		{`2,1,"00C3","01A2B3C4",7`, home, 7, true},
		{`2,1,"00C3","01A2B3C4"`, home, -1, true},
		{"2,1,00C3,01A2B3C4,2", home, 2, true}, // without quotes: some ZTE
		{`2, 11, "0A", "0B", 10`, 11, 10, true},
		{"1", 0, -1, false},                     // the news
		{`1,"00C3","01A2B3C4",7`, 0, -1, false}, // the news with its place
		{`5,"0001","01A2B3C4",7`, 0, -1, false}, // here <stat> could be <n>
		{"1,00C3,01A2B3C4,7", 0, -1, false},     // the news without quotes
		{"1,0001,01A2B3C4,7", 0, -1, false},     // its place could be a number
		{"2,12", 0, -1, false}, {"9,1", 0, -1, false}, {"", 0, -1, false}, {"x,y", 0, -1, false}, {"-1,-1", 0, -1, false},
	} {
		stat, act, ok := parseRegistration(test.line)
		if ok != test.ok || ok && (stat != test.stat || act != test.act) {
			t.Errorf("%q: %d, %d, %v", test.line, stat, act, ok)
		}
	}
}

func TestSignalOfMeters(t *testing.T) {
	for _, test := range []struct {
		meter, line string
		want        Signal
	}{
		{"+CSQ", "20,99", Signal{RSSI: -73}}, {"+CSQ", "0,0", Signal{RSSI: -113}}, {"+CSQ", "31,99", Signal{RSSI: -51}}, {"+CSQ", "99,99", Signal{}},
		{"+CSQ", "150,99", Signal{RSSI: -66}}, {"+CSQ", "x", Signal{}}, {"+CSQ", "", Signal{}},
		{"+CESQ", "99,99,255,255,20,40", Signal{RSRP: -101, RSRQ: -10}}, {"+CESQ", "30,0,255,255,255,255", Signal{}}, {"+CESQ", "1,2", Signal{}},
		{"^HCSQ?", `"LTE",46,40,120,20`, Signal{RSSI: -75, RSRP: -101, SINR: 4, RSRQ: -10}}, {"^HCSQ?", `"WCDMA",30,30,58`, Signal{RSSI: -91}},
		{"^HCSQ?", `"GSM",36,255,255,255,255`, Signal{RSSI: -85}}, {"^HCSQ?", `"NOSERVICE"`, Signal{}},
		{"+QCSQ", `"LTE",-52,-81,195,-10`, Signal{RSSI: -52, RSRP: -81, SINR: 19, RSRQ: -10}}, {"+QCSQ", `"WCDMA",-69,-70,-2`, Signal{RSSI: -69}},
		{"+QCSQ", `"NOSERVICE"`, Signal{}},
	} {
		var got Signal
		for _, meter := range meters {
			if meter.cmd == test.meter {
				meter.read(fields(test.line), &got)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %q: %s", test.meter, test.line, diff)
		}
	}
}

func TestSignalHistoryIsBounded(t *testing.T) {
	t.Parallel()
	var history []Signal
	begin := time.Now()
	for i := range 5 * maxSamples {
		history = remember(history, Signal{Time: begin.Add(time.Duration(i) * 30 * time.Second), RSSI: -i})
	}
	if len(history) != maxSamples || cap(history) > 2*maxSamples+64 {
		t.Errorf("%d samples, room for %d", len(history), cap(history))
	}
	if d := history[len(history)-1].Time.Sub(history[0].Time); d < 23*time.Hour || d > 25*time.Hour {
		t.Errorf("they reach over %s", d)
	}
}

func TestWhyNoData(t *testing.T) {
	t.Parallel()
	for stat, want := range map[registration]bool{home: true, roaming: true, homeSMSOnly: false, roamingSMSOnly: false, homeNoCSFB: true, roamingNoCSFB: true} {
		state, why := network{circuit: -1, packet: -1, lte: stat, five: -1}.why(true)
		if state != Registered || (why == "") != want {
			t.Errorf("<stat> %d: %s, %q", stat, state, why)
		}
	}
}

func TestParseClock(t *testing.T) {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for line, want := range map[string]time.Time{
		`"26/11/23,11:00:00+12"`: at, `"26/11/23,03:30:00-18"`: at, "26/11/23,08:00:00+00": at, `"26/11/23,11:00:00+012"`: at,
		`"26/11/23,11:00:00"`:    {}, // no zone
		`"80/01/06,00:00:00+00"`: {},
		`"02/01/01,00:00:00+00"`: {}, `"04/01/01,00:00:00+00"`: {}, `"26/13/23,11:00:00+12"`: {}, `"26/11/23,25:00:00+12"`: {}, "": {},
	} {
		got, ok := parseClock(line)
		if ok == want.IsZero() || ok && !got.Equal(want) {
			t.Errorf("%q: %s, %v", line, got, ok)
		}
	}
}

func TestOperator(t *testing.T) {
	for _, test := range []struct {
		line, name string
		numeric    bool
		act        int
	}{
		{`0,0,"MegaFon",7`, "MegaFon", false, 7}, {`0,2,"25002",2`, "25002", true, 2}, {"0", "", false, -1}, {`1,0,"Beeline, 2",0`, "Beeline, 2", false, 0},
	} {
		name, numeric, act := parseOperator(test.line)
		if name != test.name || numeric != test.numeric || act != test.act {
			t.Errorf("%q: %q, %v, %d", test.line, name, numeric, act)
		}
	}
}
