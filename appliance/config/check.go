package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// checker turns the raw structs into a Config and collects what is wrong on
// the way, so that one reading of the file tells all of it.
type checker struct {
	file     string
	shape    *shape
	problems []pending
	warnings []pending
}

// pending is a problem whose key is still a path: machines are named in the
// end, when all names are known.
type pending struct {
	line int
	path string
	fault
}

// wrongAt notes a problem on a line.
func (c *checker) wrongAt(line int, path string, f fault) {
	c.problems = append(c.problems, pending{line, path, f})
}

// wrong notes what is wrong with a key, unless its value has the wrong type
// already: then nobody knows what it would have been.
func (c *checker) wrong(path string, f fault) {
	if c.shape.spoiled(path) {
		return
	}
	c.wrongAt(c.shape.lineOf(path), path, f)
}

func (c *checker) warn(path, text, hint string) {
	c.warnings = append(c.warnings, pending{c.shape.lineOf(path), path, fault{text, hint}})
}

// read parses the value of a key and notes what is wrong with it.
func read[T any](c *checker, path, value string, parse func(string) (T, *fault)) T {
	v, f := parse(value)
	if f != nil {
		c.wrong(path, *f)
	}
	return v
}

// readInt notes a number outside its bounds; usual is the default.
func (c *checker) readInt(path string, n, least, most, usual int) int {
	if n < least || n > most {
		c.wrong(path, *faultf(fmt.Sprintf("the default is %d", usual), "%d is not between %d and %d", n, least, most))
	}
	return n
}

// optional makes the empty text the zero value.
func optional[T any](parse func(string) (T, *fault)) func(string) (T, *fault) {
	return func(s string) (v T, f *fault) {
		if s == "" {
			return v, nil
		}
		return parse(s)
	}
}

// decode fills the raw structs, and reports whether it is worth checking them.
func (c *checker) decode(raw *rawFile) bool {
	if c.shape.hopeless || len(c.problems) >= maxProblems {
		return false
	}
	err := toml.Unmarshal(c.shape.text, raw)
	var d *toml.DecodeError
	switch {
	case err == nil:
		return true
	case errors.As(err, &d):
		line, _ := d.Position()
		c.wrongAt(line, strings.Join(d.Key(), "."), tomlFault(d))
	default:
		c.wrongAt(1, "", tomlFault(err))
	}
	return false
}

// tomlFault is an error of go-toml, which after the scan is one of syntax or
// of a number too large for its type.
func tomlFault(err error) fault {
	text := strings.TrimPrefix(err.Error(), "toml: ")
	switch {
	case strings.Contains(text, "too large"):
		return fault{"the number is too large", "count its digits"}
	case strings.HasPrefix(text, "unexpected character U+000A at start of value"):
		text = "the value is missing"
	}
	return fault{text, "look for a missing quote, bracket or = there"}
}

// config checks every table.
func (c *checker) config(raw rawFile) *Config {
	usual := defaults()
	cfg := &Config{
		Site: read(c, "site", raw.Site, siteName),
		Boot: Boot{
			Unknown: read(c, "boot.unknown", raw.Boot.Unknown, imageOrLocal),
			TTL:     read(c, "boot.ttl", raw.Boot.TTL, between(shortestTTL, longestTTL, usual.Boot.TTL)),
			Chain:   read(c, "boot.chain", raw.Boot.Chain, chainName),
			BootSet: read(c, "boot.bootset", raw.Boot.BootSet, optional(imageName)),
		},
		HTTP: HTTP{
			Port:      c.readInt("http.port", raw.HTTP.Port, 1, 65535, usual.HTTP.Port),
			RateLimit: read(c, "http.rate_limit", raw.HTTP.RateLimit, rate),
		},
		TFTP: TFTP{
			Port:      c.readInt("tftp.port", raw.TFTP.Port, 1, 65535, usual.TFTP.Port),
			BlockSize: c.readInt("tftp.block_size", raw.TFTP.BlockSize, 512, 1468, usual.TFTP.BlockSize),
		},
		Ticket: Ticket{DropDir: read(c, "ticket.drop_dir", raw.Ticket.DropDir, optional(absolutePath))},
		State:  State{Dir: read(c, "state.dir", raw.State.Dir, absolutePath)},
		Log:    Log{Level: read(c, "log.level", raw.Log.Level, logLevel)},
	}
	cfg.LAN = c.lan(raw.LAN)
	cfg.Rescue = c.rescue(raw.Rescue)
	cfg.Admin = c.admin(raw.Admin, cfg)
	cfg.Notify = c.notify(raw.Notify)
	cfg.Machines = c.machines(raw.Machine, cfg.LAN)
	cfg.Modems = c.modems(raw.Modem)
	cfg.Uplinks = c.uplinks(raw.Uplink, cfg.Modems, cfg.LAN)
	cfg.Link = c.link(raw.Link)
	cfg.VPN = c.vpn(raw.VPN, cfg.Uplinks, cfg.LAN)
	cfg.Text = c.text(raw.Text, cfg.Modems, cfg.Machines)
	c.textNeedsModem(cfg)
	c.textsBesideData(cfg)
	if slices.Contains(dhcpPorts, cfg.TFTP.Port) {
		c.wrong("tftp.port", *faultf("leave it at 69: firmware asks there", "%d is a port of the DHCP part", cfg.TFTP.Port))
	}
	cfg.Warnings = c.render(c.warnings)
	return cfg
}

// dhcpPorts are taken by DHCP and proxyDHCP.
var dhcpPorts = []int{67, 68, 4011}

func (c *checker) admin(raw rawAdmin, cfg *Config) Admin {
	a := Admin{
		Socket: read(c, "admin.socket", raw.Socket, socketPath),
		Group:  read(c, "admin.group", raw.Group, groupName),
		Listen: read(c, "admin.listen", raw.Listen, optional(addrPort)),
	}
	lan := cfg.LAN.Address.Addr()
	switch {
	case !a.Listen.IsValid():
	case (a.Listen.Addr() == lan || a.Listen.Addr().IsUnspecified()) && int(a.Listen.Port()) == cfg.HTTP.Port:
		c.wrong("admin.listen", *faultf("take another one, 8443 for example",
			"port %d of %s serves the boot files already ([http] port)", cfg.HTTP.Port, lan))
	case a.Listen.Addr() == lan || a.Listen.Addr().IsUnspecified():
		c.warn("admin.listen", "the API can be reached from the rescue LAN, where any machine may be hostile",
			"name the address of the network that the admins come from")
	}
	return a
}

// err is all problems, with their keys as people write them.
func (c *checker) err() error { return join(c.render(c.problems)) }

func (c *checker) render(list []pending) []*Problem {
	var problems []*Problem
	for _, p := range list {
		problems = append(problems, &Problem{File: c.file, Line: p.line, Key: c.label(p.path), Text: p.text, Hint: p.hint})
	}
	slices.SortStableFunc(problems, byLine)
	return problems
}

var (
	listElement = regexp.MustCompile(`^(machine|lan\.relay|notify\.webhook|notify\.mail|notify\.text|uplink|vpn\.hub|modem|text\.sender)\[(\d+)\](\.|$)`)
	valueIndex  = regexp.MustCompile(`\[\d+\]$`)
)

// label writes a path as people do: machine[0].mac[1] is machine "srv01": mac.
func (c *checker) label(path string) string {
	if m := listElement.FindStringSubmatch(path); m != nil {
		rest := valueIndex.ReplaceAllString(path[len(m[0]):], "")
		who := strings.TrimSuffix(fmt.Sprintf("%s: %s", c.element(m[1], m[2]), rest), ": ")
		return who
	}
	return valueIndex.ReplaceAllString(path, "")
}

// element names a machine; where it has no name, and relays, by counting from 1.
func (c *checker) element(list, index string) string {
	if name := c.shape.names[list+"["+index+"].name"]; name != "" {
		return list + " " + quote(name)
	}
	n, _ := strconv.Atoi(index)
	return fmt.Sprintf("%s %d", list, n+1)
}

// number is an IPv4 address as a number, to count with.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
