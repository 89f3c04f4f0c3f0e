package boottest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Personality is how one kind of machine boots from the network.
type Personality struct {
	Name  string
	Story string // whose behaviour it is, and where that is known from
	// boot is the firmware's script, from its first DISCOVER to the end of what it loaded.
	boot func(*Machine) error
}

// Machine is a simulated machine with one network card. Set the fields, then PowerOn.
type Machine struct {
	Card *Card
	UUID [16]byte // as SMBIOS has it in memory, which is how option 97 carries it
	// Hurry is how many times shorter the firmware's waits are; 0 is 1. What
	// it writes into packets (secs) stays as it would be.
	Hurry int
	// Restless programs pass over the pauses that scripts make.
	Restless bool
	// Discard forgets what the loaded files contain, once they are hashed and run.
	Discard bool
	// Real says that the programs are no Programs of ours but real ones, which go by their names.
	Real bool
	Log  func(format string, args ...any) // the console; nil: none
	Faults

	self      identity
	address   netip.Prefix
	boot      *Answer // the answer whose boot file is loaded
	out       Outcome
	address67 *Answer // the ACK that the address came with
	programs  int     // started so far
	deaf      bool
}

// Faults are what is wrong with a machine. The zero value is a sound one.
type Faults struct {
	// Starts says what its firmware and loaders start of what they have loaded: with
	// Secure Boot that is only what somebody trusted has signed. nil: everything.
	Starts func(Loaded) bool
	// Deaf is a program whose driver does not work with this card: what it sends goes
	// out, and it hears nothing.
	Deaf Kind
	// OneOffer is firmware that has one place for a next server, and leaves there what
	// came with the address, also where a proxy named the boot file (U-Boot's store_net_params).
	OneOffer bool
	// Memory is the longest file that it has room for; 0: any.
	Memory int64
	// Repeats is how often its TFTP repeats a packet; 0: six times.
	Repeats int
}

// starts reports whether a file that was loaded is started.
func (m *Machine) starts(f Loaded) bool { return m.Starts == nil || m.Starts(f) }

// errMemory is a file that is too long for the machine.
var errMemory = errors.New("out of memory")

// fits looks whether there is room for a file, as soon as its size is known.
func (m *Machine) fits(size int64) error {
	if m.Memory > 0 && size > m.Memory {
		return errMemory
	}
	return nil
}

// Loaded is one file that arrived whole.
type Loaded struct {
	Name   string // the last element of its path
	From   string // tftp or http
	SHA256 string
	Size   int64
	Data   []byte // nil if the machine discards it
}

// Outcome is how a machine's boot from the network went.
type Outcome struct {
	// Err is nil if something started for good; ErrLocal if the firmware went on to the disk.
	Err        error
	Loaded     []Loaded
	Kernel     string   // the file that was started last: a kernel, an ISO
	Cmdline    string   // its arguments
	Complaints []string // what real firmware chokes on, although this one went on
	Heard      []netip.Addr
	Took       time.Duration
	Stages     []string // of programs: shim, grub, ipxe …
	Asked      []string // what it asked for by TFTP or HTTP, as it spelled it, and how that ended
}

// ErrLocal says that the firmware left the network alone and started the disk.
var ErrLocal = errors.New("boots its own disk")

// File finds a loaded file by its name.
func (o Outcome) File(name string) (Loaded, bool) {
	i := slices.IndexFunc(o.Loaded, func(l Loaded) bool { return l.Name == name })
	if i < 0 {
		return Loaded{}, false
	}
	return o.Loaded[i], true
}

// PowerOn boots the machine once and says how that went.
func (m *Machine) PowerOn(p Personality) Outcome {
	begin := time.Now()
	m.out, m.programs, m.address, m.address67, m.deaf = Outcome{}, 0, netip.Prefix{}, nil, false
	m.logf("power on: %s", p.Name)
	err := m.Card.setAddress(netip.Prefix{}, netip.Addr{})
	if err == nil {
		err = p.boot(m)
	}
	if err != nil {
		m.logf("%v", err)
	}
	m.out.Err, m.out.Took = err, time.Since(begin)
	return m.out
}

// Address is what the machine has from its last DHCP.
func (m *Machine) Address() netip.Addr { return m.address.Addr() }

func (m *Machine) logf(format string, args ...any) {
	if m.Log != nil {
		m.Log("%s  %s", m.Card.MAC, fmt.Sprintf(format, args...))
	}
}

// complain notes what real firmware would choke on.
func (m *Machine) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(m.out.Complaints, text) {
		m.out.Complaints = append(m.out.Complaints, text)
		m.logf("chokes: %s", text)
	}
}

// wait is how long a firmware's wait takes here.
func (m *Machine) wait(d time.Duration) time.Duration { return d / time.Duration(max(m.Hurry, 1)) }

// pause is one that a script makes.
func (m *Machine) pause(d time.Duration) {
	if !m.Restless {
		time.Sleep(m.wait(d))
	}
}

// origin is where a file came from, and where a program looks for more.
type origin struct {
	scheme string // tftp or http
	server netip.AddrPort
	path   string
}

func (o origin) String() string {
	return o.scheme + "://" + o.server.String() + "/" + strings.TrimPrefix(o.path, "/")
}

// beside is a file in the same directory.
func (o origin) beside(name string) origin {
	o.path = path.Join(path.Dir("/"+o.path), name)
	return o
}

// at is a file at a path of the same server.
func (o origin) at(p string) origin {
	o.path = p
	return o
}

// memory is where a file is loaded to.
type memory struct {
	sum  hash.Hash
	size int64
	data []byte
	keep int // of its bytes
}

// programSize is as much of a file as a machine keeps that discards: a program or a script whole.
const programSize = 4 << 20

func (m *Machine) memory() *memory {
	f := &memory{sum: sha256.New(), keep: math.MaxInt}
	if m.Discard {
		f.keep = programSize
	}
	return f
}

// Write loads a piece.
func (f *memory) Write(p []byte) (int, error) {
	f.sum.Write(p)
	f.size += int64(len(p))
	f.data = append(f.data, p[:min(len(p), f.keep-min(f.keep, len(f.data)))]...)
	return len(p), nil
}

// arrived takes note of a file that came whole.
func (m *Machine) arrived(from origin, f *memory) Loaded {
	l := Loaded{Name: path.Base(strings.ReplaceAll(from.path, `\`, "/")), From: from.scheme,
		SHA256: hex.EncodeToString(f.sum.Sum(nil)), Size: f.size, Data: f.data}
	m.logf("loaded %s: %d bytes", from, f.size)
	kept := l
	if m.Discard {
		kept.Data = nil
	}
	m.out.Loaded = append(m.out.Loaded, kept)
	return l
}
