package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const someKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGCNBBHR3DjI3WrXwYUOTJ6gCUQ0Rn4VZQ8+0qxB9rO2"

const someMachine = "[[machine]]\nname = \"srv01\"\nmac = [\"52:54:00:12:34:56\"]\n"

// Each thing that can be wrong with a switch, a serial port or a shutdown. The
// text stands after the least configuration and a machine, from line 9 on.
var powerErrors = []struct{ name, toml, want string }{
	{"firmware and serial port", "firmware = \"efi\"\nserial = \"COM1\"\nserial_speed = 110\n",
		"site.toml:9: machine \"srv01\": firmware: \"efi\" is neither auto, uefi nor bios (hint: leave it out for \"auto\": as its network card asks)\n" +
			"site.toml:10: machine \"srv01\": serial: \"COM1\" is no serial port (hint: for example serial = \"/dev/ttyUSB0\"; /dev/serial/by-id has names that stay)\n" +
			"site.toml:11: machine \"srv01\": serial_speed: 110 is no speed of a serial port (hint: the default is 115200; routers often have 9600)"},
	{"speed of nothing", "serial_speed = 9600\n",
		"site.toml:9: machine \"srv01\": serial_speed: a speed without a port (hint: name the port: serial = \"/dev/ttyUSB0\")"},
	{"no kind", "[machine.power]\nkind = \"hammer\"\n",
		"site.toml:10: machine \"srv01\": power.kind: \"hammer\" is no kind of switch (hint: want \"pikvm\", \"pdu\", \"wol\", \"command\" or \"gsm-socket\")"},
	{"PiKVM without anything", "[machine.power]\nkind = \"pikvm\"\noutlet = 3\n",
		"site.toml:9: machine \"srv01\": power.url: missing: kind = \"pikvm\" needs it (hint: for example url = \"https://192.168.77.30\")\n" +
			"site.toml:9: machine \"srv01\": power.user: missing: kind = \"pikvm\" needs it (hint: for example user = \"admin\")\n" +
			"site.toml:9: machine \"srv01\": power.password_file: missing: kind = \"pikvm\" needs it (hint: for example password_file = \"/etc/rescuebox/secrets/pikvm\")\n" +
			"site.toml:11: machine \"srv01\": power.outlet: kind = \"pikvm\" has no outlet (hint: leave it out, or look at kind)"},
	{"a password in the URL is not shown", "[machine.power]\nkind = \"pikvm\"\nurl = \"https://admin:hunter2@10.0.0.1\"\nuser = \"admin\"\npassword_file = \"/p\"\n",
		"site.toml:11: machine \"srv01\": power.url: user and password do not belong into the URL (hint: name them in user and password_file)"},
	{"PDU", "[machine.power]\nkind = \"pdu\"\nhost = \"10.0.0.1:snmp\"\nmodel = \"acme\"\noutlet = 2000\ncommunity_file = \"/c\"\n",
		"site.toml:11: machine \"srv01\": power.host: \"10.0.0.1:snmp\" is no host (hint: an address or a name, and a port only if it is not the usual one)\n" +
			"site.toml:12: machine \"srv01\": power.model: \"acme\" is no model that is known: want apc, raritan or eaton (hint: others: kind = \"command\" with snmpset)\n" +
			"site.toml:13: machine \"srv01\": power.outlet: 2000 is no outlet (hint: outlet = 3, as it is counted on the unit, from 1)"},
	{"PDU with two ways in", "[machine.power]\nkind = \"pdu\"\nhost = \"10.0.0.1\"\nmodel = \"apc\"\noutlet = 2\ncommunity_file = \"/c\"\nuser = \"u\"\npassword_file = \"/p\"\n",
		"site.toml:14: machine \"srv01\": power.community_file: want one way to log in to the unit (hint: community_file is for SNMP 2c; user and password_file are for SNMPv3)"},
	{"commands", "[machine.power]\nkind = \"command\"\noff = [\"outlet\", \"off\"]\n",
		"site.toml:9: machine \"srv01\": power.on: missing: a switch that can neither switch on nor cycle helps nobody (hint: for example on = [\"/usr/local/bin/outlet\", \"3\", \"on\"])\n" +
			"site.toml:11: machine \"srv01\": power.off: want a program by its whole path, and its arguments (hint: for example [\"/usr/local/bin/outlet\", \"3\", \"on\"])"},
	{"shutdown", "[machine.shutdown]\nkind = \"rsh\"\n",
		"site.toml:10: machine \"srv01\": shutdown.kind: \"rsh\" is no way to shut a system down (hint: want \"winrm\" or \"ssh\")"},
	{"shutdown by ssh", "[machine.shutdown]\nkind = \"ssh\"\nhost = \"10.0.0.1\"\nuser = \"root\"\npassword_file = \"/p\"\nhost_key = \"AAAA\"\n",
		"site.toml:9: machine \"srv01\": shutdown.key_file: missing: kind = \"ssh\" needs it (hint: for example key_file = \"/etc/rescuebox/secrets/srv01-ssh\")\n" +
			"site.toml:13: machine \"srv01\": shutdown.password_file: kind = \"ssh\" has no password_file (hint: leave it out)\n" +
			"site.toml:14: machine \"srv01\": shutdown.host_key: this is no public key (hint: ssh-keyscan -t ed25519 HOST prints it)"},
	{"shutdown by Kerberos", "[machine.shutdown]\nkind = \"winrm\"\nhost = \"10.0.0.1:5985\"\nuser = \"rescue\"\npassword_file = \"/p\"\nkdc = [\"dc 01\"]\n",
		"site.toml:11: machine \"srv01\": shutdown.host: \"10.0.0.1:5985\" is an address: Kerberos has tickets for names only (hint: for example host = \"dc06.example.org\")\n" +
			"site.toml:11: machine \"srv01\": shutdown.host: Kerberos goes over HTTPS only (hint: leave the port out: it is 5986)\n" +
			"site.toml:12: machine \"srv01\": shutdown.user: Kerberos wants the user with the realm, which is mostly in capitals (hint: for example user = \"rescue@EXAMPLE.ORG\")\n" +
			"site.toml:14: machine \"srv01\": shutdown.kdc: \"dc 01\" is no host (hint: an address or a name, and a port only if it is not the usual one)"},
}

func TestPowerErrors(t *testing.T) {
	for _, tt := range powerErrors {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("site.toml", []byte(least+someMachine+tt.toml))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a password is in the error")
			}
		})
	}
}

func TestPower(t *testing.T) {
	for _, tt := range []struct {
		name, toml string
		want       Machine
	}{
		{"serial port", "serial = \"/dev/ttyUSB0\"\nfirmware = \"bios\"\n", Machine{Serial: "/dev/ttyUSB0", SerialSpeed: 115200, Firmware: "bios"}},
		{"PiKVM", "[machine.power]\nkind = \"pikvm\"\nurl = \"https://10.0.0.1/\"\nuser = \"admin\"\npassword_file = \"/p\"\n",
			Machine{Power: &Power{Kind: "pikvm", URL: "https://10.0.0.1", User: "admin", PasswordFile: "/p"}}},
		{"PDU", "[machine.power]\nkind = \"pdu\"\nhost = \"10.0.0.1:1161\"\nmodel = \"eaton\"\noutlet = 2\ncommunity_file = \"/c\"\n",
			Machine{Power: &Power{Kind: "pdu", Host: "10.0.0.1:1161", Model: "eaton", Outlet: 2, CommunityFile: "/c"}}},
		{"Wake-on-LAN", "[machine.power]\nkind = \"wol\"\n", Machine{Power: &Power{Kind: "wol"}}},
		{"command", "[machine.power]\nkind = \"command\"\ncycle = [\"/bin/outlet\", \"cycle\"]\n",
			Machine{Power: &Power{Kind: "command", Cycle: []string{"/bin/outlet", "cycle"}}}},
		{"shutdown by Kerberos", "[machine.shutdown]\nkind = \"winrm\"\nhost = \"dc06.example.org\"\nuser = \"rescue@EXAMPLE.ORG\"\npassword_file = \"/p\"\nkdc = [\"dc01.example.org\", \"10.0.0.2:1088\"]\n",
			Machine{Shutdown: &Shutdown{Kind: "winrm", Host: "dc06.example.org", User: "rescue@EXAMPLE.ORG", PasswordFile: "/p", KDC: []string{"dc01.example.org", "10.0.0.2:1088"}}}},
		{"shutdown", "[machine.shutdown]\nkind = \"ssh\"\nhost = \"10.0.0.1\"\nuser = \"root\"\nkey_file = \"/k\"\nhost_key = \"10.0.0.1 " + someKey + "\"\n",
			Machine{Shutdown: &Shutdown{Kind: "ssh", Host: "10.0.0.1", User: "root", KeyFile: "/k", HostKey: someKey}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("site.toml", []byte(least+someMachine+tt.toml))
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Name, tt.want.MACs, tt.want.Chain = "srv01", []string{"52:54:00:12:34:56"}, "auto"
			if diff := cmp.Diff([]Machine{tt.want}, cfg.Machines, sameConfig); diff != "" {
				t.Error(diff)
			}
		})
	}
}
