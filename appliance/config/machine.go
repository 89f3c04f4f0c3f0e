package config

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// machines checks every machine, and that none has what another one has.
func (c *checker) machines(raw []rawMachine, lan LAN) []Machine {
	var list []Machine
	taken := owners{}
	for i, r := range raw {
		path := fmt.Sprintf("machine[%d]", i)
		m := c.machine(path, r, lan)
		c.unique(taken, "name", path, ".name", m.Name)
		for j, mac := range m.MACs {
			c.unique(taken, "MAC", path, fmt.Sprintf(".mac[%d]", j), mac)
		}
		c.unique(taken, "UUID", path, ".uuid", m.UUID)
		if m.Address.IsValid() {
			c.unique(taken, "address", path, ".address", m.Address.String())
		}
		list = append(list, m)
	}
	return list
}

// owners is the machine that has a name, MAC, UUID or address, by its path.
type owners map[[2]string]string

func (c *checker) unique(taken owners, what, machine, key, value string) {
	if value == "" {
		return
	}
	if first, ok := taken[[2]string{what, value}]; ok {
		c.wrong(machine+key, *faultf("each "+what+" belongs to one machine",
			"%s is taken by %s of line %d", value, c.label(first), c.shape.lineOf(first)))
		return
	}
	taken[[2]string{what, value}] = machine
}

func (c *checker) machine(path string, raw rawMachine, lan LAN) Machine {
	m := Machine{
		Name:  read(c, path+".name", raw.Name, machineName),
		UUID:  read(c, path+".uuid", raw.UUID, optional(uuid)),
		Image: read(c, path+".image", raw.Image, optional(imageName)),
		Chain: read(c, path+".chain", raw.Chain, chainName),

		BootSet:    read(c, path+".bootset", raw.BootSet, optional(imageName)),
		SecureBoot: read(c, path+".secure_boot", raw.SecureBoot, secureBoot),
		Dialect:    read(c, path+".dialect", raw.Dialect, dialectName),
		LoaderCA:   read(c, path+".loader_ca", raw.LoaderCA, loaderCA),
	}
	for i, s := range raw.MAC {
		m.MACs = append(m.MACs, read(c, fmt.Sprintf("%s.mac[%d]", path, i), s, mac))
	}
	if len(raw.MAC) == 0 && raw.UUID == "" {
		c.wrong(path+".mac", *faultf(`for example mac = ["52:54:00:12:34:56"]; what was seen on the LAN: rescuebox machine list`,
			"missing: a machine is known by a MAC or a UUID"))
	}
	m.Address = c.reservation(path+".address", raw.Address, lan)
	m.Firmware = read(c, path+".firmware", raw.Firmware, firmware)
	m.Serial = read(c, path+".serial", raw.Serial, optional(serialPort))
	if raw.Serial != "" || raw.Speed != 0 {
		m.SerialSpeed = c.speed(path+".serial_speed", raw)
	}
	if raw.BMC != nil {
		m.BMC = c.bmc(path+".bmc", *raw.BMC)
	}
	if raw.Power != nil {
		m.Power = c.power(path+".power", *raw.Power, len(raw.MAC))
	}
	if raw.Shutdown != nil {
		m.Shutdown = c.shutdown(path+".shutdown", *raw.Shutdown)
	}
	return m
}

// reservation is an address of the LAN or of the network behind a relay. The
// pool may contain it: the DHCP part gives it to nobody else.
func (c *checker) reservation(path, value string, lan LAN) netip.Addr {
	if value == "" {
		return netip.Addr{}
	}
	net := network{lan.Address.Masked(), "the LAN"}
	routers := map[netip.Addr]string{lan.Address.Addr(): "the box's own address", lan.Router: "the router's address"}
	if a, err := netip.ParseAddr(value); err == nil {
		for _, r := range lan.Relays {
			if r.Network.IsValid() && r.Network.Contains(a) {
				net = network{r.Network, "the network"}
			}
			routers[r.Router] = "the router's address"
		}
	}
	a := read(c, path, value, net.host)
	if what, ok := routers[a]; ok && a.IsValid() {
		c.wrong(path, *faultf("give the machine one of its own", "%s is %s", a, what))
	}
	if lan.DHCP == Proxy || lan.DHCP == Off {
		c.warn(path, fmt.Sprintf("not used: with dhcp = %q the box gives no addresses", lan.DHCP), "reserve it in the site's own DHCP server")
	}
	return a
}

// mac parses a station's MAC in any usual spelling.
func mac(s string) (string, *fault) {
	b, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "", ".", "").Replace(s))
	switch {
	case err != nil || len(b) != 6:
		return "", faultf("six bytes such as 52:54:00:12:34:56", "%s is no MAC address", quote(s))
	case b[0]&1 != 0:
		return "", faultf("take the MAC of the machine's own network card", "%s is a multicast address, which no card has", quote(s))
	case isFilled(b, 0):
		return "", faultf("take the MAC of the machine's own network card", "%s is empty", quote(s))
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]), nil
}

// sharedUUIDs are in whole series of boards; DHCP takes them for none.
var sharedUUIDs = []string{"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009", "6ab5b300-538d-1014-9fb5-b0684d007b53"}

// uuid parses an SMBIOS UUID. Boards that nobody programmed have all bytes alike, mostly
// all bits clear or set (SMBIOS 7.2.1: "not present", "not set"): it would match them all.
func uuid(s string) (string, *fault) {
	const hint = "`dmidecode -s system-uuid` shows it, e.g. 4c4c4544-0042-3510-8054-b4c04f564432"
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return "", faultf(hint, "%s is no UUID", quote(s))
	}
	u := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	if isFilled(b, b[0]) || slices.Contains(sharedUUIDs, u) {
		return "", faultf("leave it out and name the machine's mac", "%s is what boards without a UUID say", quote(s))
	}
	return u, nil
}

func isFilled(b []byte, with byte) bool {
	for _, v := range b {
		if v != with {
			return false
		}
	}
	return true
}

func (c *checker) bmc(path string, raw rawBMC) *BMC {
	b := read(c, path+".url", raw.URL, bmcURL)
	if b.User = raw.User; b.User == "" {
		c.wrong(path+".user", *faultf(`for example user = "rescue"`, "missing: who the box logs in as"))
	}
	b.PasswordFile = read(c, path+".password_file", raw.PasswordFile, passwordFile)
	if b.System = raw.System; b.System != "" && b.Protocol != "redfish" && b.Protocol != "" { // IPMI would take the whole chassis
		c.wrong(path+".system", *faultf("write redfish:// in its url, or leave system out", "%s:// knows no systems", b.Protocol))
	}
	return &b
}

func passwordFile(s string) (string, *fault) {
	if s == "" {
		return "", faultf(`for example password_file = "/etc/rescuebox/secrets/srv01"`, "missing: the file with the password")
	}
	return absolutePath(s)
}

// bmcURL parses protocol, host and port. Its errors do not repeat the URL:
// people put passwords into URLs.
func bmcURL(s string) (BMC, *fault) {
	const hint = `for example url = "ipmi://192.168.77.21", redfish://… or auto://…`
	u, err := url.Parse(s)
	switch {
	case s == "":
		return BMC{}, faultf(hint, "missing")
	case err != nil || u.Host == "":
		return BMC{}, faultf(hint, "this is no URL of a BMC")
	case u.User != nil:
		return BMC{}, faultf("name them in user and password_file", "user and password do not belong into the URL")
	case u.Scheme != "ipmi" && u.Scheme != "redfish" && u.Scheme != "auto":
		return BMC{}, faultf(hint, "%s is no protocol of a BMC: want ipmi, redfish or auto", quote(u.Scheme))
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return BMC{}, faultf(hint, "nothing may follow host and port")
	}
	b := BMC{Protocol: u.Scheme, Host: u.Hostname()}
	if b.Host == "" {
		return BMC{}, faultf(hint, "the URL names no host")
	}
	if p := u.Port(); p != "" {
		if b.Port, err = strconv.Atoi(p); err != nil || b.Port < 1 || b.Port > 65535 {
			return BMC{}, faultf(hint, "%s is no port", quote(p))
		}
	}
	return b, nil
}
