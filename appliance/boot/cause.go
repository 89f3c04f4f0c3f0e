package boot

import (
	"net/netip"
	"time"

	"rescuebox/images"
)

// StepSystem is an operating system of the machine asking DHCP for an address:
// the kernel that we sent, or, without a boot request before it, the one on
// the machine's own disk. It is noted only while the machine has an open order.
const StepSystem Step = "system"

// Cause is the likely reason why an order makes no progress.
//
// The keys, by how far the boot got:
//
//	nothing seen    dhcp-off                    our own DHCP is off or does not run
//	                refused                     the request was refused, with a reason
//	                boots-own-disk              its installed system asks for an address
//	                other-card                  its UUID asks from a MAC of another machine or of nobody
//	                unknown-card                somebody unknown asks to boot, this machine does not
//	                no-packet                   no packet from any of its MACs
//	DISCOVER        box-listening               DHCP listens for other servers and answers nobody yet
//	                no-free-address             the pool is used up
//	                not-offered                 no offer went out
//	                no-address-server           proxy mode, and nobody gives addresses
//	                proxy-offer-not-taken       proxy mode, and the firmware takes no proxyDHCP offer
//	                offer-not-taken             the offer does not arrive, or another one was taken
//	and REQUEST     other-box                   another rescuebox serves this LAN, and has no order for the machine
//	                foreign-option60            another server's option 60 sends UEFI to that server's port 4011
//	                foreign-bootfile            another server names a boot file of its own
//	                wrong-next-server           another server names a next server that is not us
//	                file-refused                it asks for a file that we refuse
//	                tftp-not-asked              no request for the boot file reached us
//	                http-not-asked              the same with UEFI HTTP Boot
//	a file begins   blocks-lost                 not one TFTP block was acknowledged: MTU, firewall
//	                download-stalled            a transfer stands still at N bytes
//	loader has gone secure-boot-refused-nbp     UEFI, an unsigned iPXE, and silence
//	                nbp-silent                  the same where Secure Boot cannot be the reason
//	                ipxe-no-address             iPXE runs and gets no address: spanning tree
//	                ipxe-no-script              iPXE has an address and asks for no script
//	                secure-boot-refused-shim    shim was fetched, GRUB never asked for
//	                grub-silent                 GRUB was fetched, its grub.cfg never asked for
//	                iso-silent                  the ISO of HTTP Boot was fetched, and silence
//	                file-refused                the loader asked for something that we refuse
//	script          kernel-not-asked            the script went out, the kernel was never asked for
//	kernel          secure-boot-refused-kernel  GRUB has the kernel and asks for no initrd
//	                initrd-not-asked            iPXE has the kernel and asks for no initrd
//	all files       kernel-restarted            the machine began anew from its firmware
//	                root-not-asked              the kernel runs and has asked for an address, but not for its root
//	                kernel-silent               nothing was heard of the kernel
//	root            no-report                   all was fetched, and the agent does not report
//
// Of a Windows image, which has no root:
//
//	loader has gone other-loader-ca             UEFI, Microsoft's boot manager, and silence: the signer's CA is not trusted, or revoked
//	                bcd-not-asked               BIOS, bootmgr.exe, and silence
//	BCD or script   wim-not-asked               the boot manager has its configuration and asks for no WIM
//	all files       pe-restarted                the machine began anew from its firmware
//	                no-report                   nothing was heard of Windows PE: no driver for its card
//	any             no-agent                    there is no agent program for the image: no ticket comes by itself
type Cause struct {
	Key  string // stable name, for programs and tests
	Text string // one sentence: what was seen, and what it most likely means
	Hint string // what to do
}

// Facts is all that a diagnosis rests on.
type Facts struct {
	Now        time.Time
	Order      Order
	Machine    Machine
	Image      images.Image
	SecureBoot SecureBoot // as far as it is known
	Events     []Event    // of the order, oldest first
	Moving     Event      // last progress of a transfer; zero for none
	Own        []Sighting // of the machine's cards, last seen first
	Strangers  []Sighting // boot clients that nobody named, seen since the order was made
	LAN        LAN
}

// LAN is what is known of the network around a boot.
type LAN struct {
	Mode      string // what our DHCP does: "full", "proxy", "listening", "off" as configured, or "down"; "" is not known
	NoAddress bool   // its pool is used up
	Servers   []ForeignServer
}

// ForeignServer is another DHCP server, and what it tells boot clients.
type ForeignServer struct {
	Addr       netip.Addr
	Box        bool       // a rescuebox
	Proxy      bool       // gives no addresses
	PXEClient  bool       // option 60 "PXEClient" in its answers to UEFI
	BootFile   string     // header or option 67
	NextServer netip.Addr // siaddr or option 66
}

// A boot is given more time where machines take it: firmware repeats its
// DISCOVER after 4, 8, 16 and 32 s, and a server may count its memory for a
// minute between two files.
const (
	patienceSoon     = 15 * time.Second // where what was seen leaves no doubt
	patienceTransfer = 30 * time.Second
	patienceDHCP     = 45 * time.Second
	patienceLoader   = time.Minute
	patienceStart    = 3 * time.Minute // of a machine or a kernel
)

// Likely names the likely cause why an order stands still, and false while
// it does not, or not long enough to say. Final: there will be no more, so
// that there is nothing to wait for.
func Likely(f Facts, final bool) (Cause, bool) {
	s := situation{Facts: f, track: follow(f)}
	if !s.Order.State.Open() && !final {
		return Cause{}, false
	}
	idle := f.Now.Sub(s.since)
	if s.again {
		idle = time.Hour // its firmware asks anew: nothing of the last attempt is to come
	}
	for _, r := range rules {
		if r.stage != s.at() || !(final || idle >= r.patience) || !r.when(&s) {
			continue
		}
		text, hint := r.say(&s)
		return Cause{Key: r.key, Text: text, Hint: hint}, true
	}
	return Cause{}, false
}
