// Package config is the file of the site: strict TOML, checked when it is
// read, so that below it no address is a string and no value is out of range.
package config

import (
	"net/netip"
	"time"

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
	Admin    Admin
	State    State
	Log      Log
	Machines []Machine
}

// LAN is the rescue LAN: [lan].
type LAN struct {
	Interface  string
	Address    netip.Prefix // the box's own address with the LAN's prefix length
	DHCP       Mode
	Range      Range         // the pool; needed for auto and full
	Router     netip.Addr    // option 3; zero: none is sent
	DNS        []netip.Addr  // option 6
	Domain     string        // option 15
	Lease      time.Duration // default 1h
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

// Relay is a network behind a DHCP relay: [[lan.relay]].
type Relay struct {
	Network netip.Prefix // giaddr lies in it
	Range   Range
	Router  netip.Addr
}

// Boot is [boot].
type Boot struct {
	Unknown string        // "local" or an image's name: what machines boot that nobody named
	TTL     time.Duration // of an order; default 30m
}

// HTTP is [http], the port on the rescue LAN where boot files are.
type HTTP struct {
	Port      int   // default 80
	RateLimit int64 // bytes per second and client; 0: none
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
	MACs    []string // normal form: lower case, colons
	UUID    string   // normal form, or ""
	Image   string   // standing assignment, or ""
	Chain   string   // "", "auto" or "ipxe"
	Address netip.Addr
}

// Load reads and checks a file.
func Load(path string) (*Config, error) { return nil, nil }

// Parse checks the text of a file; name stands in its errors.
func Parse(name string, text []byte) (*Config, error) { return nil, nil }
