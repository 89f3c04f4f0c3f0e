// Package config is the file of the site: strict TOML, checked when it is
// read, so that below it no address is a string and no value is out of range.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"
)

// Config is a checked configuration with all defaults filled in.
type Config struct {
	Site     string
	LAN      LAN
	Boot     Boot
	HTTP     HTTP
	TFTP     TFTP
	Rescue   Rescue
	Ticket   Ticket
	Admin    Admin
	Notify   Notify
	State    State
	Log      Log
	Machines []Machine
	Uplinks  []Uplink // in the order of preference
	Link     Link
	VPN      *VPN // nil: none
	Modems   []Modem
	Text     Text

	// Warnings are settings that work and are most likely not what was meant,
	// such as a rescue system without any SSH key.
	Warnings []*Problem
}

// LAN is the rescue LAN: [lan].
type LAN struct {
	Interface  string
	Address    netip.Prefix // the box's own address with the LAN's prefix length
	DHCP       Mode
	Range      Range         // the pool; needed for auto and full, else it may be zero. Machines' own addresses may lie in it
	Router     netip.Addr    // option 3; zero: none is sent
	DNS        []netip.Addr  // option 6
	Domain     string        // option 15
	Lease      time.Duration // 10s…720h, default 1h
	KnownShare int           // percent of the pool that only known machines may use; default 25
	Relays     []Relay       // [[lan.relay]]
}

// Mode is what the DHCP part does on the LAN.
type Mode string

// The modes. Auto listens and probes first and is one of the others after that.
const (
	Auto  Mode = "auto"
	Full  Mode = "full"
	Proxy Mode = "proxy"
	Off   Mode = "off"
)

// Range is a pool of addresses, both ends included.
type Range struct{ First, Last netip.Addr }

// IsZero reports whether there is no pool.
func (r Range) IsZero() bool { return r == Range{} }

// Contains reports whether an address is in the pool.
func (r Range) Contains(a netip.Addr) bool {
	return !r.IsZero() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Size is how many addresses the pool has.
func (r Range) Size() int {
	if r.IsZero() {
		return 0
	}
	return int(number(r.Last)-number(r.First)) + 1
}

// Relay is a network behind a DHCP relay: [[lan.relay]].
type Relay struct {
	Network netip.Prefix // giaddr lies in it
	Range   Range        // needed for auto and full, else it may be zero
	Router  netip.Addr   // always there: without it the machines do not reach the box
}

// Boot is [boot].
type Boot struct {
	Unknown string        // "local" or an image's name: what machines boot that nobody named
	TTL     time.Duration // of an order: 1s…168h, default 30m
	Chain   string        // of machines that name none: "auto", "shim", "ipxe" or "windows"
	BootSet string        // where boot programs come from first; "" is the built-in ones
}

// HTTP is [http], the port on the rescue LAN where boot files are.
type HTTP struct {
	Port      int   // default 80
	RateLimit int64 // bytes per second and client, at least 64 KiB; 0: none, the default
}

// TFTP is [tftp].
type TFTP struct {
	Port      int // default 69
	BlockSize int // largest block size granted, 512…1468; default 1468, and less where the LAN's MTU is smaller
}

// Rescue is [rescue]: who may log in to a booted rescue system.
type Rescue struct {
	SSHKeys []string // lines of authorized_keys, from ssh_keys and ssh_keys_file, each parsed
}

// Ticket is [ticket]: the ways in of tickets beside those that are always open.
type Ticket struct {
	DropDir string // a folder that tickets are copied into, by a share for instance; "" is none
}

// Admin is [admin].
type Admin struct {
	Socket string         // default /run/rescuebox/api.sock
	Group  string         // owns the socket; default rescuebox
	Listen netip.AddrPort // API over TLS; zero: only the socket
}

// State is [state].
type State struct {
	Dir string // default /var/lib/rescuebox; images are in its folder images
}

// Log is [log].
type Log struct {
	Level zapcore.Level // default info
}

// Machine is [[machine]].
type Machine struct {
	Name    string
	MACs    []string // normal form: lower case, colons; a machine has a MAC, a UUID or both
	UUID    string   // normal form: lower case, dashes; or ""
	Image   string   // standing assignment, or ""
	Chain   string   // "auto", the default: the site's; "shim", "ipxe" or "windows"
	BootSet string   // where its boot programs come from first; "" is the site's
	// SecureBoot is "on", "off", or "" for auto, the default: what the machine reports.
	SecureBoot string
	Dialect    string     // how DHCP talks to it, a name of package dhcp; "" for auto, the default, finds out
	LoaderCA   string     // whose signature Microsoft's boot manager bears: "2011", "2023", or "" for auto, the default: what worked last
	Address    netip.Addr // reservation, or zero
	// Firmware is by what it boots: "uefi", "bios", or "" for auto, the default: as its network card asks.
	Firmware    string
	Serial      string    // a serial port of the box that leads to its console, or ""
	SerialSpeed int       // baud; default 115200
	BMC         *BMC      // nil: none
	Power       *Power    // nil: none
	Shutdown    *Shutdown // nil: none
}

// Power is [machine.power], a switch where there is no BMC, or for when it does not answer.
type Power struct {
	Kind string // "pikvm", "pdu", "wol", "command" or "gsm-socket"
	// Of a PiKVM.
	URL          string // https://…
	User         string // of SNMPv3, too; "" there is SNMP 2c
	PasswordFile string
	// Of a power distribution unit, by SNMP.
	Host          string // address or name, with a port where it is not 161
	Model         string // "apc", "raritan" or "eaton"; of a GSM socket GSMModels
	Outlet        int    // from 1
	CommunityFile string // of SNMP 2c
	// Of a command: programs with their arguments; nil where it cannot. Status prints "on" or "off".
	On, Off, Cycle, Status []string
	// Of a socket with a SIM: its number, and what it is told and answers. Model has
	// the usual texts; replies are regular expressions.
	Number                                 string
	OnText, OffText, CycleText, StatusText string
	OnReply, OffReply                      string
}

// Shutdown is [machine.shutdown]: how its own system is asked to go down.
type Shutdown struct {
	Kind         string // "winrm" or "ssh"
	Host         string // address or name, with a port where it is not the usual one
	User         string
	PasswordFile string // of WinRM
	KeyFile      string // of SSH: a private key
	HostKey      string // of SSH: "ssh-ed25519 AAAA…"

	KDC []string // of WinRM: Kerberos by these, hosts with a port where it is not 88; nil: NTLM
}

// BMC is [machine.bmc], the machine's own controller.
type BMC struct {
	Protocol     string // "ipmi", "redfish", or "auto" for the better one that answers
	Host         string // address or DNS name
	Port         int    // 0: the protocol's own
	User         string
	PasswordFile string // read when it is needed, never here
	System       string // which of a chassis' is meant: its Redfish Id, UUID, serial number or host name; "" is told by the MAC
}

// maxSize is the most that a configuration can be: some ten thousand machines.
const maxSize = 1 << 20

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the site's configuration: %w (hint: check the path; /usr/share/doc/rescuebox/minimal.toml is one to begin with)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the site's configuration: %w", err)
	}
	return Parse(path, text)
}

// Parse checks the text of a file; name stands in its errors, which are
// *Problem, joined. Besides the text it reads the file that ssh_keys_file names.
func Parse(name string, text []byte) (*Config, error) {
	c := &checker{file: name}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // Notepad's byte order mark
	if f := readable(text); f != nil {
		c.wrongAt(1, "", *f)
		return nil, c.err()
	}
	c.shape = newShape(text, c.wrongAt)
	c.shape.scan(text)
	raw := defaults()
	if !c.decode(&raw) {
		return nil, c.err()
	}
	cfg := c.config(raw)
	if err := c.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// readable refuses what is no text before anybody looks for keys in it.
func readable(text []byte) *fault {
	switch {
	case len(text) > maxSize:
		return faultf("this is hardly a configuration: check the path", "the file is larger than %d KiB", maxSize>>10)
	case !utf8.Valid(text):
		return faultf("save it as UTF-8; PowerShell's > writes UTF-16", "the file is not UTF-8 text")
	}
	return nil
}

// readFile reads a regular file, at most a byte more than maxSize. A device or
// a pipe would keep the daemon waiting.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}
