// Package api is the daemon's HTTP API as a program sees it: its types and a
// client for it. It imports nothing of ours and runs on Linux, macOS and
// Windows, so that the admin's command does too.
//
// Names in JSON are snake_case. Times are RFC 3339, times that have not come
// yet are left out. Durations are written as Go writes them ("30m"). The types
// that carry a secret are NewToken, which shows one once, and Ticket, which opens a
// machine and is for operators. The order's token, with which a booted machine proves itself, never leaves the daemon.
package api

import "time"

// Role is what a token may do; each role may do what the ones before it may.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"   // reads all but tickets
	Operator Role = "operator" // boots machines, reads tickets: a ticket is a credential
	Admin    Role = "admin"    // changes images and tokens, reads the audit log
)

// Identity is who the daemon takes the caller for.
type Identity struct {
	Name string `json:"name"` // user name on the box, or the token's name
	Role Role   `json:"role"`
	From string `json:"from"` // "socket" or the caller's address
}

// Version is what the daemon is.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	API     int    `json:"api"` // grows when a client of the one before would fail
}

// Status is the box on one screen.
type Status struct {
	Site       string    `json:"site"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Now        time.Time `json:"now"`
	LAN        LAN       `json:"lan"`
	DHCP       DHCP      `json:"dhcp"`
	Admin      Listener  `json:"admin"`
	Parts      []Part    `json:"parts"`
	Machines   int       `json:"machines"`
	OpenOrders []Order   `json:"open_orders"`
	Tickets    int       `json:"tickets"`
	Link       *Link     `json:"link,omitempty"`   // where uplinks are watched
	Modems     []Modem   `json:"modems,omitempty"` // with what ails them
}

// LAN is the rescue LAN.
type LAN struct {
	Interface string `json:"interface"`
	Address   string `json:"address"` // with prefix length
}

// DHCP is what the DHCP part does on the rescue LAN, and why.
type DHCP struct {
	Configured string `json:"configured"` // auto, full, proxy or off
	Mode       string `json:"mode"`       // full, proxy, off; listening before the first verdict of auto
	Why        string `json:"why"`
}

// Listener is where the API listens over TLS; empty if nowhere.
type Listener struct {
	Listen      string `json:"listen"`
	Fingerprint string `json:"fingerprint"` // SHA256:… of the certificate
}

// Part is one part of the daemon.
type Part struct {
	Name     string     `json:"name"`
	State    string     `json:"state"` // starting, running, failed, stopped
	Since    time.Time  `json:"since"`
	Restarts int        `json:"restarts"`
	Error    string     `json:"error,omitempty"` // the last one
	Retry    *time.Time `json:"retry,omitempty"` // when it is started again
}

// Machine is a server or PC of the branch.
type Machine struct {
	Name    string   `json:"name"`
	MACs    []string `json:"macs"`
	UUID    string   `json:"uuid,omitempty"`
	Image   string   `json:"image,omitempty"` // standing assignment
	Chain   string   `json:"chain,omitempty"`
	BootSet string   `json:"bootset,omitempty"` // boot programs come from it first
	Dialect string   `json:"dialect,omitempty"` // how DHCP talks to it, where that is pinned
	// SecureBoot is "on", "off", or empty where nothing is known.
	SecureBoot string `json:"secure_boot,omitempty"`
	Adopted    bool   `json:"adopted,omitempty"` // taken over from the LAN, not named in the file of the site
	Address    string `json:"address,omitempty"` // reserved
	// Power is by what it can be switched: bmc, switch; none means by hand.
	Power []Power `json:"power,omitempty"`
	// Caution is what a person should be told before its switch is used.
	Caution string `json:"caution,omitempty"`
	Order   *Order `json:"order,omitempty"` // the open one
	Seen    *Seen  `json:"seen,omitempty"`  // when it last asked to boot
}

// Seen is a boot client that was seen on the LAN since the daemon started.
type Seen struct {
	MAC     string    `json:"mac"`
	Machine string    `json:"machine,omitempty"`
	UUID    string    `json:"uuid,omitempty"`
	Arch    string    `json:"arch"`
	Program string    `json:"program"`
	Vendor  string    `json:"vendor,omitempty"` // option 60
	Address string    `json:"address,omitempty"`
	Relay   string    `json:"relay,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Count   int       `json:"count"`
	Answer  string    `json:"answer"`
}

// Adopt makes a machine of a client that was seen.
type Adopt struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	UUID string `json:"uuid,omitempty"`
}

// Lease is an address given to a client.
type Lease struct {
	Address string    `json:"address"`
	MAC     string    `json:"mac"`
	Machine string    `json:"machine,omitempty"`
	Host    string    `json:"host,omitempty"`
	State   string    `json:"state"`
	Expires time.Time `json:"expires"`
}

// NewOrder asks that a machine boots an image, once.
type NewOrder struct {
	Machine string `json:"machine"`
	Image   string `json:"image"`
	TTL     string `json:"ttl,omitempty"`      // default as configured
	NoPower bool   `json:"no_power,omitempty"` // leave the machine's power alone
	Soft    bool   `json:"soft,omitempty"`     // ask its system to shut down before power is cut
	Via     string `json:"via,omitempty"`      // network, the default, or media: the BMC's virtual CD
	// Confirmed is that somebody knows, and means, that the machine's switch pulls its plug. Without it such an
	// order is refused as Unconfirmed; others need it not.
	Confirmed bool `json:"confirmed,omitempty"`
}

// Power says who powers a machine on after an order.
type Power string

// Manual power: a person does it.
const Manual Power = "manual"

// Order says that one machine boots one image, once, before it expires.
type Order struct {
	ID      string     `json:"id"`
	Machine string     `json:"machine"`
	Image   string     `json:"image"`
	State   string     `json:"state"` // armed, booting, done, expired, failed
	Reason  string     `json:"reason,omitempty"`
	By      string     `json:"by"`
	Power   Power      `json:"power"`
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	Started *time.Time `json:"started,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// Open reports whether the order can still boot its machine.
func (o Order) Open() bool { return o.State == "armed" || o.State == "booting" }

// Event is one line of the timeline.
type Event struct {
	Seq       int64     `json:"seq"` // 0 for a transient event
	Time      time.Time `json:"time"`
	Step      string    `json:"step"`
	Machine   string    `json:"machine,omitempty"`
	MAC       string    `json:"mac,omitempty"`
	Order     string    `json:"order,omitempty"`
	Text      string    `json:"text"`
	Key       string    `json:"key,omitempty"`  // stable name: of the cause, of step cause; of the program that asks, of step discover
	Hint      string    `json:"hint,omitempty"` // what to do, of step cause
	File      string    `json:"file,omitempty"`
	Bytes     int64     `json:"bytes,omitempty"`
	Total     int64     `json:"total,omitempty"`
	Lines     []string  `json:"lines,omitempty"` // of steps console and power, for operators: what the machine's console said last
	Transient bool      `json:"transient,omitempty"`
}

// Ticket is what lets the admin take over a booted machine.
type Ticket struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // ssh, dart
	Machine   string    `json:"machine"`
	Order     string    `json:"order,omitempty"`
	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"`
	From      string    `json:"from,omitempty"`    // the report came from this address
	Verified  bool      `json:"verified"`          // the machine proved itself with its order's token
	Problem   string    `json:"problem,omitempty"` // why the report cannot be read
	User      string    `json:"user,omitempty"`
	Port      int       `json:"port,omitempty"`
	Address   string    `json:"address,omitempty"`   // where the admin reaches it
	Addresses []string  `json:"addresses,omitempty"` // all it has
	// Code is DaRT's ticket number: with an address and its port it is the whole credential.
	Code      string   `json:"code,omitempty"`
	Listeners []string `json:"listeners,omitempty"` // where DaRT listens: addresses, each with its port
	HostKeys  []string `json:"host_keys,omitempty"` // fingerprints
	// KnownHosts is the ticket's part of a known_hosts file.
	KnownHosts string `json:"known_hosts,omitempty"`
	// Command takes the machine over from its own network: in a Unix shell, where it
	// trusts no other host key, or for DaRT on a Windows PC.
	Command  string `json:"command,omitempty"`
	Serial   string `json:"serial,omitempty"`
	UUID     string `json:"uuid,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	System   string `json:"system,omitempty"`
	Kernel   string `json:"kernel,omitempty"`
	// SecureBoot is "enabled", "disabled", or empty where nothing is known.
	SecureBoot string `json:"secure_boot,omitempty"`
}

// Relay is a way through the box to one port of one machine.
type Relay struct {
	ID      string    `json:"id"` // names it in calls; a secret of whoever opened it
	Machine string    `json:"machine"`
	Service string    `json:"service"`        // ticket, bmc
	Name    string    `json:"name,omitempty"` // which of the BMC's services
	Ticket  string    `json:"ticket,omitempty"`
	Target  string    `json:"target"` // address and port
	Expires time.Time `json:"expires"`
}

// RelayEnd says why a way was closed.
type RelayEnd struct {
	Closed string `json:"closed"`
}

// Notifications is who is told, and what is or was to be told.
type Notifications struct {
	Targets  []NotifyTarget `json:"targets"`
	Messages []Notification `json:"messages"` // newest first
}

// NotifyTarget is one way to tell people.
type NotifyTarget struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`      // webhook, mail, text
	Addresses   []string `json:"addresses"` // without what may be secret
	Kinds       []string `json:"kinds"`
	Credentials bool     `json:"credentials"` // may have what tickets hold
}

// Notification is one message, and what became of it.
type Notification struct {
	ID         string     `json:"id"`
	Kind       string     `json:"kind"` // ticket, done, failed, expired, alarm, test
	Machine    string     `json:"machine,omitempty"`
	Order      string     `json:"order,omitempty"`
	Time       time.Time  `json:"time"`
	Deliveries []Delivery `json:"deliveries"`
}

// Delivery is a message's way to one address.
type Delivery struct {
	Target   string    `json:"target"`
	Address  string    `json:"address"`
	State    string    `json:"state"` // waiting, sending, sent, refused, dropped; of text messages unknown
	Attempts int       `json:"attempts"`
	Error    string    `json:"error,omitempty"` // of the last attempt
	Changed  time.Time `json:"changed"`
	// Doubt: an attempt was cut off when the receiver may have had the message
	// already, so that it may have it twice.
	Doubt bool `json:"doubt,omitempty"`
}

// Open reports whether there is still something to do.
func (d Delivery) Open() bool { return d.State == "waiting" || d.State == "sending" }

// TestNotification asks for a test message.
type TestNotification struct {
	Target string `json:"target,omitempty"` // "": all
}

// Library is what machines can boot.
type Library struct {
	Images []Image  `json:"images"`           // by name
	Broken []string `json:"broken,omitempty"` // images that cannot be read: one sentence each, with the name
}

// Image is one image of the library.
type Image struct {
	Name   string    `json:"name"`
	Kind   string    `json:"kind"`
	Title  string    `json:"title,omitempty"`
	Arch   string    `json:"arch,omitempty"`
	Source string    `json:"source,omitempty"`
	Added  time.Time `json:"added"`
	Size   int64     `json:"size"`
	Up     string    `json:"up,omitempty"` // what tells that it is up: agent or served
	Kernel string    `json:"kernel,omitempty"`
	// KernelEFI is in the kernel's place under UEFI, where it differs.
	KernelEFI string   `json:"kernel_efi,omitempty"`
	Initrd    []string `json:"initrd,omitempty"`
	Cmdline   string   `json:"cmdline,omitempty"` // the template, not filled in
	// Windows is what is known of an image of Windows PE.
	Windows *Windows `json:"windows,omitempty"`
	Files   []File   `json:"files"`
}

// File is one file of an image.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Of a program for UEFI: what it runs on, and who has signed it.
	Arch    string   `json:"arch,omitempty"`
	Signers []string `json:"signers,omitempty"`
}

// Verified is the result of hashing an image's files anew.
type Verified struct {
	Image string `json:"image"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"` // names the file that changed
}

// Finding is one result of the doctor.
type Finding struct {
	Check string `json:"check"`
	Level string `json:"level"`         // ok, warning, failed, skipped
	Key   string `json:"key,omitempty"` // stable name of the fault; the text may change
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

// Diagnosis is what the doctor found.
type Diagnosis struct {
	OK       bool      `json:"ok"` // nothing failed
	Findings []Finding `json:"findings"`
}

// Token is an admin's token, without the secret.
type Token struct {
	ID      string    `json:"id"` // the token's beginning, to name it by
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// CreateToken asks for a token.
type CreateToken struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	TTL  string `json:"ttl,omitempty"` // default 2160h
}

// NewToken is a token and its secret, shown this once.
type NewToken struct {
	Token
	Secret string `json:"secret"`
}

// AuditEntry is one changing call.
type AuditEntry struct {
	Seq    int64     `json:"seq"`
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	Role   Role      `json:"role"`
	From   string    `json:"from"` // "socket" or an address
	What   string    `json:"what"` // POST /v1/orders
	Args   string    `json:"args"` // what was asked for, without secrets
	Status int       `json:"status"`
	Error  string    `json:"error,omitempty"`
}
