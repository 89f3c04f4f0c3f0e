package dhcp

import (
	"encoding/hex"
	"slices"
	"strings"

	"rescuebox/appliance/boot"
)

// noBlockSize is the block of RFC 1350: who is offered no larger one gets no block size option at all.
const noBlockSize = 512

// quirk is one row of what is known of firmware that departs from what its
// architecture usually does. A client is meant if all that a row names fits.
type quirk struct {
	about string
	oui   []string    // first three bytes of the MAC
	class string      // option 60 begins with it
	archs []boot.Arch // nil: any

	ladder []string // as proxy: dialects in the order to try; nil leaves the usual one
	speaks string   // option 60 of our answers, in place of PXEClient
	file   FileIn
}

// quirks are the rows; the first that fits counts. Whoever adds one writes down
// what was seen and where. That a vendor is in here costs its other machines
// nothing but the order in which dialects are tried: what works is remembered for each.
var quirks = []quirk{
	{
		// An HP laptop with UEFI heard the DHCP server's offer and the proxy's, sent
		// DISCOVER at 0, 4, 12 and 28 s with one xid, no REQUEST, and never a packet to
		// 4011; one complete offer from one server booted it (bootimus#77). DL380
		// Gen9 as UEFI do the same, with and without an option 43; as BIOS they boot
		// (danderson/netboot#43).
		about: "HP, UEFI: takes no proxy's offer",
		oui: []string{
			"3c5282", "10e7c6", "9c7bef", "f43909", "80e82c", "c8d9d2", "480fcf", "a08cfd", "bce92f", "e070ea", "842afd", "b05cda",
			"941882", "9cdc71", "3ca82a", "1c98ec", "98f2b3", "8030e0", "ecebb8", "1402ec", "5065f3", "5cb901", "3863bb", "40a8f0", "8cdcd4",
		},
		archs:  []boot.Arch{boot.UEFIX64, boot.UEFIEBC},
		ladder: []string{binl, address, control, late, wds, menu},
	},
	{
		// The PXE base code of UDK 2014 throws proxy offers away before it has looked
		// at them: Dell T430 and T130 (edk2#6944).
		about:  "Dell of 2014 to 2017, UEFI: forgets the proxy's offer",
		oui:    []string{"1866da", "141877", "44a842", "509a4c", "549f35", "847beb", "18dbf2", "246e96", "b083fe", "f8bc12"},
		archs:  []boot.Arch{boot.UEFIX64, boot.UEFIEBC},
		ladder: []string{binl, address, control, late, wds, menu},
	},
	{
		// U-Boot's bootp takes the first offer with an address and reads the file name
		// in the header; of proxies it knows nothing (U-Boot net/bootp.c).
		about:  "U-Boot: one offer, file name in the header",
		class:  "U-Boot",
		ladder: []string{address, header},
		file:   FileHeader,
	},
	{
		// Some vendors write another class than PXEClient, and want it back
		// (dnsmasq(8), --dhcp-pxe-vendor, whose example this is: Huawei).
		about:  "Huawei: its own vendor class",
		class:  "HW-Client",
		speaks: "HW-Client",
	},
}

// quirksOf finds a client's row; the zero row says nothing.
//
// FlexBoot (Mellanox) is an iPXE that sends no user class (warewulf3#104) and
// needs no row: it is served like any ROM, loads our iPXE, and that one says who it is.
func quirksOf(c boot.Client) quirk {
	if i := slices.IndexFunc(quirks, func(q quirk) bool { return q.fits(c) }); i >= 0 && c.Program != boot.IPXE {
		return quirks[i]
	}
	return quirk{}
}

func (q quirk) fits(c boot.Client) bool {
	return strings.HasPrefix(c.VendorClass, q.class) &&
		(q.oui == nil || slices.Contains(q.oui, hex.EncodeToString(c.MAC[:3]))) &&
		(q.archs == nil || slices.Contains(q.archs, c.Arch))
}

// apply is a dialect with what the row changes of it.
func (q quirk) apply(d Dialect) Dialect {
	if q.speaks != "" {
		d.Class = q.speaks
	}
	if q.file != FileBoth && d.File == FileBoth {
		d.File = q.file
	}
	return d
}

// bootClass reports whether a vendor class is a boot client's: PXE and UEFI
// HTTP Boot clients (PXE 2.1 section 2.2.1), and those with a class of their own.
func bootClass(class string) bool {
	if strings.HasPrefix(class, "PXEClient") || strings.HasPrefix(class, "HTTPClient") {
		return true
	}
	return slices.ContainsFunc(quirks, func(q quirk) bool { return q.class != "" && strings.HasPrefix(class, q.class) })
}
