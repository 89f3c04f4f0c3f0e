package modem

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func (l Link) text() string {
	var s []string
	for _, p := range l.Addresses {
		s = append(s, p.String())
	}
	return strings.Join(s, " ") + " via " + l.Gateway.String() + " dns " + sprint(l.DNS)
}

// What modems answer to +CGCONTRDP; the first is the example of 3GPP, the others are of modems.
func TestContextParameters(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  string
	}{
		"mask behind it": {[]string{`1,5,"internet","10.1.2.3.255.255.255.252","10.1.2.1","8.8.8.8","8.8.4.4"`}, "10.1.2.3/30 via 10.1.2.1 dns [8.8.8.8 8.8.4.4]"},
		"mask alone":     {[]string{`1,5,"internet","10.1.2.3","","10.0.0.53",""`}, "10.1.2.3/32 via invalid IP dns [10.0.0.53]"},
		"other context":  {[]string{`2,6,"ims","10.9.9.9"`, `1,5,"internet","10.1.2.3"`}, "10.1.2.3/32 via invalid IP dns []"},
		"IPv6 in bytes": {[]string{`1,5,"six","42.0.16.40.0.0.0.0.0.0.0.0.0.0.0.1.255.255.255.255.255.255.255.255.0.0.0.0.0.0.0.0","254.128.0.0.0.0.0.0.0.0.0.0.0.0.0.1","42.0.16.40.0.0.0.0.0.0.0.0.0.0.0.83"`},
			"2a00:1028::1/64 via fe80::1 dns [2a00:1028::53]"},
		"IPv6 with colons": {[]string{`1,5,"six","2a00:1028::1"`}, "2a00:1028::1/64 via invalid IP dns []"},
		"both": {[]string{`1,5,"x","10.1.2.3","10.1.2.1","8.8.8.8"`, `1,5,"x","42.0.16.40.0.0.0.0.0.0.0.0.0.0.0.1","254.128.0.0.0.0.0.0.0.0.0.0.0.0.0.1"`},
			"10.1.2.3/32 2a00:1028::1/64 via 10.1.2.1 dns [8.8.8.8]"},
		"only half an address": {[]string{`1,5,"six","254.128.0.0.0.0.0.0.0.0.0.0.0.0.0.1"`}, "error"},
		"nothing":              {[]string{`1,5,"internet"`}, "error"},
		"no host's":            {[]string{`1,5,"internet","0.0.0.0"`}, "error"},
		"nonsense":             {[]string{`1,5,"internet","10.1.2.3.255.0.255.0"`, "", `1,,,,,,`}, "error"},
	} {
		l, err := parseContext(tt.lines)
		got := "error"
		if err == nil {
			got = l.text()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	l, err := parseAddress([]string{`1,"10.1.2.3","42.0.16.40.0.0.0.0.0.0.0.0.0.0.0.1"`})
	if err != nil || l.text() != "10.1.2.3/32 2a00:1028::1/64 via invalid IP dns []" {
		t.Errorf("+CGPADDR: %v, %v", l.text(), err)
	}
}

// The answers are those of ModemManager's tests and of Huawei's references.
func TestBearerStates(t *testing.T) {
	for line, want := range map[string]string{
		`1,,,"IPV4"`: "up", `0,,,"IPV4"`: "down", `1`: "up", `0`: "down", `0,,,"IPV4",1,,,"IPV6"`: "up",
		`0,33,,"IPV4",0,33,,"IPV6"`: "the SIM has not subscribed", `2,,,"IPV4"`: "down", ``: "does not say", `x,y`: "does not say",
	} {
		up, err := ndisUp([]string{line})
		if got := inWords(up, err); !strings.Contains(got, want) {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
	for _, tt := range []struct {
		read  func([]string) (bool, error)
		lines []string
		want  string
	}{
		{contextUp, []string{"1,1", "2,0"}, "up"}, {contextUp, []string{"1,0", "2,1"}, "down"}, {contextUp, []string{"2,1"}, "down"}, {contextUp, nil, "does not say"},
		{zteUp, []string{"1"}, "up"}, {zteUp, []string{"1,0"}, "down"}, {telitUp, []string{"0,1"}, "up"}, {telitUp, []string{"0,0"}, "down"},
	} {
		up, err := tt.read(tt.lines)
		if got := inWords(up, err); !strings.Contains(got, tt.want) {
			t.Errorf("%q is %q, want %q", tt.lines, got, tt.want)
		}
	}
}

func inWords(up bool, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case up:
		return "up"
	}
	return "down"
}

func FuzzAddressAnswers(f *testing.F) {
	for _, s := range []string{`1,5,"internet","10.1.2.3.255.255.255.252","10.1.2.1","8.8.8.8"`, `1,"10.1.2.3"`, `1,,,"IPV4",0,33,,"IPV6"`,
		"A3C5840A,F8FFFFFF,A1C5840A,A1C5840A,C8011F0A,C9011F0A,0,0", "1", `1,1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lines := strings.Split(s, "\n")
		for _, parse := range []func() (Link, error){
			func() (Link, error) { return parseContext(lines) },
			func() (Link, error) { return parseAddress(lines) },
			func() (Link, error) { return parseDHCP(lines[0]) },
		} {
			l, err := parse()
			if (err == nil) != (len(l.Addresses) > 0) {
				t.Errorf("%v and %v", l, err)
			}
			for _, p := range l.Addresses {
				if !p.IsValid() || !usable(p.Addr()) {
					t.Errorf("address %v", p)
				}
			}
		}
		for _, up := range []func([]string) (bool, error){ndisUp, contextUp, zteUp, telitUp} {
			if is, err := up(lines); is && err != nil {
				t.Errorf("up and %v", err)
			}
		}
		_ = refusalOf(s)
	})
}

func FuzzRouterAdvertisement(f *testing.F) {
	whole, err := hex.DecodeString("86000000400007080000000000000000" + "03044040000002580000012c00000000" + "20010db8000800000000000000000000" +
		"0501000000000578" + "19030000000004b0" + "20010db8000800000000000000000053")
	if err != nil {
		f.Fatal(err)
	}
	a, err := parseAdvert(whole)
	if err != nil || len(a.prefixes) != 1 || a.prefixes[0].prefix.String() != "2001:db8:8::/64" || a.mtu != 1400 || sprint(a.dns) != "[2001:db8:8::53]" || !a.router {
		f.Fatalf("%+v, %v", a, err)
	}
	f.Add(whole)
	f.Add(whole[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAdvert(b)
		if err != nil && (a.router || a.prefixes != nil || a.dns != nil) {
			t.Errorf("half a result with %v", err)
		}
		for _, p := range a.prefixes {
			if p.prefix.Bits() != 64 || !usable(p.prefix.Addr()) || p.valid <= 0 {
				t.Errorf("prefix %v", p)
			}
		}
	})
}

func FuzzLease(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP([]byte{192, 168, 8, 100}), dhcpv4.WithOption(dhcpv4.OptRouter([]byte{192, 168, 8, 1})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseFrom(p)
		if err != nil {
			return
		}
		if !usable(l.address.Addr()) || !l.address.IsValid() || l.valid < shortestTerm || l.valid > longestTerm || l.renew <= 0 || l.renew > l.valid {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzPPPLog(f *testing.F) {
	f.Add("Using interface ppp0\nlocal  IP address 10.64.0.5\nremote IP address 10.64.64.64\nprimary   DNS address 9.9.9.9\n" + exitLine + "16")
	f.Fuzz(func(t *testing.T, s string) {
		log := pppLog{status: -1}
		for line := range strings.Lines(s) {
			log.read(line)
		}
		if log.err() == nil {
			t.Error("it ended without a reason")
		}
		for _, p := range log.link.Addresses {
			if !usable(p.Addr()) {
				t.Errorf("address %v", p)
			}
		}
	})
}

func FuzzPPPRequest(f *testing.F) {
	f.Add([]byte(`{"device":"/dev/ttyUSB3","interface":"ppp-lte","user":"u","password":"p \" \\","v4":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parsePPPRequest(b)
		if err != nil {
			return
		}
		for _, a := range r.args() {
			if r.Password != "" && len(r.Password) > 20 && strings.Contains(a, r.Password) {
				t.Error("the password is an argument")
			}
		}
		// One word each, whatever is in them: pppd reads on at the end of a line.
		if strings.Count(r.secrets(), "\n") != 2 {
			t.Errorf("%q", r.secrets())
		}
	})
}
