package config

import (
	"strings"
	"testing"
	"time"
)

// Each thing that can be wrong with the way in; the text stands from line 6 on.
var linkErrors = []struct{ name, toml, want string }{
	{"uplink of nothing", "[[uplink]]\nname = \"WAN\"\n",
		"site.toml:6: uplink \"WAN\": interface: want one of interface and modem (hint: interface = \"eth0\", or modem = \"lte\" for the data of a [[modem]])\n" +
			"site.toml:7: uplink \"WAN\": name: \"WAN\" is no name (hint: small letters, digits, dots and dashes: name = \"wan\")"},
	{"uplink on the rescue LAN, and unknown modem", "[[uplink]]\nname = \"wan\"\ninterface = \"eth1\"\n[[uplink]]\nname = \"lte\"\nmodem = \"e3372\"\n",
		"site.toml:8: uplink \"wan\": interface: eth1 is the rescue LAN (hint: the Internet is behind another one, or behind a router that is no uplink of the box)\n" +
			"site.toml:11: uplink \"lte\": modem: there is no modem \"e3372\" that carries data (hint: write a [[modem]] with that name, and with data)"},
	{"probes", "[[uplink]]\nname = \"wan\"\ninterface = \"eth0\"\nprobe = [\"ping 9.9.9.9\", \"tcp://192.0.2.1\", \"icmp://9.9.9.9:80\"]\ninterval = \"1ms\"\n",
		"site.toml:9: uplink \"wan\": probe: \"ping 9.9.9.9\" is no probe (hint: " + probeHint + ")\n" +
			"site.toml:9: uplink \"wan\": probe: \"tcp://192.0.2.1\" has no port (hint: " + probeHint + ")\n" +
			"site.toml:9: uplink \"wan\": probe: \"icmp://9.9.9.9:80\" has a port that is none (hint: " + probeHint + ")\n" +
			"site.toml:10: uplink \"wan\": interval: \"1ms\" is not between 20ms and 1h (hint: the default is \"50ms\")"},
	{"link", "[link]\nmode = \"always\"\nfailback = \"0s\"\nmax_switches = 1\n",
		"site.toml:7: link.mode: \"always\" is no mode: want standby, dormant or lte-only (hint: \"standby\" keeps the modem's tunnel warm)\n" +
			"site.toml:8: link.failback: \"0s\" is not between 1s and 24h (hint: the default is \"1m\")\n" +
			"site.toml:9: link.max_switches: 1 is not between 2 and 1000 (hint: the default is 12)"},
	{"VPN without anything", "[vpn]\naddress = \"10.99.0.0/24\"\n",
		"site.toml:6: vpn: the VPN has no uplink to go by (hint: write an [[uplink]] for the branch's router: name = \"wan\", interface = \"eth0\")\n" +
			"site.toml:6: vpn: the VPN has no hub to go to (hint: write a [[vpn.hub]])\n" +
			"site.toml:7: vpn.address: \"10.99.0.0/24\" is a network, not an address in it (hint: the box's own address in the VPN with the VPN's prefix length: address = \"10.99.0.2/24\")"},
	{"hub", someUplink + "[vpn]\naddress = \"10.99.0.2/24\"\n[[vpn.hub]]\npublic_key = \"secret\"\nendpoint = [\"192.0.2.1\"]\nallowed_ips = [\"10.99.0.1/24\"]\nping = \"10.99.0.2\"\n",
		"site.toml:12: vpn.hub 1: public_key: this is no WireGuard key (hint: `wg show` on the hub prints it: 44 characters that end in =)\n" +
			"site.toml:13: vpn.hub 1: endpoint: \"192.0.2.1\" is no host with its port (hint: for example endpoint = [\"192.0.2.1:51820\"]; an address does without DNS)\n" +
			"site.toml:14: vpn.hub 1: allowed_ips: \"10.99.0.1/24\" is an address in a network (hint: write \"10.99.0.0/24\")\n" +
			"site.toml:15: vpn.hub 1: ping: 10.99.0.2 is the box itself (hint: ping = \"10.99.0.1\", the hub's address in the VPN)"},
	{"VPN on the rescue LAN", someUplink + "[vpn]\naddress = \"192.168.77.9/24\"\n" + someHub,
		"site.toml:10: vpn.address: 192.168.77.9/24 overlaps the rescue LAN (hint: give the VPN addresses that neither branch nor office uses)"},
	{"external VPN", "[vpn]\nexternal = \"tailscale0\"\nunit = \"tailscaled\"\nmtu = 1400\n",
		"site.toml:8: vpn.unit: \"tailscaled\" is no service of systemd (hint: for example unit = \"tailscaled.service\")\n" +
			"site.toml:9: vpn.mtu: an external VPN has its own settings (hint: leave it out)"},
	{"modem", "[[modem]]\nname = \"lte\"\ndata = \"ncm\"\nport = \"ttyUSB2\"\napn = \"internet\\\",,\"\nuser = \"u\"\nbilling_day = 32\nquota = \"5\"\n",
		"site.toml:6: modem \"lte\": interface: missing: data = \"ncm\" needs it (hint: the modem's network device: interface = \"usb0\")\n" +
			"site.toml:6: modem \"lte\": auth: the APN's login is not whole (hint: auth = \"pap\" or \"chap\", user and password_file go together)\n" +
			"site.toml:9: modem \"lte\": port: \"ttyUSB2\" is no modem's port (hint: /dev/serial/by-id has names that stay; \"usb:2c7c:0125.02\" is interface 02 of such a USB device)\n" +
			"site.toml:10: modem \"lte\": apn: \"internet\\\",,\" has characters that no AT command can carry (hint: letters, digits, dots, dashes and @)\n" +
			"site.toml:12: modem \"lte\": billing_day: 32 is not between 1 and 31 (hint: the default is 1)\n" +
			"site.toml:13: modem \"lte\": quota: \"5\" is no size: want a number and a unit such as 20MiB (hint: units are B, kB, MB, GB, KiB, MiB, GiB, and kbit, Mbit, Gbit)"},
	{"text messages without a modem", "[[text.sender]]\nnumber = \"8 916 123\"\nmay = [\"reboot\", \"boot srv9\"]\n[[notify.text]]\nto = [\"+79161234567\"]\n",
		"site.toml:6: text.sender 1: no modem gets text messages (hint: write a [[modem]])\n" +
			"site.toml:7: text.sender 1: number: \"8 916 123\" is no phone number (hint: with the country: \"+79161234567\")\n" +
			"site.toml:8: text.sender 1: may: \"reboot\" is no right (hint: there are status, ticket, boot, power, link, vpn, reset)\n" +
			"site.toml:8: text.sender 1: may: no machine is called \"srv9\" (hint: it must be one of this file)\n" +
			"site.toml:9: notify.text 1: no modem sends text messages (hint: write a [[modem]])"},
	{"GSM socket", "[[modem]]\nname = \"sms\"\ndata = \"none\"\nport = \"/dev/ttyUSB2\"\n" + someMachine + "[machine.power]\nkind = \"gsm-socket\"\nmodel = \"custom\"\nnumber = \"123\"\non_reply = \"(\"\n",
		"site.toml:13: machine \"srv01\": power.on_text: missing: a socket that can neither switch on nor cycle helps nobody (hint: for example on_text = \"ON\")\n" +
			"site.toml:16: machine \"srv01\": power.number: \"123\" is no phone number (hint: with the country: \"+79161234567\")\n" +
			"site.toml:17: machine \"srv01\": power.on_reply: \"(\" is no regular expression (hint: for example on_reply = \"(?i)socket on\")"},
}

const (
	probeHint  = "for example \"icmp://9.9.9.9\", \"dns://9.9.9.9\", \"tcp://192.0.2.1:443\", \"http://www.example.org/generate_204\" or \"handshake\""
	someUplink = "[[uplink]]\nname = \"wan\"\ninterface = \"eth0\"\n"
	someHub    = "[[vpn.hub]]\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = [\"192.0.2.1:51820\"]\n"
)

func TestLinkErrors(t *testing.T) {
	for _, tt := range linkErrors {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("site.toml", []byte(least+tt.toml))
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", err, tt.want)
			}
		})
	}
}

// Who counts on text messages is told that a modem with one port has none while it carries data.
func TestTextsBesideData(t *testing.T) {
	const (
		sender = "[[text.sender]]\nnumber = \"+79161234567\"\n"
		modem  = "[[modem]]\nname = \"lte\"\nport = \"/dev/ttyUSB2\"\n"
		uplink = "[[uplink]]\nname = \"lte\"\nmodem = \"lte\"\n"
		warns  = "site.toml:8: modem \"lte\": ppp_port: missing: no text message comes or goes by this modem while its only port carries data"
	)
	for _, tt := range []struct{ name, toml, want string }{
		{"always", modem + uplink + sender, warns + `: always, with mode = "standby" (`},
		{"sometimes", modem + uplink + sender + "[link]\nmode = \"dormant\"\n", warns + " ("},
		{"who is told", modem + uplink + "[[notify.text]]\nto = [\"+79161234567\"]\n", warns},
		{"a socket", modem + uplink + someMachine + "[machine.power]\nkind = \"gsm-socket\"\nmodel = \"isocket\"\nnumber = \"+79160000009\"\n", warns},
		{"the same port twice", modem + "ppp_port = \"/dev/ttyUSB2\"\n" + uplink + sender, strings.Replace(warns, ":8:", ":11:", 1)},
		{"nobody counts on any", modem + uplink, ""},
		{"no data", modem + sender, ""},
		{"two ports", modem + "ppp_port = \"/dev/ttyUSB3\"\n" + uplink + sender, ""},
		{"another way", "[[modem]]\nname = \"lte\"\nport = \"/dev/ttyUSB2\"\ndata = \"ncm\"\ninterface = \"usb0\"\n" + uplink + sender, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("site.toml", []byte(least+"[rescue]\nssh_keys = [\""+annasKey+"\"]\n"+tt.toml))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range cfg.Warnings {
				got = append(got, w.Error())
			}
			if all := strings.Join(got, "\n"); (all == "") != (tt.want == "") || !strings.Contains(all, tt.want) {
				t.Errorf("got %q, want %q", all, tt.want)
			}
		})
	}
}

// A number of a person may be written as people write it, and each wire costs what the reference says.
func TestLinkValues(t *testing.T) {
	cfg, err := Parse("site.toml", []byte(least+someUplink+"[[modem]]\nname = \"lte\"\nport = \"/dev/ttyUSB2\"\n[[uplink]]\nname = \"lte\"\nmodem = \"lte\"\ninterval = \"1s\"\n"+
		"[[text.sender]]\nnumber = \"+7 (916) 123-45-67\"\nmay = [\"status\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Text.Senders[0].Number; got != "+79161234567" {
		t.Errorf("the number is %s", got)
	}
	if len(cfg.Warnings) == 0 || !strings.Contains(cfg.Warnings[len(cfg.Warnings)-1].Error(), "533 MB in 30 days") {
		t.Errorf("nobody is told what a probe each second costs on LTE: %v", cfg.Warnings)
	}
	if gb := float64(monthly(wireInterval)) / 1e9; gb < 11 || gb > 12 {
		t.Errorf("50 ms cost %.1f GB", gb)
	}
	if up := cfg.Uplinks; up[0].Metered || !up[1].Metered || up[0].Interval != 50*time.Millisecond {
		t.Errorf("uplinks are %+v", up)
	}
}
