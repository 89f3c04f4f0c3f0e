package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/bpf"

	"rescuebox/appliance/boot"
)

// iPXE configures IPv6 beside IPv4 and begins to load only when both have
// ended. On a LAN without an IPv6 router its router solicitations stay
// unanswered, and every start of iPXE loses 15 s (measured with SeaBIOS' iPXE ROM and
// Debian's undionly.kpxe and snponly.efi: 27 s less from power-on to ticket). So a
// machine that boots from us now gets the shortest answer there is: a router
// advertisement with a lifetime of 0, that is, "I am no default router"
// (RFC 4861 section 4.2), without a prefix and without any parameter. It changes
// nothing in a host that hears it, and only that machine does.
const (
	etherIPv6 = 0x86dd
	protoICMP = 58 // ICMPv6
	lenIPv6   = 40

	routerSolicitation  = 133
	routerAdvertisement = 134
	lenSolicitation     = 8
	lenAdvertisement    = 16
	ownLinkOnly         = 255 // hop limit that no router has lowered (RFC 4861 section 6.1.1)
)

// allRouters is where solicitations go: ff02::2.
var allRouters = boot.MAC{0x33, 0x33, 0, 0, 0, 2}

// readSolicitation takes a frame apart and says who asks for a router, from
// its link-local address. Those from no address at all are none of iPXE's.
func readSolicitation(f []byte) (mac boot.MAC, from netip.Addr, ok bool) {
	if len(f) < lenEther+lenIPv6+lenSolicitation || binary.BigEndian.Uint16(f[12:]) != etherIPv6 {
		return boot.MAC{}, netip.Addr{}, false
	}
	ip := f[lenEther:]
	icmp := ip[lenIPv6:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != protoICMP || ip[7] != ownLinkOnly || size < lenSolicitation || size > len(icmp) ||
		icmp[0] != routerSolicitation || icmp[1] != 0 {
		return boot.MAC{}, netip.Addr{}, false
	}
	from = netip.AddrFrom16([16]byte(ip[8:24]))
	return boot.MAC(f[6:12]), from, from.IsLinkLocalUnicast()
}

// advertisement is the frame that answers a solicitation.
func advertisement(from, to boot.MAC, dst netip.Addr) []byte {
	f := make([]byte, lenEther+lenIPv6+lenAdvertisement)
	ether(f, from, to, etherIPv6)
	ip, icmp := f[lenEther:], f[lenEther+lenIPv6:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], lenAdvertisement)
	ip[6], ip[7] = protoICMP, ownLinkOnly
	copy(ip[8:], linkLocal(from).AsSlice())
	copy(ip[24:], dst.AsSlice())
	icmp[0] = routerAdvertisement // all else is 0: unspecified, lifetime 0
	pseudo := sum(sum(lenAdvertisement, ip[8:40]), []byte{0, protoICMP})
	binary.BigEndian.PutUint16(icmp[2:], ^sum(pseudo, icmp))
	return f
}

// linkLocal is the address that a MAC stands for (RFC 4291 appendix A).
func linkLocal(m boot.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// listenSolicitations opens the socket for solicitations. The interface must be
// told to take in what is sent to routers.
func listenSolicitations(ifi *net.Interface) (*os.File, error) {
	f, err := listenPacket(ifi, etherIPv6, solicitationFilter())
	if err != nil {
		return nil, err
	}
	if err := joinGroup(f, ifi, allRouters); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// solicitationFilter passes router solicitations.
func solicitationFilter() []bpf.RawInstruction {
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: lenEther + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoICMP, SkipFalse: 3},
		bpf.LoadAbsolute{Off: lenEther + lenIPv6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: routerSolicitation, SkipFalse: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err) // the program is constant: only a change of this function can break it
	}
	return prog
}

// Bounds of what is remembered of solicitations: strangers send them too.
const (
	maxSolicitors = 256
	askedFor      = 30 * time.Second // so long iPXE waits for an answer, and some more
	bootsFor      = 2 * time.Minute  // from a boot file's name to the next iPXE's first packet
)

// solicitations are who asked for a router, and who was sent a boot file: the
// question comes before the DISCOVER that tells that the machine boots from us.
// Nothing is decided here: to be sent a boot file was the decision.
type solicitations struct {
	mu    sync.Mutex
	asked *lru[boot.MAC, solicitor]
	boots *lru[boot.MAC, time.Time]
}

type solicitor struct {
	from netip.Addr
	at   time.Time
}

func newSolicitations() *solicitations {
	return &solicitations{asked: newLRU[boot.MAC, solicitor](maxSolicitors), boots: newLRU[boot.MAC, time.Time](maxSolicitors)}
}

// hear notes a solicitation and says whether it is to be answered now.
func (q *solicitations) hear(mac boot.MAC, from netip.Addr, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at, ok := q.boots.get(mac); ok && now.Sub(at) < bootsFor {
		return true
	}
	q.asked.put(mac, solicitor{from, now})
	return false
}

// booting notes that a machine was sent a boot file, and returns the address of
// a solicitation that waits for its answer.
func (q *solicitations) booting(mac boot.MAC, now time.Time) (from netip.Addr, waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.boots.put(mac, now)
	a, ok := q.asked.get(mac)
	if !ok || now.Sub(a.at) > askedFor {
		return netip.Addr{}, false
	}
	q.asked.put(mac, solicitor{})
	return a.from, true
}

// hearSolicitation answers a machine that boots from us, and nobody else.
func (s *Server) hearSolicitation(f []byte) {
	if mac, from, ok := readSolicitation(f); ok && s.solicitations.hear(mac, from, time.Now()) {
		s.advertise(mac, from)
	}
}

// noteBooting answers the solicitation that came before the DISCOVER.
func (s *Server) noteBooting(mac boot.MAC) {
	if from, waits := s.solicitations.booting(mac, time.Now()); waits {
		s.advertise(mac, from)
	}
}

func (s *Server) advertise(mac boot.MAC, to netip.Addr) {
	w := *s.wire.Load()
	if err := w.ether(advertisement(s.ownMAC(), mac, to)); err != nil {
		s.noisy.Warn("router solicitation not answered: iPXE loses some seconds", zap.Stringer("mac", mac), zap.NamedError("err", err))
	}
}
