package dhcp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// settle lets everything happen that happens within the time of a probe.
func settle() {
	time.Sleep(probeAgain + probeWait + 50*time.Millisecond)
	synctest.Wait()
}

// one receives a packet and returns the one reply to it, nil for silence.
func one(t *testing.T, s *Server, w *fakeWire, d *dhcpv4.DHCPv4) *sent {
	t.Helper()
	s.receive(d, portServer, "0.0.0.0:68")
	settle()
	switch out := w.take(); len(out) {
	case 0:
		return nil
	case 1:
		return &out[0]
	default:
		t.Fatalf("%d replies, want one", len(out))
		return nil
	}
}

// lease takes a client through DISCOVER to ACK.
func lease(t *testing.T, s *Server, w *fakeWire, m boot.MAC, change ...dhcpv4.Modifier) string {
	t.Helper()
	o := one(t, s, w, request(m, dhcpv4.MessageTypeDiscover, change...))
	if o == nil || o.MessageType() != dhcpv4.MessageTypeOffer {
		t.Fatalf("%s: no offer: %v", m, o)
	}
	a := one(t, s, w, request(m, dhcpv4.MessageTypeRequest, append(change, want(o.YourIPAddr.String()), server("192.168.77.1"))...))
	if a == nil || a.MessageType() != dhcpv4.MessageTypeAck || !a.YourIPAddr.Equal(o.YourIPAddr) {
		t.Fatalf("%s: offered %s, then %v", m, o.YourIPAddr, a)
	}
	return a.YourIPAddr.String()
}

func bubble(t *testing.T, change func(*Server), f func(t *testing.T, s *Server, w *fakeWire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, w := newServer(t, change)
		f(t, s, w)
	})
}

func TestLease(t *testing.T) {
	st := &store{}
	bubble(t, func(s *Server) { s.Store = st }, func(t *testing.T, s *Server, w *fakeWire) {
		o := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover))
		if o.way != "frame" || o.to != mac(1) || o.dst.String() != "192.168.77.100:68" {
			t.Errorf("offer went by %s to %s %s, want a frame to the client's MAC", o.way, o.to, o.dst)
		}
		if len(w.arps) != 2 || w.arps[0].String() != "192.168.77.100" {
			t.Errorf("ARP probes %v, want two for the address offered", w.arps)
		}
		if len(st.rows) != 0 {
			t.Error("an offer was stored")
		}
		a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, want("192.168.77.100"), server("192.168.77.1")))
		if a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("REQUEST got %v", a)
		}
		if a.IPAddressLeaseTime(0) != time.Hour || a.IPAddressRenewalTime(0) != 30*time.Minute || a.IPAddressRebindingTime(0) != 52*time.Minute+30*time.Second {
			t.Error("times of the lease:", a.Summary())
		}
		if a.SubnetMask().String() != "ffffff00" || a.Router()[0].String() != "192.168.77.1" || a.DNS()[0].String() != "192.168.77.1" || a.DomainName() != "rescue.example" {
			t.Error("parameters:", a.Summary())
		}
		if l := st.rows["192.168.77.100"]; l.MAC != mac(1) {
			t.Errorf("stored %+v", st.rows)
		}
		if m, ok := s.MACOf(netip.MustParseAddr("192.168.77.100")); !ok || m != mac(1) {
			t.Errorf("MACOf = %v %v", m, ok)
		}
		time.Sleep(2 * time.Hour)
		if l := s.Leases(); len(l) != 0 {
			t.Errorf("leases after their time: %v", l)
		}
		if again := lease(t, s, w, mac(1)); again != "192.168.77.100" {
			t.Errorf("came back and got %s, want its old address", again)
		}
	})
}

func TestRequest(t *testing.T) {
	have := mac(1) // has 192.168.77.100
	r := dhcpv4.MessageTypeRequest
	tests := []struct {
		name string
		send *dhcpv4.DHCPv4
		want string // message type and way
	}{
		{"selecting, offer unknown", request(mac(2), r, server("192.168.77.1"), want("192.168.77.150")), "NAK frame 255.255.255.255:68"},
		{"selecting, address of another", request(mac(2), r, server("192.168.77.1"), want("192.168.77.100")), "NAK frame 255.255.255.255:68"},
		{"selecting, other server", request(mac(2), r, server("192.168.77.9"), want("192.168.77.150")), ""},
		{"init-reboot, right", request(have, r, want("192.168.77.100")), "ACK frame 192.168.77.100:68"},
		{"init-reboot, wrong address", request(have, r, want("192.168.77.101")), "NAK frame 255.255.255.255:68"},
		{"init-reboot, wrong network", request(mac(3), r, want("10.0.0.5")), "NAK frame 255.255.255.255:68"},
		{"init-reboot, no record", request(mac(3), r, want("192.168.77.150")), ""},
		{"init-reboot, broadcast flag", request(have, r, want("192.168.77.100"), dhcpv4.WithBroadcast(true)), "ACK frame 255.255.255.255:68"},
		{"renewing", request(have, r, ciaddr("192.168.77.100")), "ACK udp 192.168.77.100:68"},
		{"renewing, names us", request(have, r, ciaddr("192.168.77.100"), server("192.168.77.1")), "ACK udp 192.168.77.100:68"},
		{"rebinding, no record", request(mac(3), r, ciaddr("192.168.77.151")), ""},
		{"rebinding, wrong network", request(mac(3), r, ciaddr("10.0.0.7")), "NAK frame 255.255.255.255:68"},
		{"rebinding, address of another", request(mac(4), r, ciaddr("192.168.77.100")), ""},
		{"nothing said", request(have, r), ""},
		{"relayed, wrong network", request(mac(3), r, want("10.0.0.5"), giaddr("192.168.77.5")), "NAK udp 192.168.77.5:67"},
		{"unknown relay", request(mac(3), dhcpv4.MessageTypeDiscover, giaddr("172.16.0.1")), ""},
		{"inform", request(mac(9), dhcpv4.MessageTypeInform, ciaddr("192.168.77.9")), "ACK udp 192.168.77.9:68"},
		{"inform from elsewhere", request(mac(9), dhcpv4.MessageTypeInform, ciaddr("8.8.8.8")), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, s *Server, w *fakeWire) {
				lease(t, s, w, have)
				got := ""
				if out := one(t, s, w, tt.send); out != nil {
					got = fmt.Sprint(out.MessageType(), " ", out.way, " ", out.dst)
					if out.MessageType() == dhcpv4.MessageTypeNak && out.DHCPv4.GatewayIPAddr.String() == "192.168.77.5" && !out.IsBroadcast() {
						t.Error("NAK to a relay without broadcast flag")
					}
					if tt.name == "inform" && (out.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || !out.YourIPAddr.IsUnspecified()) {
						t.Error("ACK to INFORM has an address or a time:", out.Summary())
					}
				}
				if got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestConflictMovesOn(t *testing.T) {
	bubble(t, nil, func(t *testing.T, s *Server, w *fakeWire) {
		w.hosts[netip.MustParseAddr("192.168.77.100")] = mac(0xee)
		w.hosts[netip.MustParseAddr("192.168.77.101")] = mac(0xee)
		s.receive(request(mac(1), dhcpv4.MessageTypeDiscover), portServer, "0.0.0.0:68")
		settle()
		out := w.take()
		if len(out) != 1 || out[0].YourIPAddr.String() != "192.168.77.102" {
			t.Fatalf("offers %v, want 192.168.77.102", out)
		}
		if st := s.Status().Pools[0]; st.Quarantined != 2 || st.Offered != 1 {
			t.Errorf("pool %+v, want 2 in quarantine", st)
		}
	})
}

func TestOwnAddressIsNoConflict(t *testing.T) {
	bubble(t, nil, func(t *testing.T, s *Server, w *fakeWire) {
		w.hosts[netip.MustParseAddr("192.168.77.150")] = mac(1) // still configured in the client
		if got := lease(t, s, w, mac(1), want("192.168.77.150")); got != "192.168.77.150" {
			t.Errorf("got %s", got)
		}
	})
}

func TestRetransmission(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) { s.Boot = b }, func(t *testing.T, s *Server, w *fakeWire) {
		d := request(mac(1), dhcpv4.MessageTypeDiscover, bios)
		for range 3 {
			s.receive(d, portServer, "0.0.0.0:68")
			time.Sleep(time.Millisecond)
		}
		settle()
		if out := w.take(); len(out) != 1 || len(w.arps) != 2 || b.asked != 1 {
			t.Errorf("%d offers, %d ARP requests, %d decisions; want 1, 2, 1", len(out), len(w.arps), b.asked)
		}
		s.receive(d, portServer, "0.0.0.0:68")
		synctest.Wait()
		if out := w.take(); len(out) != 1 || len(w.arps) != 2 || b.asked != 1 {
			t.Errorf("again: %d offers, %d ARP requests, %d decisions; want 1, 2, 1", len(out), len(w.arps), b.asked)
		}
	})
}

// A ROM and the iPXE that it loads may both make their xid of the MAC: iPXE must not get itself again.
func TestOneXIDForAll(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) { s.Boot = b }, func(t *testing.T, s *Server, w *fakeWire) {
		xid := dhcpv4.WithTransactionID(dhcpv4.TransactionID{0, 0, 0, 1})
		for _, tt := range []struct {
			as   dhcpv4.Modifier
			file string
		}{{bios, "boot/525400000001/undionly.kpxe"}, {ipxe, "http://192.168.77.1/boot/525400000001/boot.ipxe"}} {
			if o := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover, xid, tt.as)); o == nil || o.BootFileName != tt.file {
				t.Errorf("want %s: %v", tt.file, o)
			}
		}
	})
}

func TestDeclineAndRelease(t *testing.T) {
	st := &store{}
	bubble(t, func(s *Server) { s.Store = st }, func(t *testing.T, s *Server, w *fakeWire) {
		a := lease(t, s, w, mac(1))
		one(t, s, w, request(mac(2), dhcpv4.MessageTypeDecline, want(a), server("192.168.77.1")))
		if len(s.Leases()) != 1 {
			t.Fatal("a stranger declined somebody's address")
		}
		one(t, s, w, request(mac(1), dhcpv4.MessageTypeDecline, want(a), server("192.168.77.1")))
		if len(s.Leases()) != 0 || len(st.rows) != 0 {
			t.Fatal("declined address is still leased")
		}
		b := lease(t, s, w, mac(1))
		if b == a {
			t.Fatalf("declined address %s given again", b)
		}
		one(t, s, w, request(mac(1), dhcpv4.MessageTypeRelease, ciaddr(b), server("192.168.77.1")))
		if len(s.Leases()) != 0 || len(st.rows) != 0 {
			t.Error("released address is still leased")
		}
		time.Sleep(quarantine)
		if c := lease(t, s, w, mac(3), want(a)); c != a {
			t.Errorf("after its quarantine %s should be free, got %s", a, c)
		}
	})
}

func TestNoLeaseWithoutStore(t *testing.T) {
	st := &store{}
	bubble(t, func(s *Server) { s.Store = st }, func(t *testing.T, s *Server, w *fakeWire) {
		one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover))
		st.fail = true
		r := request(mac(1), dhcpv4.MessageTypeRequest, want("192.168.77.100"), server("192.168.77.1"))
		if a := one(t, s, w, r); a != nil {
			t.Fatalf("lease that is on no disk was given: %v", a.Summary())
		}
		if l := s.Leases(); len(l) != 0 {
			t.Errorf("lease that is on no disk is kept: %v", l)
		}
		st.fail = false
		if a := one(t, s, w, r); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("after the disk is well again: %v", a)
		}
	})
}

func TestRestartKeepsLeases(t *testing.T) {
	st := &store{rows: map[string]Lease{}}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // synctest's clock starts here
	put := func(a string, m boot.MAC, expires time.Time) {
		st.rows[a] = Lease{Addr: netip.MustParseAddr(a), MAC: m, Since: now, Expires: expires}
	}
	put("192.168.77.110", mac(1), now.Add(30*time.Minute))
	put("192.168.77.111", mac(2), now.AddDate(9, 0, 0)) // written with a clock that was ahead
	put("192.168.77.112", mac(3), now.Add(-time.Hour))  // or: the clock was set forward
	put("10.1.1.1", mac(4), now.Add(time.Hour))         // of a network that is gone
	bubble(t, func(s *Server) { s.Store = st }, func(t *testing.T, s *Server, w *fakeWire) {
		if l := s.Leases(); len(l) != 2 || time.Until(l[1].Expires) > time.Hour {
			t.Errorf("leases %v, want two, none for longer than an hour", l)
		}
		r := request(mac(1), dhcpv4.MessageTypeRequest, ciaddr("192.168.77.110"))
		if a := one(t, s, w, r); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("renewal after a restart: %v", a)
		}
		if a := lease(t, s, w, mac(3)); a != "192.168.77.112" {
			t.Errorf("lease that seemed over: got %s, want the same address", a)
		}
		if len(w.arps) != 2 {
			t.Errorf("%d ARP requests, want the old address probed", len(w.arps))
		}
	})
}

func TestReservation(t *testing.T) {
	addr := netip.MustParseAddr("192.168.77.100")
	srv := boot.Machine{Name: "srv01", MACs: []boot.MAC{mac(1), mac(2)}, Address: addr}
	out := boot.Machine{Name: "srv02", MACs: []boot.MAC{mac(7)}, Address: netip.MustParseAddr("192.168.77.20")}
	bubble(t, func(s *Server) { s.Machines = func() []boot.Machine { return []boot.Machine{srv, out} } },
		func(t *testing.T, s *Server, w *fakeWire) {
			if a := lease(t, s, w, mac(9), want("192.168.77.100")); a == addr.String() {
				t.Fatal("reserved address given to a stranger")
			}
			if a := lease(t, s, w, mac(7)); a != "192.168.77.20" {
				t.Errorf("reservation outside the range: got %s", a)
			}
			if a := lease(t, s, w, mac(2)); a != addr.String() {
				t.Errorf("second NIC got %s, want the machine's address", a)
			}
			if a := lease(t, s, w, mac(1)); a == addr.String() {
				t.Error("both NICs have one address")
			}
		})
}

func TestStorm(t *testing.T) {
	known := boot.Machine{Name: "srv01", MACs: []boot.MAC{mac(1)}}
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) {
		s.Boot, s.Machines = b, func() []boot.Machine { return []boot.Machine{known} }
	}, func(t *testing.T, s *Server, w *fakeWire) {
		for i := range 10000 {
			m := mac(0xaa, byte(i>>8), byte(i))
			s.receive(request(m, dhcpv4.MessageTypeDiscover, bios), portServer, "0.0.0.0:68")
			if i%500 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		settle()
		for _, o := range w.take() { // strangers take all that they are offered
			s.receive(request(boot.MAC(o.ClientHWAddr), dhcpv4.MessageTypeRequest, want(o.YourIPAddr.String()), server("192.168.77.1")), portServer, "0.0.0.0:68")
		}
		settle()
		w.take()
		st := s.Status().Pools[0]
		if st.Strangers > 75 || st.Bound < 70 {
			t.Errorf("after the storm %+v: strangers should have 75 addresses and no more", st)
		}
		lease(t, s, w, mac(1), bios)
		if got := b.steps(); !slices.Equal(got, []boot.Step{boot.StepDiscover, boot.StepOffer, boot.StepRequest}) {
			t.Errorf("timeline %v", got)
		}
	})
}

func TestOffersOfStrangersExpire(t *testing.T) {
	bubble(t, func(s *Server) { s.KnownShare = 90 }, func(t *testing.T, s *Server, w *fakeWire) {
		for i := range 20 {
			s.receive(request(mac(0xaa, byte(i)), dhcpv4.MessageTypeDiscover), portServer, "0.0.0.0:68")
		}
		settle()
		if n := len(w.take()); n != 10 {
			t.Fatalf("%d offers to strangers, want the 10 addresses outside the share", n)
		}
		time.Sleep(3 * time.Second) // the oldest offers make room
		if one(t, s, w, request(mac(0xbb), dhcpv4.MessageTypeDiscover)) == nil {
			t.Error("no offer although others did not take theirs")
		}
		time.Sleep(offerUnknown)
		if st := s.Status().Pools[0]; st.Offered != 0 || st.Strangers != 0 {
			t.Errorf("offers hold on: %+v", st)
		}
	})
}

func TestRateLimit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, s *Server, w *fakeWire) {
		lease(t, s, w, mac(1))
		for range 200 {
			s.receive(request(mac(1), dhcpv4.MessageTypeRequest, want("192.168.77.100")), portServer, "0.0.0.0:68")
			synctest.Wait()
		}
		if n := len(w.take()); n > burst {
			t.Errorf("%d answers to a flood, want at most %d", n, burst)
		}
		time.Sleep(10 * time.Second)
		if one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, want("192.168.77.100"))) == nil {
			t.Error("no answer after the flood")
		}
	})
}

func TestRelay(t *testing.T) {
	bubble(t, func(s *Server) {
		s.Relays = []Relay{{Network: netip.MustParsePrefix("10.5.0.0/16"), Router: netip.MustParseAddr("10.5.0.1"),
			Range: Range{netip.MustParseAddr("10.5.1.1"), netip.MustParseAddr("10.5.1.9")}}}
	}, func(t *testing.T, s *Server, w *fakeWire) {
		o := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover, giaddr("10.5.0.1"), opt(82, 1, 3, 'e', 't', 'h')))
		if o == nil || o.way != "udp" || o.dst.String() != "10.5.0.1:67" || o.YourIPAddr.String() != "10.5.1.1" {
			t.Fatalf("offer %v", o)
		}
		if string(o.Options.Get(dhcpv4.OptionRelayAgentInformation)) != "\x01\x03eth" || o.Router()[0].String() != "10.5.0.1" || o.SubnetMask().String() != "ffff0000" {
			t.Error(o.Summary())
		}
		if len(w.arps) != 0 {
			t.Error("ARP does not reach behind a relay")
		}
		take := request(mac(1), dhcpv4.MessageTypeRequest, giaddr("10.5.0.1"), want("10.5.1.1"), server("192.168.77.1"))
		if a := one(t, s, w, take); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("lease through the relay: %v", a)
		}
		// It renews by unicast, past the relay.
		if a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, ciaddr("10.5.1.1"))); a == nil || a.MessageType() != dhcpv4.MessageTypeAck || a.dst.Addr().String() != "10.5.1.1" {
			t.Errorf("renewal from behind the relay: %v", a)
		}
		if a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeInform, ciaddr("10.5.1.1"))); a == nil || a.SubnetMask().String() != "ffff0000" {
			t.Errorf("INFORM from behind the relay: %v", a)
		}
	})
}

// A client that changed its address left an older row in the store. After a
// restart it has the newer one, and the older row is gone.
func TestRestartKnowsTheNewestAddress(t *testing.T) {
	st := &store{rows: map[string]Lease{}}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // synctest's clock starts here
	for addr, renewed := range map[string]time.Time{"192.168.77.150": now.Add(-2 * time.Hour), "192.168.77.110": now} {
		st.rows[addr] = Lease{Addr: netip.MustParseAddr(addr), MAC: mac(1), Since: renewed, Renewed: renewed, Expires: renewed.Add(time.Hour)}
	}
	bubble(t, func(s *Server) { s.Store = st }, func(t *testing.T, s *Server, w *fakeWire) {
		if a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, ciaddr("192.168.77.110"))); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("renewal after a restart: %v", a)
		}
		if _, left := st.rows["192.168.77.150"]; left || len(st.rows) != 1 {
			t.Errorf("stored: %v", st.rows)
		}
	})
}

// A box that is configured as the full server does not give way to one with a
// lower address: it answers that one's probe as any server would.
func TestConfiguredBoxAnswersProbe(t *testing.T) {
	bubble(t, func(s *Server) { s.Mode, s.Address = Full, netip.MustParsePrefix("192.168.77.5/24") }, func(t *testing.T, s *Server, w *fakeWire) {
		probe := request(mac(9), dhcpv4.MessageTypeInform, ciaddr("192.168.77.1"), text(60, boxClass+" 192.168.77.1"))
		if a := one(t, s, w, probe); a == nil || a.MessageType() != dhcpv4.MessageTypeAck || a.Options.Has(dhcpv4.OptionClassIdentifier) {
			t.Errorf("answer to the probe: %v", a)
		}
	})
}
