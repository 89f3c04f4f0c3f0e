package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each class of error with its exact text: these lines are what an admin has
// to go by. "LEAST" stands for five lines that are right.
var errorTests = []struct{ name, toml, want string }{
	{"empty", "",
		"site.toml:1: site: missing (hint: name the branch at the top of the file: site = \"kazan-2\")\nsite.toml:1: lan.interface: missing: the interface on the rescue LAN (hint: `ip -br link` lists the box's interfaces)\nsite.toml:1: lan.address: missing: the box's own address on the rescue LAN (hint: for example address = \"192.168.77.1/24\")\nsite.toml:1: lan.range: missing: dhcp = \"auto\" gives addresses (hint: for example range = [\"192.168.77.100\", \"192.168.77.199\"]; or dhcp = \"proxy\" beside the site's own server)"},
	{"not UTF-8", "site = \"\xff\"\n",
		"site.toml:1: the file is not UTF-8 text (hint: save it as UTF-8; PowerShell's > writes UTF-16)"},
	{"syntax: quote", `site = "kazan-2
[lan]
`,
		"site.toml:1: basic strings cannot have new lines (hint: look for a missing quote, bracket or = there)"},
	{"syntax: bracket", `LEAST
[http
port = 80
`,
		"site.toml:6: expected ']' to close table name (hint: look for a missing quote, bracket or = there)"},
	{"syntax: no value", `LEAST
[http]
port =
`,
		"site.toml:7: the value is missing (hint: look for a missing quote, bracket or = there)"},
	{"syntax: no equals sign", `LEAST
[http]
port 80
`,
		"site.toml:7: expected '=' after key (hint: look for a missing quote, bracket or = there)"},
	{"syntax after other problems", `LEAST
lese = "1h"
[http]
port = "80"
[boot
`,
		`site.toml:6: lan.lese: unknown key (hint: did you mean lease?)
site.toml:8: http.port: want a whole number, got a text (hint: write the number without quotes: port = 1)
site.toml:9: expected ']' to close table name (hint: look for a missing quote, bracket or = there)`},
	{"number too large", `LEAST
[http]
port = 99999999999999999999
`,
		"site.toml:7: http.port: the number is too large (hint: count its digits)"},
	{"unknown key", `LEAST
[http]
prot = 80
`,
		"site.toml:7: http.prot: unknown key (hint: did you mean port?)"},
	{"unknown key, capital letter", `LEAST
[http]
Port = 80
`,
		"site.toml:7: http.Port: unknown key (hint: did you mean port?)"},
	{"unknown key of another table", `lease = "1h"
LEAST
`,
		"site.toml:1: lease: unknown key (hint: lease belongs to [lan])"},
	{"unknown key of the top", `[lan]
site = "kazan-2"
interface = "eth1"
address = "192.168.77.1/24"
dhcp = "proxy"
`,
		"site.toml:2: lan.site: unknown key (hint: site belongs to the top of the file, before the first [table])"},
	{"unknown key, no idea", `LEAST
[http]
frobnicate = 80
`,
		"site.toml:7: http.frobnicate: unknown key (hint: [http] knows port, rate_limit)"},
	{"unknown key, long and strange", `LEAST
[http]
"x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x ." = 80
`,
		`site.toml:7: http."x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x .x…": unknown key (hint: [http] knows port, rate_limit)`},
	{"unknown table", `LEAST
[zzz]
a = 1
b = 2
`,
		"site.toml:6: zzz: unknown key (hint: the file knows admin, boot, http, lan, link, log, machine, modem, notify, rescue, site, state, text, tftp, ticket, uplink, vpn)"},
	{"capital letters in a table", `LEAST
[reScue]
ssh_keYs.0 = "0"
[Lan.range]
`,
		`site.toml:6: reScue: unknown key (hint: did you mean rescue?)
site.toml:8: Lan: unknown key (hint: did you mean lan?)`},
	{"misspelled table", `site = "kazan-2"
[lann]
interface = "eth1"
`,
		"site.toml:2: lann: unknown key (hint: did you mean lan?)"},
	{"misspelled key that must be there", `site = "kazan-2"
[lan]
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.77.199"]
interfac = "eth1"
`,
		"site.toml:5: lan.interfac: unknown key (hint: did you mean interface?)"},
	{"key below a key", `LEAST
[http]
port.x = 80
`,
		"site.toml:7: http.port.x: unknown key (hint: port is a key, no table)"},
	{"secret in the file", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
bmc_password = "x"
`,
		`site.toml:9: machine "srv01": bmc_password: unknown key (hint: secrets stay out of this file: put it into a file of its own and name that with password_file)`},
	{"key twice", `LEAST
lease = "1h"
lease = "2h"
`,
		"site.toml:7: lan.lease: it stands on line 6 already (hint: keep one of the two)"},
	{"table twice", `LEAST
[http]
port = 80
[boot]
[http]
port = 81
`,
		"site.toml:9: http: it stands on line 6 already (hint: put its keys together)"},
	{"table half dotted", `LEAST
[http]
port = 80
[rescue]
[http.port]
`,
		"site.toml:9: http.port: this is a key, no table (hint: write port = … in its table)"},
	{"one bracket too few", `LEAST
[machine]
name = "srv01"
`,
		"site.toml:6: machine: one pair of brackets is for a table that stands once (hint: write [[machine]])"},
	{"one bracket too many", `LEAST
[[http]]
port = 80
`,
		"site.toml:6: http: two pairs of brackets are for a table that can stand several times (hint: write [http])"},
	{"bmc before its machine", `LEAST
[machine.bmc]
url = "ipmi://192.168.77.21"
`,
		"site.toml:6: machine.bmc: it stands before its machine or network (hint: put it below its [[machine]])"},
	{"table and key", `LEAST
[http]
port = 80
[boot]
ttl = "1h"
[lan.range]
`,
		"site.toml:10: lan.range: this is a key, no table (hint: write range = … in its table)"},
	{"number for text", `LEAST
lease = 3600
`,
		`site.toml:6: lan.lease: want a text, got a whole number (hint: put the value in quotes: lease = "…")`},
	{"text for number", `LEAST
[http]
port = "80"
`,
		"site.toml:7: http.port: want a whole number, got a text (hint: write the number without quotes: port = 1)"},
	{"text for list", `LEAST
dns = "192.168.77.1"
`,
		`site.toml:6: lan.dns: want a list, got a text (hint: put the value in brackets: dns = ["…"])`},
	{"text for table", `site = "kazan-2"
lan = "eth1"
`,
		"site.toml:2: lan: want a table, got a text (hint: write [lan] on a line of its own and its keys below)"},
	{"number in a list", `LEAST
dns = ["192.168.77.1", 9]
`,
		"site.toml:6: lan.dns: want a text, got a whole number (hint: every element of dns is one text in quotes)"},
	{"other types for text", `LEAST
domain = true
lease = 1.5
router = 2026-11-22
`,
		`site.toml:6: lan.domain: want a text, got true or false (hint: put the value in quotes: domain = "…")
site.toml:7: lan.lease: want a text, got a fraction (hint: put the value in quotes: lease = "…")
site.toml:8: lan.router: want a text, got a date or time (hint: put the value in quotes: router = "…")`},
	{"list of numbers for tables", `machine = [1]
LEAST
`,
		"site.toml:1: machine 1: want a table, got a whole number (hint: write [[machine]] on a line of its own and its keys below)"},
	{"site", `site = " "
[lan]
interface = "eth1"
address = "192.168.77.1/24"
dhcp = "off"
`,
		`site.toml:1: site: " " is no name: want up to 63 printable characters (hint: name the branch at the top of the file: site = "kazan-2")`},
	{"interface", `site = "kazan-2"
[lan]
interface = "eth 1"
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		"site.toml:3: lan.interface: \"eth 1\" is no interface name: want up to 15 characters such as eth1 (hint: `ip -br link` lists the box's interfaces)"},
	{"interface, missing", `site = "kazan-2"
[lan]
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		"site.toml:2: lan.interface: missing: the interface on the rescue LAN (hint: `ip -br link` lists the box's interfaces)"},
	{"address without length", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1"
range = ["192.168.77.100", "192.168.77.199"]
`,
		`site.toml:4: lan.address: "192.168.77.1" has no prefix length (hint: most LANs have /24: address = "192.168.77.1/24")`},
	{"address, no address", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.300/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		`site.toml:4: lan.address: "192.168.77.300/24" is no address with a prefix length (hint: for example address = "192.168.77.1/24")`},
	{"address, network", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.0/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		"site.toml:4: lan.address: 192.168.77.0 is the address of the LAN 192.168.77.0/24 itself (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"address, broadcast", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.255/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		"site.toml:4: lan.address: 192.168.77.255 is the broadcast address of the LAN 192.168.77.0/24 (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"address, IPv6", `site = "kazan-2"
[lan]
interface = "eth1"
address = "fd00::1/64"
range = ["192.168.77.100", "192.168.77.199"]
`,
		`site.toml:4: lan.address: "fd00::1/64" is not IPv4, the only IP that every firmware boots over (hint: for example address = "192.168.77.1/24")`},
	{"address, multicast", `site = "kazan-2"
[lan]
interface = "eth1"
address = "224.0.0.1/24"
range = ["192.168.77.100", "192.168.77.199"]
`,
		`site.toml:4: lan.address: "224.0.0.1/24" is no address that a host can have (hint: for example address = "192.168.77.1/24")`},
	{"address, no room", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/31"
range = ["192.168.77.100", "192.168.77.199"]
`,
		`site.toml:4: lan.address: "192.168.77.1/31" has a prefix length that is not between /8 and /30 (hint: for example address = "192.168.77.1/24")`},
	{"dhcp mode", `LEAST
dhcp = "yes"
`,
		`site.toml:6: lan.dhcp: "yes" is no mode: want auto, full, proxy or off (hint: "auto" looks first and is right nearly everywhere)`},
	{"range missing", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
`,
		`site.toml:2: lan.range: missing: dhcp = "auto" gives addresses (hint: for example range = ["192.168.77.100", "192.168.77.199"]; or dhcp = "proxy" beside the site's own server)`},
	{"range missing, full", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
dhcp = "full"
`,
		`site.toml:2: lan.range: missing: dhcp = "full" gives addresses (hint: for example range = ["192.168.77.100", "192.168.77.199"]; or dhcp = "proxy" beside the site's own server)`},
	{"range of one", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.100"]
`,
		`site.toml:5: lan.range: want two addresses, the first and the last, got 1 (hint: for example range = ["192.168.77.100", "192.168.77.199"])`},
	{"range outside", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.78.199"]
`,
		"site.toml:5: lan.range: 192.168.78.199 is outside the LAN 192.168.77.0/24 (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"range to the broadcast address", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.77.255"]
`,
		"site.toml:5: lan.range: 192.168.77.255 is the broadcast address of the LAN 192.168.77.0/24 (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"range from the network address", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.0", "192.168.77.20"]
`,
		"site.toml:5: lan.range: 192.168.77.0 is the address of the LAN 192.168.77.0/24 itself (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"range backwards", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.199", "192.168.77.100"]
`,
		"site.toml:5: lan.range: the first address 192.168.77.199 is above the last 192.168.77.100 (hint: swap the two)"},
	{"range with the box in it", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.1", "192.168.77.100"]
`,
		"site.toml:5: lan.range: 192.168.77.1 to 192.168.77.100 contains the box's own address 192.168.77.1 (hint: let the range begin above it or end below it)"},
	{"range with the router in it", `LEAST
router = "192.168.77.150"
`,
		"site.toml:5: lan.range: 192.168.77.100 to 192.168.77.199 contains the router 192.168.77.150 (hint: let the range begin above it or end below it)"},
	{"range too large", `site = "kazan-2"
[lan]
interface = "eth1"
address = "10.0.0.1/8"
range = ["10.1.0.0", "10.2.0.0"]
`,
		"site.toml:5: lan.range: 65537 addresses are more than 65536 (hint: a branch needs some hundred)"},
	{"range, no addresses", `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["a", "192.168.77.0/24"]
`,
		`site.toml:5: lan.range: "a" is no IP address (hint: write it as 192.168.77.20, without prefix length or port)
site.toml:5: lan.range: "192.168.77.0/24" is no IP address (hint: write it as 192.168.77.20, without prefix length or port)`},
	{"router outside", `LEAST
router = "192.168.78.1"
`,
		"site.toml:6: lan.router: 192.168.78.1 is outside the LAN 192.168.77.0/24 (hint: use 192.168.77.1 to 192.168.77.254)"},
	{"dns", `LEAST
dns = [
  "192.168.77.1",
  "fd00::1",
  "dns.example.org",
  "255.255.255.255",
]
`,
		`site.toml:8: lan.dns: "fd00::1" is not IPv4 (hint: the rescue LAN is IPv4)
site.toml:9: lan.dns: "dns.example.org" is no IP address (hint: write it as 192.168.77.20, without prefix length or port)
site.toml:10: lan.dns: 255.255.255.255 is no address that a host can have (hint: take one of a host's)`},
	{"too many dns servers", `LEAST
dns = ["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4", "9.9.9.5", "9.9.9.6", "9.9.9.7", "9.9.9.8", "9.9.9.9"]
`,
		"site.toml:6: lan.dns: 9 servers are more than 8 (hint: two are enough)"},
	{"domain", `LEAST
domain = "kazan..org"
`,
		`site.toml:6: lan.domain: "kazan..org" is no domain name (hint: for example domain = "kazan.example.org")`},
	{"lease, no duration", `LEAST
lease = "1 day"
`,
		`site.toml:6: lan.lease: "1 day" is no duration (hint: units are s, m and h, with no space: "90s", "30m", "24h", "1h30m")`},
	{"lease too short", `LEAST
lease = "1s"
`,
		`site.toml:6: lan.lease: "1s" is not between 10s and 720h (hint: the default is "1h")`},
	{"lease too long", `LEAST
lease = "721h"
`,
		`site.toml:6: lan.lease: "721h" is not between 10s and 720h (hint: the default is "1h")`},
	{"known_share", `LEAST
known_share = 101
`,
		"site.toml:6: lan.known_share: 101 is not between 0 and 100 (hint: the default is 25)"},
	{"relay without anything", `LEAST
[[lan.relay]]
`,
		`site.toml:6: lan.relay 1: network: missing (hint: for example network = "192.168.78.0/24")
site.toml:6: lan.relay 1: router: missing: without a router the machines there do not reach the box (hint: name the relay's address in it)
site.toml:6: lan.relay 1: range: missing: dhcp = "auto" gives addresses (hint: for example range = ["192.168.77.100", "192.168.77.199"]; or dhcp = "proxy" beside the site's own server)`},
	{"relay with host bits", `LEAST
[[lan.relay]]
network = "10.1.2.3/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.1"
`,
		`site.toml:7: lan.relay 1: network: "10.1.2.3/16" is an address in a network, not the network (hint: write network = "10.1.0.0/16")`},
	{"relay over the LAN", `LEAST
[[lan.relay]]
network = "192.168.76.0/22"
range = ["192.168.76.10", "192.168.76.20"]
router = "192.168.76.1"
`,
		"site.toml:7: lan.relay 1: network: 192.168.76.0/22 overlaps the LAN 192.168.77.0/24 (hint: each network can be named once)"},
	{"relay over a relay", `LEAST
[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.1"
[[lan.relay]]
network = "10.1.128.0/17"
range = ["10.1.128.10", "10.1.128.20"]
router = "10.1.128.1"
`,
		"site.toml:11: lan.relay 2: network: 10.1.128.0/17 overlaps 10.1.0.0/16 of line 7 (hint: each network can be named once)"},
	{"relay range outside", `LEAST
[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.2.0.10", "10.1.0.20"]
router = "10.1.0.1"
`,
		"site.toml:8: lan.relay 1: range: 10.2.0.10 is outside the network 10.1.0.0/16 (hint: use 10.1.0.1 to 10.1.255.254)"},
	{"relay range with its router", `LEAST
[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.15"
`,
		"site.toml:8: lan.relay 1: range: 10.1.0.10 to 10.1.0.20 contains the router 10.1.0.15 (hint: let the range begin above it or end below it)"},
	{"relay router outside", `LEAST
[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "192.168.77.1"
`,
		"site.toml:9: lan.relay 1: router: 192.168.77.1 is outside the network 10.1.0.0/16 (hint: use 10.1.0.1 to 10.1.255.254)"},
	{"boot", `LEAST
[boot]
unknown = ""
ttl = "-5m"
`,
		`site.toml:7: boot.unknown: empty: what shall machines boot that nobody named? (hint: write unknown = "local" to leave them alone)
site.toml:8: boot.ttl: "-5m" is not between 1s and 168h (hint: the default is "30m")`},
	{"boot unknown, no image name", `LEAST
[boot]
unknown = "../etc"
`,
		"site.toml:7: boot.unknown: \"../etc\" is no image name (hint: `rescuebox image list` names those there are)"},
	{"http", `LEAST
[http]
port = 65536
rate_limit = "20MiBps"
`,
		`site.toml:7: http.port: 65536 is not between 1 and 65535 (hint: the default is 80)
site.toml:8: http.rate_limit: "20MiBps" is no rate: want a number and a unit such as 20MiB/s (hint: units are B, kB, MB, GB, KiB, MiB, GiB, and kbit, Mbit, Gbit; "none" is no limit)`},
	{"rate without unit", `LEAST
[http]
rate_limit = "20"
`,
		`site.toml:7: http.rate_limit: "20" is no rate: want a number and a unit such as 20MiB/s (hint: units are B, kB, MB, GB, KiB, MiB, GiB, and kbit, Mbit, Gbit; "none" is no limit)`},
	{"rate too slow", `LEAST
[http]
rate_limit = "20B/s"
`,
		`site.toml:7: http.rate_limit: "20B/s" is slower than 64KiB/s (hint: "none" is no limit)`},
	{"tftp", `LEAST
[tftp]
port = 67
block_size = 1500
`,
		`site.toml:7: tftp.port: 67 is a port of the DHCP part (hint: leave it at 69: firmware asks there)
site.toml:8: tftp.block_size: 1500 is not between 512 and 1468 (hint: the default is 1468)`},
	{"ssh key", `LEAST
[rescue]
ssh_keys = [
  "ssh-ed25519 AAAA",
  "",
]
`,
		`site.toml:8: rescue.ssh_keys: this is no SSH public key (hint: one line of a .pub file: ssh-ed25519 AAAA… you@laptop)
site.toml:9: rescue.ssh_keys: want one public key on one line (hint: one line of a .pub file: ssh-ed25519 AAAA… you@laptop)`},
	{"private ssh key", `LEAST
[rescue]
ssh_keys = ["""-----BEGIN OPENSSH PRIVATE KEY-----
hunter2"""]
`,
		"site.toml:7: rescue.ssh_keys: this is a private key (hint: take the .pub file, and make a new key pair if others could read this one)"},
	{"ssh_keys_file relative", `LEAST
[rescue]
ssh_keys_file = "keys"
`,
		`site.toml:7: rescue.ssh_keys_file: "keys" is no absolute path (hint: write it from the root: /…)`},
	{"ssh_keys_file missing", `LEAST
[rescue]
ssh_keys_file = "/nonexistent/keys"
`,
		"site.toml:7: rescue.ssh_keys_file: cannot read /nonexistent/keys: no such file or directory (hint: the daemon reads it as user rescuebox: keep it in /etc/rescuebox)"},
	{"ssh_keys_file is a directory", `LEAST
[rescue]
ssh_keys_file = "/"
`,
		"site.toml:7: rescue.ssh_keys_file: cannot read: / is no regular file (hint: name a file with one public key on each line)"},
	{"admin", `LEAST
[admin]
socket = "api.sock"
group = "the admins"
listen = "8443"
`,
		`site.toml:7: admin.socket: "api.sock" is no absolute path (hint: write it from the root: /…)
site.toml:8: admin.group: "the admins" is no group name (hint: the package makes the group "rescuebox")
site.toml:9: admin.listen: "8443" is no IP address with a port (hint: for example listen = "10.8.0.2:8443")`},
	{"admin socket too long", `LEAST
[admin]
socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
`,
		"site.toml:7: admin.socket: the path is longer than the 107 bytes that a socket can have (hint: the default is /run/rescuebox/api.sock)"},
	{"admin listen port 0", `LEAST
[admin]
listen = "10.8.0.2:0"
`,
		`site.toml:7: admin.listen: "10.8.0.2:0" has port 0, where nobody would find it (hint: for example listen = "10.8.0.2:8443")`},
	{"admin listen on the port of the boot files", `LEAST
[admin]
listen = "192.168.77.1:80"
`,
		"site.toml:7: admin.listen: port 80 of 192.168.77.1 serves the boot files already ([http] port) (hint: take another one, 8443 for example)"},
	{"state", `LEAST
[state]
dir = "rescuebox"
`,
		`site.toml:7: state.dir: "rescuebox" is no absolute path (hint: write it from the root: /…)`},
	{"log", `LEAST
[log]
level = "fatal"
`,
		`site.toml:7: log.level: "fatal" is no level: want debug, info, warn or error (hint: info is the default; debug shows every packet)`},
	{"machine without anything", `LEAST
[[machine]]
`,
		`site.toml:6: machine 1: name: missing (hint: letters a to z, digits and inner dashes, at most 63: name = "srv01")
site.toml:6: machine 1: mac: missing: a machine is known by a MAC or a UUID (hint: for example mac = ["52:54:00:12:34:56"]; what was seen on the LAN: rescuebox machine list)`},
	{"machine name", `LEAST
[[machine]]
name = "srv_01"
mac = ["52:54:00:12:34:56"]
`,
		`site.toml:7: machine "srv_01": name: "srv_01" is no DNS label (hint: letters a to z, digits and inner dashes, at most 63: name = "srv01")`},
	{"machine name, capital letters", `LEAST
[[machine]]
name = "SRV01"
mac = ["52:54:00:12:34:56"]
`,
		`site.toml:7: machine "SRV01": name: "SRV01" has capital letters (hint: write name = "srv01")`},
	{"machine name twice", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:57"]
`,
		`site.toml:10: machine "srv01": name: srv01 is taken by machine "srv01" of line 6 (hint: each name belongs to one machine)`},
	{"mac", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34", "01:00:5e:00:00:01", "00:00:00:00:00:00"]
`,
		`site.toml:8: machine "srv01": mac: "52:54:00:12:34" is no MAC address (hint: six bytes such as 52:54:00:12:34:56)
site.toml:8: machine "srv01": mac: "01:00:5e:00:00:01" is a multicast address, which no card has (hint: take the MAC of the machine's own network card)
site.toml:8: machine "srv01": mac: "00:00:00:00:00:00" is empty (hint: take the MAC of the machine's own network card)`},
	{"mac twice", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[[machine]]
name = "srv02"
mac = ["52:54:00:12:34:57", "52-54-00-12-34-56"]
`,
		`site.toml:11: machine "srv02": mac: 52:54:00:12:34:56 is taken by machine "srv01" of line 6 (hint: each MAC belongs to one machine)`},
	{"uuid", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
uuid = "4c4c4544"
`,
		"site.toml:9: machine \"srv01\": uuid: \"4c4c4544\" is no UUID (hint: `dmidecode -s system-uuid` shows it, e.g. 4c4c4544-0042-3510-8054-b4c04f564432)"},
	{"uuid of all boards", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
uuid = "ffffffff-ffff-ffff-ffff-ffffffffffff"
`,
		`site.toml:9: machine "srv01": uuid: "ffffffff-ffff-ffff-ffff-ffffffffffff" is what boards without a UUID say (hint: leave it out and name the machine's mac)`},
	{"uuid of many boards", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
uuid = "03000200-0400-0500-0006-000700080009"
`,
		`site.toml:9: machine "srv01": uuid: "03000200-0400-0500-0006-000700080009" is what boards without a UUID say (hint: leave it out and name the machine's mac)`},
	{"uuid twice", `LEAST
[[machine]]
name = "srv01"
uuid = "4c4c4544-0042-3510-8054-b4c04f564432"
[[machine]]
name = "srv02"
uuid = "4C4C45440042-3510-8054-B4C04F564432"
`,
		`site.toml:11: machine "srv02": uuid: 4c4c4544-0042-3510-8054-b4c04f564432 is taken by machine "srv01" of line 6 (hint: each UUID belongs to one machine)`},
	{"image", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
image = "Rescue!"
`,
		"site.toml:9: machine \"srv01\": image: \"Rescue!\" is no image name (hint: `rescuebox image list` names those there are)"},
	{"chain", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
chain = "pxelinux"
`,
		`site.toml:9: machine "srv01": chain: "pxelinux" is no chain: want auto, shim, ipxe or windows (hint: leave it out for "auto")`},
	{"site's chain", `LEAST
[boot]
chain = "uefi"
bootset = "../ipxe"
`,
		"site.toml:7: boot.chain: \"uefi\" is no chain: want auto, shim, ipxe or windows (hint: leave it out for \"auto\")\n" +
			"site.toml:8: boot.bootset: \"../ipxe\" is no image name (hint: `rescuebox image list` names those there are)"},
	{"Secure Boot and dialect", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
secure_boot = "yes"
dialect = "No 43!"
`,
		"site.toml:9: machine \"srv01\": secure_boot: \"yes\" is neither auto, on nor off (hint: leave it out for \"auto\": a machine that booted a rescue system has told it)\n" +
			"site.toml:10: machine \"srv01\": dialect: \"No 43!\" is no dialect (hint: leave it out for \"auto\"; there are " + strings.Join(Dialects, ", ") + ")"},
	{"boot manager's signature, drop directory", `LEAST
[ticket]
drop_dir = "drop"
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
loader_ca = "2021"
`,
		"site.toml:7: ticket.drop_dir: \"drop\" is no absolute path (hint: write it from the root: /…)\n" +
			"site.toml:11: machine \"srv01\": loader_ca: \"2021\" is neither auto, 2011 nor 2023 (hint: leave it out for \"auto\": what worked last on this machine is taken)"},
	{"machine address outside", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
address = "10.9.9.9"
`,
		`site.toml:9: machine "srv01": address: 10.9.9.9 is outside the LAN 192.168.77.0/24 (hint: use 192.168.77.1 to 192.168.77.254)`},
	{"machine address of the box", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
address = "192.168.77.1"
`,
		`site.toml:9: machine "srv01": address: 192.168.77.1 is the box's own address (hint: give the machine one of its own)`},
	{"machine address of a router", `LEAST
[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.1"
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
address = "10.1.0.1"
`,
		`site.toml:13: machine "srv01": address: 10.1.0.1 is the router's address (hint: give the machine one of its own)`},
	{"machine address twice", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
address = "192.168.77.20"
[[machine]]
name = "srv02"
mac = ["52:54:00:12:34:57"]
address = "192.168.77.20"
`,
		`site.toml:13: machine "srv02": address: 192.168.77.20 is taken by machine "srv01" of line 6 (hint: each address belongs to one machine)`},
	{"bmc without anything", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
`,
		`site.toml:9: machine "srv01": bmc.url: missing (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)
site.toml:9: machine "srv01": bmc.user: missing: who the box logs in as (hint: for example user = "rescue")
site.toml:9: machine "srv01": bmc.password_file: missing: the file with the password (hint: for example password_file = "/etc/rescuebox/secrets/srv01")`},
	{"bmc protocol", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "https://192.168.77.21"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: "https" is no protocol of a BMC: want ipmi, redfish or auto (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)`},
	{"bmc without host", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "ipmi://:623"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: the URL names no host (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)`},
	{"bmc, no url", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "192.168.77.21"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: this is no URL of a BMC (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)`},
	{"bmc with password", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "ipmi://root:hunter2@192.168.77.21"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: user and password do not belong into the URL (hint: name them in user and password_file)`},
	{"bmc of a chassis, not over Redfish", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "auto://192.168.77.21"
user = "rescue"
password_file = "/p"
system = "Blade3"
`,
		`site.toml:13: machine "srv01": bmc.system: auto:// knows no systems (hint: write redfish:// in its url, or leave system out)`},
	{"bmc with path", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "redfish://192.168.77.21/redfish/v1"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: nothing may follow host and port (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)`},
	{"bmc port", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "ipmi://192.168.77.21:70000"
user = "rescue"
password_file = "/p"
`,
		`site.toml:10: machine "srv01": bmc.url: "70000" is no port (hint: for example url = "ipmi://192.168.77.21", redfish://… or auto://…)`},
	{"bmc password_file", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "ipmi://192.168.77.21"
user = "rescue"
password_file = "secrets/srv01"
`,
		`site.toml:12: machine "srv01": bmc.password_file: "secrets/srv01" is no absolute path (hint: write it from the root: /…)`},
	{"bmc password inline", `LEAST
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[machine.bmc]
url = "ipmi://192.168.77.21"
user = "rescue"
password_file = "/p"
password = "hunter2"
`,
		`site.toml:13: machine "srv01": bmc.password: unknown key (hint: secrets stay out of this file: put it into a file of its own and name that with password_file)`},
	{"several, by line", `LEAST
known_share = -1
leas = "1h"
[http]
port = "80"
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[[machine]]
name = "srv02"
mac = ["52:54:00:12:34:56"]
[boot]
ttl = "0s"
`,
		`site.toml:6: lan.known_share: -1 is not between 0 and 100 (hint: the default is 25)
site.toml:7: lan.leas: unknown key (hint: did you mean lease?)
site.toml:9: http.port: want a whole number, got a text (hint: write the number without quotes: port = 1)
site.toml:15: machine "srv02": mac: 52:54:00:12:34:56 is taken by machine "srv01" of line 10 (hint: each MAC belongs to one machine)
site.toml:17: boot.ttl: "0s" is not between 1s and 168h (hint: the default is "30m")`},
}

func TestParseErrors(t *testing.T) {
	for _, tt := range errorTests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("site.toml", []byte(strings.Replace(tt.toml, "LEAST\n", least, 1)))
			if err == nil {
				t.Fatalf("no error; got %+v", cfg)
			}
			if cfg != nil {
				t.Error("an error and a result")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProblemCanBeFound(t *testing.T) {
	_, err := Parse("site.toml", []byte(least+"[http]\nport = 0\n"))
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatalf("%T holds no *Problem", err)
	}
	want := Problem{File: "site.toml", Line: 7, Key: "http.port", Text: "0 is not between 1 and 65535", Hint: "the default is 80"}
	if diff := cmp.Diff(want, *p); diff != "" {
		t.Error(diff)
	}
}

// No error may repeat what could be a secret that somebody put into the file.
func TestErrorsHoldNoSecrets(t *testing.T) {
	_, err := Parse("site.toml", []byte(least+`[rescue]
ssh_keys = ["-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2", "hunter2"]
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
password = "hunter2"
  [machine.bmc]
  url = "ipmi://root:hunter2@192.168.77.21"
  user = "root"
  password_file = "/p"
  password = "hunter2"
[[machine]]
name = "srv02"
mac = ["52:54:00:12:34:57"]
  [machine.bmc]
  url = "ipmi://192.168.77.21:hunter2"
`))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	for name, file := range map[string]string{
		"unknown keys": strings.Repeat("a=1\n", maxSize/4),
		"machines":     least + strings.Repeat("[[machine]]\n", 10000),
	} {
		_, err := Parse("site.toml", []byte(file))
		if n := len(strings.Split(text(err), "\n")); n > maxProblems+1 {
			t.Errorf("%s: %d lines", name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(least))
	for _, tt := range errorTests {
		f.Add([]byte(strings.Replace(tt.toml, "LEAST\n", least, 1)))
	}
	for _, name := range configFiles(f) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("site.toml", text)
		if (cfg == nil) == (err == nil) {
			t.Errorf("result %v and error %v", cfg, err)
		}
		if err != nil && strings.Contains(err.Error(), "config.raw") && !strings.Contains(string(text), "config.raw") {
			t.Errorf("an error in Go's words: %v", err)
		}
	})
}
