package boot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// situation is the facts and what their events say of the boot.
type situation struct {
	Facts
	track
}

// rule is one diagnosis. Of the rules for a stage the first that holds is the
// likely cause; so the special ones come before the general one.
type rule struct {
	stage    stage
	key      string
	patience time.Duration // without a step forward, before it may be said
	when     func(*situation) bool
	say      func(*situation) (text, hint string)
}

func always(*situation) bool { return true }

var rules = slices.Concat(rulesOfSilence, rulesOfDHCP(stageAsked), rulesOfDHCP(stageTook), rulesOfTransfer, rulesOfWindows, rulesOfLoaders, rulesOfSystem)

// rulesOfSilence are for a machine that has not asked.
var rulesOfSilence = []rule{
	{stageArmed, "dhcp-off", patienceSoon, func(s *situation) bool { return s.LAN.Mode == "down" },
		func(s *situation) (string, string) {
			return "DHCP of this box does not run, so nothing tells " + s.Machine.Name + " to boot from it", "rescuebox doctor; journalctl -u rescueboxd"
		}},
	{stageArmed, "dhcp-off", patienceStart, func(s *situation) bool { return s.LAN.Mode == "off" },
		func(s *situation) (string, string) {
			return fmt.Sprintf("DHCP of this box is switched off, and %s has asked for no file: the site's DHCP server does not name this box, or the machine does not start", s.Machine.Name),
				"name this box in the site's DHCP server (options 66 and 67), or set [lan] dhcp; look at the machine's power"
		}},
	{stageArmed, "box-listening", patienceDHCP, listens, sayListens},
	{stageArmed, "refused", patienceSoon, func(s *situation) bool { return s.refused.Text != "" },
		func(s *situation) (string, string) {
			return s.Machine.Name + " asks and is refused: " + s.refused.Text, "rescuebox doctor"
		}},
	{stageArmed, "boots-own-disk", patienceSoon, func(s *situation) bool { return !s.system.IsZero() },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s boots from its own disk: an installed system asked for an address at %s, and its firmware never asked to boot from the network",
					s.Machine.Name, s.system.Format("15:04:05")),
				"set one-time network boot in its BMC, or put the network first in the firmware's boot order (F12 or the like), and power-cycle it"
		}},
	{stageArmed, "other-card", patienceTransfer, func(s *situation) bool { return s.twin() != nil },
		func(s *situation) (string, string) {
			twin := s.twin()
			return fmt.Sprintf("%s has asked to boot, from the card %s that no machine has, with the same UUID as %s", s.Machine.Name, twin.Client.MAC, s.Machine.Name),
				fmt.Sprintf("add %s to the mac list of %s", twin.Client.MAC, s.Machine.Name)
		}},
	{stageArmed, "unknown-card", patienceLoader, func(s *situation) bool { return len(s.Strangers) > 0 },
		func(s *situation) (string, string) {
			mac := s.Strangers[0].Client.MAC
			return fmt.Sprintf("no packet from %s, but %s, which belongs to no machine, has asked to boot %d times", s.cards(), mac, s.Strangers[0].Count),
				fmt.Sprintf("if that is a card of %s, add %s to its mac list (rescuebox machine list --seen)", s.Machine.Name, mac)
		}},
	{stageArmed, "no-packet", patienceStart, always,
		func(s *situation) (string, string) {
			return fmt.Sprintf("no packet from %s in %s: it still starts (a big server takes minutes) or is off, does not boot from the network first, is not on this LAN, or has another MAC",
					s.cards(), age(s.Now.Sub(s.since))),
				"look at its power, its cable and switch port (VLAN), its boot order (PXE over IPv4 first) and its MAC: rescuebox machine list --seen"
		}},
}

// Listening takes seconds, and begins anew whenever the box's cable was out.
func listens(s *situation) bool { return s.LAN.Mode == "listening" }

func sayListens(*situation) (text, hint string) {
	return "this box still listens for other DHCP servers and answers nobody yet: the link of its own interface comes and goes",
		"look at the cable and the switch port of the box: rescuebox doctor"
}

// rulesOfDHCP are for a machine that has asked, and may have taken an address,
// and then asked for no file.
func rulesOfDHCP(at stage) []rule {
	stuck := map[stage]string{stageAsked: "DISCOVER seen, no REQUEST", stageTook: "an address was taken, no file asked for"}[at]
	list := []rule{
		{at, "other-box", patienceDHCP, func(s *situation) bool { return s.otherBox() != nil },
			func(s *situation) (string, string) {
				return fmt.Sprintf("%s here: the rescuebox %s serves this LAN, has no order for the machine, and sends it to its own disk", stuck, s.otherBox().Addr),
					"give the order to that box, or switch it off"
			}},
		{at, "foreign-option60", patienceDHCP, func(s *situation) bool { return s.foreign(isPXE) != nil && s.uefi() },
			func(s *situation) (string, string) {
				return fmt.Sprintf("%s: the DHCP server %s sends option 60 \"PXEClient\", so that UEFI firmware asks port 4011 of that server, where no boot server is", stuck, s.foreign(isPXE).Addr),
					"remove option 60 from that server; BIOS machines do not mind it, UEFI ones cannot boot beside it"
			}},
		{at, "foreign-bootfile", patienceDHCP, func(s *situation) bool { return s.foreign(namesFile) != nil },
			func(s *situation) (string, string) {
				o := s.foreign(namesFile)
				return fmt.Sprintf("%s here: the DHCP server %s names a boot file of its own, %q, and the machine went for that", stuck, o.Addr, o.BootFile),
					"remove the boot file (options 66 and 67, or \"filename\") from that server"
			}},
	}
	if at == stageTook {
		return append(list, rulesOfTook...)
	}
	return append(list, rulesOfAsked...)
}

var rulesOfAsked = []rule{
	{stageAsked, "box-listening", patienceDHCP, listens, sayListens},
	{stageAsked, "no-free-address", patienceSoon, func(s *situation) bool { return !s.offered && s.LAN.NoAddress },
		func(s *situation) (string, string) {
			return "DISCOVER seen, no offer: all addresses of [lan] range are in use", "make [lan] range larger, or the lease shorter"
		}},
	{stageAsked, "not-offered", patienceDHCP, func(s *situation) bool { return !s.offered },
		func(s *situation) (string, string) {
			return "DISCOVER seen, and no offer went out", "rescuebox doctor; journalctl -u rescueboxd"
		}},
	{stageAsked, "no-address-server", patienceDHCP, func(s *situation) bool { return s.LAN.Mode == "proxy" && s.foreign(givesAddresses) == nil },
		func(s *situation) (string, string) {
			return "DISCOVER seen, no REQUEST: this box only adds the boot part (proxyDHCP), and no DHCP server gives addresses on this LAN",
				`start the site's DHCP server, or set [lan] dhcp = "auto" or "full"`
		}},
	{stageAsked, "proxy-offer-not-taken", patienceDHCP, func(s *situation) bool { return s.LAN.Mode == "proxy" },
		func(s *situation) (string, string) {
			return "DISCOVER seen, no REQUEST: the firmware takes neither the site's offer nor our proxyDHCP offer",
				fmt.Sprintf("pin another dialect for %s (dialect = \"…\" of its [[machine]]), update its firmware, or let this box give the addresses", s.Machine.Name)
		}},
	{stageAsked, "offer-not-taken", patienceDHCP, always,
		func(s *situation) (string, string) {
			return "DISCOVER seen and answered, no REQUEST: our offer does not reach the machine, or it took another server's",
				"look for a switch port that spanning tree keeps shut, DHCP snooping on the switch, and other servers: rescuebox doctor"
		}},
}

var rulesOfTook = []rule{
	{stageTook, "wrong-next-server", patienceDHCP, func(s *situation) bool { return s.foreign(namesServer) != nil },
		func(s *situation) (string, string) {
			o := s.foreign(namesServer)
			return fmt.Sprintf("an address was taken, no file asked for: the DHCP server %s names %s as next server, where the machine looks for its boot file", o.Addr, o.NextServer),
				"remove the next server (siaddr, option 66) from that server"
		}},
	{stageTook, "file-refused", patienceSoon, func(s *situation) bool { return s.refused.Time.After(s.since) },
		func(s *situation) (string, string) {
			return "an address was taken, and the file that the machine then asks for is refused: " + s.refused.Text,
				"if another DHCP server names that file (option 67, \"filename\"), remove it there: rescuebox doctor"
		}},
	{stageTook, "http-not-asked", patienceDHCP, func(s *situation) bool { return s.arch().HTTP() },
		func(s *situation) (string, string) {
			return "an address was taken, and no HTTP request came: the firmware does not reach our HTTP port", "look for a firewall and for the machine's VLAN: rescuebox doctor"
		}},
	{stageTook, "tftp-not-asked", patienceDHCP, always,
		func(s *situation) (string, string) {
			return "an address was taken, and no TFTP request came: it does not reach UDP port 69 of this box, or the firmware did not take the boot part",
				"look for a firewall (UDP 69) and at the gateway between machine and box: rescuebox doctor"
		}},
}

var rulesOfTransfer = []rule{
	{stageFile, "blocks-lost", patienceTransfer, func(s *situation) bool { return s.bytes == 0 && !s.byHTTP() },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s was asked for over TFTP, and not one block of it was acknowledged: blocks this large do not arrive, or the way to the machine's high ports is blocked", s.loading),
				"set [tftp] block_size = 512 and look at the MTU on the way; look for a firewall: rescuebox doctor"
		}},
	{stageFile, "download-stalled", patienceTransfer, always,
		func(s *situation) (string, string) {
			hint := "look at cable, switch port and duplex; set [tftp] block_size smaller"
			if s.byHTTP() {
				hint = `some firmware cannot keep up: set [http] rate_limit, 10 Mbit/s to begin with (ipxe#1023, #1545); look at cable and duplex`
			}
			if s.broke == "" {
				return fmt.Sprintf("the download of %s stands still at %d of %d bytes", s.loading, s.bytes, s.total), hint
			}
			if kernelFile(s.Facts, s.loading) { // a loader that has no room for a file sees that when the file begins, and ends it
				hint = "see whether the machine has memory enough for " + s.Image.Name + "; " + hint
			}
			return fmt.Sprintf("the download of %s ended at %d of %d bytes: %s", s.loading, s.bytes, s.total, s.broke), hint
		}},
}

var rulesOfLoaders = []rule{
	{stageLoader, "file-refused", patienceSoon, func(s *situation) bool { return s.refused.Time.After(s.since) && !s.ipxe },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s was fetched, and what it asks for next is refused: %s", s.loader, s.refused.Text), "rescuebox image list; rescuebox doctor"
		}},
	{stageLoader, "ipxe-no-address", patienceLoader, func(s *situation) bool { return s.ipxe && !s.took },
		func(s *situation) (string, string) {
			return "iPXE runs and gets no address: its start took the link down, and the switch keeps the port shut meanwhile (spanning tree), or its driver does not work with this card",
				"turn on PortFast (edge port) for the machine's switch port; or set chain = \"shim\" for the machine"
		}},
	{stageLoader, "ipxe-no-script", patienceLoader, func(s *situation) bool { return s.ipxe },
		func(s *situation) (string, string) {
			return "iPXE has an address and asks for no boot script: HTTP does not reach this box", "look for a firewall (TCP port of [http]) and another server's boot file: rescuebox doctor"
		}},
	{stageLoader, "secure-boot-refused-nbp", patienceLoader, func(s *situation) bool {
		return isIPXELoader(s.loader) && strings.HasSuffix(s.loader, ".efi") && !isShim(s.first) && s.SecureBoot != SecureBootOff
	}, func(s *situation) (string, string) {
		return fmt.Sprintf("%s fetched, then %s: Secure Boot refused it, since it is not signed", s.loader, s.silence()),
			fmt.Sprintf("use chain = \"shim\" for %s, or switch Secure Boot off in its firmware", s.Machine.Name)
	}},
	{stageLoader, "root-not-asked", patienceLoader, func(s *situation) bool { return isISO(s.loader) && s.systemRuns() }, sayRootNotAsked},
	{stageLoader, "iso-silent", patienceStart, func(s *situation) bool { return isISO(s.loader) },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s fetched over HTTP Boot, then %s: its memory is too small for the RAM disk, or its firmware does not boot one", s.loader, s.silence()),
				"let it boot by PXE (TFTP) in place of HTTP Boot, or look at its screen"
		}},
	{stageLoader, "secure-boot-refused-shim", patienceLoader, func(s *situation) bool { return isShim(s.loader) },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s fetched and its next stage never asked for, then %s: the firmware does not trust its signer, or has revoked it", s.loader, s.silence()),
				"allow the \"Microsoft 3rd party UEFI CA\" in the firmware's Secure Boot settings, or take a shim signed by the 2023 CA: rescuebox image show shim"
		}},
	{stageLoader, "grub-silent", patienceLoader, func(s *situation) bool { return isGRUB(s.loader) },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s fetched, its grub.cfg never asked for: shim refused GRUB (signer or SBAT), or GRUB does not get along with this card's firmware driver", s.loader),
				"look at its screen; take shim and GRUB of one release; or set chain = \"ipxe\" where Secure Boot is off"
		}},
	{stageLoader, "nbp-silent", patienceLoader, always,
		func(s *situation) (string, string) {
			hint := fmt.Sprintf("update the firmware of %s, try another card, or another boot set or chain (chain = \"…\" of its [[machine]])", s.Machine.Name)
			if s.SecureBoot == SecureBootOff && s.Machine.SecureBoot == "" && s.uefi() { // that was so at its last report
				hint = "restart it: if Secure Boot was switched on since its last report, it gets a signed loader now; else " + hint
			}
			return fmt.Sprintf("%s fetched, then %s: the loader hangs, most often in the card's firmware driver", s.loader, s.silence()), hint
		}},
}

var rulesOfSystem = []rule{
	{stageScript, "file-refused", patienceSoon, func(s *situation) bool { return s.refused.Time.After(s.since) },
		func(s *situation) (string, string) {
			return "the boot script was fetched, and a file that it names is refused: " + s.refused.Text, "rescuebox image verify " + s.Image.Name
		}},
	{stageScript, "kernel-not-asked", patienceDHCP, always,
		func(s *situation) (string, string) {
			how := "iPXE does not reach our HTTP port"
			if s.chainIsShim() {
				how = "GRUB stopped at its prompt, or its TFTP does not work with this card"
			}
			return "the boot script was fetched, the kernel never asked for: " + how, "look at its screen; rescuebox doctor"
		}},
	{stageKernel, "secure-boot-refused-kernel", patienceTransfer, func(s *situation) bool { return s.chainIsShim() },
		func(s *situation) (string, string) {
			return "GRUB has fetched the kernel and asks for no initrd: shim's signers do not cover the kernel, so Secure Boot refused it",
				"kernel, GRUB and shim must be of one distribution: rescuebox image show " + s.Image.Name
		}},
	{stageKernel, "initrd-not-asked", patienceTransfer, always,
		func(s *situation) (string, string) {
			return "the kernel was fetched, an initrd is missing and not asked for: the machine's memory is too small, or its loader hangs", "look at its screen; see how much memory it has"
		}},
	{stageLoaded, "kernel-restarted", patienceSoon, func(s *situation) bool { return s.again },
		func(s *situation) (string, string) {
			return "kernel and initrd were fetched, and the machine started anew: the kernel crashed, or a watchdog reset it", "look at its screen or serial console; try another image, such as memtest"
		}},
	{stageLoaded, "root-not-asked", patienceLoader, (*situation).systemRuns, sayRootNotAsked},
	{stageLoaded, "kernel-silent", patienceStart, always,
		func(s *situation) (string, string) {
			return "kernel and initrd were fetched, then nothing: memory too small, a kernel panic, no driver for its network card, or it writes to another console",
				"look at its screen or serial console (console= in the image's cmdline); see how much memory it has"
		}},
	{stageRoot, "no-report", patienceStart, always,
		func(s *situation) (string, string) {
			return "everything was fetched, and the agent does not report: the system does not start up, or its memory is full", "look at its screen; give it more memory or take a smaller image"
		}},
}

func sayRootNotAsked(*situation) (text, hint string) {
	return "the kernel runs and has asked for an address, but does not fetch its root: it got no address, or HTTP does not reach this box",
		"look for a firewall (TCP port of [http]) and another DHCP server: rescuebox doctor"
}

// systemRuns reports whether the system that was loaded has asked for an address.
func (s *situation) systemRuns() bool { return s.loaded() && !s.system.Before(s.since) }

// cards are the machine's MACs, for people.
func (s *situation) cards() string {
	var macs []string
	for _, m := range s.Machine.MACs {
		macs = append(macs, m.String())
	}
	return fmt.Sprintf("%s (%s)", s.Machine.Name, strings.Join(macs, ", "))
}

// twin is a boot client that nobody named and that has the machine's UUID.
func (s *situation) twin() *Sighting {
	ids := []UUID{s.Machine.UUID}
	for _, o := range s.Own {
		ids = append(ids, o.Client.UUID)
	}
	for i, o := range s.Strangers {
		if !o.Client.UUID.IsZero() && slices.Contains(ids, o.Client.UUID) {
			return &s.Strangers[i]
		}
	}
	return nil
}

// arch is what the machine asked as last, as far as it is known.
func (s *situation) arch() Arch {
	for _, o := range s.Own {
		if s.mac.IsZero() || o.Client.MAC == s.mac {
			return o.Client.Arch
		}
	}
	return UnknownArch
}

// uefi reports whether the machine is not known to be a BIOS.
func (s *situation) uefi() bool { a := s.arch(); return a.UEFI() || a == UnknownArch }

// chainIsShim reports whether GRUB loads the kernel.
func (s *situation) chainIsShim() bool { return strings.HasPrefix(s.first, "shim") || isGRUB(s.loader) }

// byHTTP reports whether the file on its way goes over HTTP.
func (s *situation) byHTTP() bool {
	if s.windows() && (s.first == pxeboot || isManagerFile(s.first)) { // Microsoft's loaders stay with what they came by
		return s.arch().HTTP()
	}
	loader := isLoader(s.loading) && !kernelFile(s.Facts, s.loading)
	return !loader && !s.chainIsShim() || s.arch().HTTP() || s.stage >= stageLoaded
}

// silence is what came after the last file.
func (s *situation) silence() string {
	if s.again {
		return "the firmware began anew"
	}
	return cmp.Or(age(s.Now.Sub(s.since))+" of silence", "silence")
}

// foreign is the first other server for which yes holds.
func (s *situation) foreign(yes func(ForeignServer) bool) *ForeignServer {
	for i, o := range s.LAN.Servers {
		if yes(o) {
			return &s.LAN.Servers[i]
		}
	}
	return nil
}

// otherBox is the rescuebox that serves the LAN in place of this one; nil where the site's server does, or we do.
func (s *situation) otherBox() *ForeignServer {
	if s.LAN.Mode != "proxy" || s.foreign(func(o ForeignServer) bool { return !o.Box && givesAddresses(o) }) != nil {
		return nil
	}
	return s.foreign(func(o ForeignServer) bool { return o.Box && givesAddresses(o) })
}

func isPXE(o ForeignServer) bool          { return o.PXEClient }
func namesFile(o ForeignServer) bool      { return o.BootFile != "" }
func givesAddresses(o ForeignServer) bool { return !o.Proxy }

// A server names itself where nobody told it to; it is wrong only if it names another host.
func namesServer(o ForeignServer) bool { return o.NextServer.IsValid() && o.NextServer != o.Addr }

// age is a time span for people: to the second below two minutes, to the minute above.
func age(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Minutes()))
}
