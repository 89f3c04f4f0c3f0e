package dhcp

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"rescuebox/appliance/boot"
)

// siteOffers lets the server hear what the site's own one says to a client.
func siteOffers(s *Server, kind dhcpv4.MessageType, m boot.MAC, addr string, change ...dhcpv4.Modifier) {
	d := request(m, kind, append(change, dhcpv4.WithYourIP(ip(addr)), server("192.168.77.254"))...)
	d.OpCode = dhcpv4.OpcodeBootReply
	s.hearServer(mac(0), udpFrame(mac(0xfe), mac(1), netip.MustParseAddrPort("192.168.77.254:67"), netip.MustParseAddrPort("255.255.255.255:68"), d.ToBytes()))
}

// TestGRUBGoesByTheLease: GRUB asks the next server of its lease. Where that is
// another host, the lease comes from us at once if we may give one, and if
// not, the decision is told.
func TestGRUBGoesByTheLease(t *testing.T) {
	siteNames := func(next string) func(*Server) {
		return func(s *Server) {
			siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.50", dhcpv4.WithServerIP(net.ParseIP(next)))
		}
	}
	inRange := func(s *Server) { siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.150") }
	for _, tt := range []struct {
		name   string
		hears  func(*Server)
		file   string
		lent   bool
		change dhcpv4.Modifier
		pin    string
	}{
		{"the site names another host", siteNames("192.168.77.254"), "shimx64.efi", true, uefi, ""},
		{"a pinned dialect is kept", siteNames("192.168.77.254"), "snponly.efi", false, uefi, binl},
		{"and gives addresses of our range", inRange, "snponly.efi", false, uefi, ""},
		{"the site names us", siteNames("192.168.77.1"), "shimx64.efi", false, uefi, ""},
		{"nothing is known of the site", nil, "snponly.efi", false, uefi, ""},
		{"BIOS", siteNames("192.168.77.254"), "undionly.kpxe", false, bios, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &orders{ordered: map[boot.MAC]bool{mac(1): true}, shim: true, dialect: tt.pin}
			bubble(t, func(s *Server) {
				s.Boot, s.Mode = b, Proxy
				s.Machines = func() []boot.Machine {
					return []boot.Machine{{Name: "srv01", MACs: []boot.MAC{mac(1)}, Dialect: tt.pin}}
				}
			}, func(t *testing.T, s *Server, w *fakeWire) {
				if tt.hears != nil {
					tt.hears(s)
					synctest.Wait()
				}
				s.receive(request(mac(1), dhcpv4.MessageTypeDiscover, tt.change), portServer, "0.0.0.0:68")
				time.Sleep(3 * time.Second)
				sent := w.take()
				if len(sent) == 0 {
					t.Fatal("no offer")
				}
				o := sent[len(sent)-1]
				if lent := o.YourIPAddr != nil && !o.YourIPAddr.IsUnspecified(); lent != tt.lent || !strings.HasSuffix(o.BootFileName, tt.file) {
					t.Error("want", tt.file, tt.lent, "got", o.Summary())
				}
			})
		})
	}
}

// TestLend: firmware that takes nothing but one complete offer gets it within
// its first attempt, but only where the address is safe to give.
func TestLend(t *testing.T) {
	elsewhere := func(s *Server) { siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.50") }
	tests := []struct {
		name   string
		change func(*Server, *boot.Machine)
		before func(*Server)
		relay  bool
		want   string // the address, "" for none
	}{
		{"the site gives others", nil, elsewhere, false, "192.168.77.100"},
		{"nothing is known of the site's addresses", nil, nil, false, ""},
		{"the site gives those of our range", nil, func(s *Server) {
			elsewhere(s)
			siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.150")
		}, false, ""},
		{"a client has one of our range", nil, func(s *Server) {
			elsewhere(s)
			s.receive(request(mac(8), dhcpv4.MessageTypeRequest, want("192.168.77.150")), portServer, "0.0.0.0:68")
		}, false, ""},
		{"reserved for it", func(_ *Server, m *boot.Machine) { m.Address = netip.MustParseAddr("192.168.77.20") }, nil, false, "192.168.77.20"},
		{"reserved for it, no range", func(s *Server, m *boot.Machine) {
			s.Range, m.Address = Range{}, netip.MustParseAddr("192.168.77.20")
		}, nil, false, "192.168.77.20"},
		{"no range", func(s *Server, _ *boot.Machine) { s.Range = Range{} }, elsewhere, false, ""},
		{"not named", func(s *Server, _ *boot.Machine) { s.Machines = nil }, elsewhere, false, ""},
		{"behind a relay", nil, elsewhere, true, ""},
		{"another box does it", nil, func(s *Server) {
			elsewhere(s)
			s.receive(request(mac(9), dhcpv4.MessageTypeInform, ciaddr("10.0.0.1"), text(60, boxClass+" 10.0.0.1")), portServer, "10.0.0.1:68")
		}, false, ""},
		{"another box leaves it to us", nil, func(s *Server) {
			elsewhere(s)
			s.receive(request(mac(9), dhcpv4.MessageTypeInform, ciaddr("192.168.77.9"), text(60, boxClass+" 192.168.77.9")), portServer, "192.168.77.9:68")
		}, false, "192.168.77.100"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
			m := boot.Machine{Name: "srv01", MACs: []boot.MAC{mac(1)}}
			bubble(t, func(s *Server) {
				s.Boot, s.Mode, s.Machines = b, Proxy, func() []boot.Machine { return []boot.Machine{m} }
				if tt.change != nil {
					tt.change(s, &m)
				}
			}, func(t *testing.T, s *Server, w *fakeWire) {
				if tt.before != nil {
					tt.before(s)
					synctest.Wait()
				}
				change := func(d *dhcpv4.DHCPv4) {
					uefi(d)
					if tt.relay {
						giaddr("192.168.77.9")(d)
					}
				}
				offers, got := pxe{t, s, w, mac(1), change}.attempt(isAddress)
				if !got {
					if tt.want != "" || len(offers) != 4 {
						t.Fatalf("%d offers, none with an address; want %q", len(offers), tt.want)
					}
					return
				}
				o := offers[len(offers)-1]
				if o.YourIPAddr.String() != tt.want || o.BootFileName == "" || o.ServerIPAddr.String() != "192.168.77.1" {
					t.Fatal("want", tt.want, o.Summary())
				}
				if tt.name == "the site gives others" && !slices.Contains(w.arps, netip.MustParseAddr(tt.want)) {
					t.Error("the address was not probed")
				}
				exchangeLent(t, s, w, tt.want)
			})
		})
	}
}

// exchangeLent ends the exchange, and shows that nobody else is served.
func exchangeLent(t *testing.T, s *Server, w *fakeWire, addr string) {
	t.Helper()
	r := dhcpv4.MessageTypeRequest
	a := one(t, s, w, request(mac(1), r, uefi, want(addr), server("192.168.77.1")))
	if a == nil || a.MessageType() != dhcpv4.MessageTypeAck || a.YourIPAddr.String() != addr || a.BootFileName == "" {
		t.Fatal("REQUEST got", a)
	}
	for _, d := range []*dhcpv4.DHCPv4{
		request(mac(1), r, uefi, want("10.0.0.5")),                                    // its old address elsewhere: not ours to refuse
		request(mac(1), r, ciaddr(addr)),                                              // a running system
		request(mac(1), r, uefi, want("192.168.77.50"), server("192.168.77.254")),     // takes the other offer
		request(mac(2), dhcpv4.MessageTypeDiscover, uefi),                             // a stranger
		request(mac(1), dhcpv4.MessageTypeDiscover, text(60, "MSFT 5.0"), opt(55, 1)), // the booted system
	} {
		if out := one(t, s, w, d); out != nil {
			t.Errorf("answered %s\nwith %s", d.Summary(), out.Summary())
		}
	}
}

// lending is a server in proxy mode that may lend srv01 what the change allows,
// in the dialect that does it.
func lending(t *testing.T, change func(*Server, *boot.Machine), f func(t *testing.T, s *Server, w *fakeWire)) {
	t.Helper()
	m := boot.Machine{Name: "srv01", MACs: []boot.MAC{mac(1)}}
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}, dialect: address}
	bubble(t, func(s *Server) {
		s.Boot, s.Mode, s.Machines = b, Proxy, func() []boot.Machine { return []boot.Machine{m} }
		if change != nil {
			change(s, &m)
		}
	}, f)
}

// offeredTo is the address that a machine is offered now.
func offeredTo(t *testing.T, s *Server, w *fakeWire) string {
	t.Helper()
	s.receive(request(mac(1), dhcpv4.MessageTypeDiscover, uefi), portServer, "0.0.0.0:68")
	settle()
	settle()
	out := w.take()
	if len(out) != 1 {
		t.Fatalf("%d offers, want one", len(out)) // without an address, too: so the next dialect has its turn
	}
	if !isAddress(&out[0]) {
		return ""
	}
	return out[0].YourIPAddr.String()
}

// TestLendsNoAddressInUse: hosts that got theirs meanwhile, that are seen but
// sleep, and that only the client finds.
func TestLendsNoAddressInUse(t *testing.T) {
	const own, first = "192.168.77.20", "192.168.77.100"
	mine := netip.MustParseAddr(own)
	reserved := func(_ *Server, m *boot.Machine) { m.Address = mine }
	elsewhere := func(s *Server) { siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.50") }
	takes := func(t *testing.T, s *Server, w *fakeWire, addr string) {
		t.Helper()
		if a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, uefi, want(addr), server("192.168.77.1"))); a == nil || a.YourIPAddr.String() != addr {
			t.Fatal("REQUEST got", a)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*Server, *boot.Machine)
		play   func(t *testing.T, s *Server, w *fakeWire)
		want   string
	}{
		{"reserved, but another host has it: none of the range, of which nothing is known", reserved, func(_ *testing.T, s *Server, w *fakeWire) {
			w.hosts[mine] = mac(0xee)
		}, ""},
		{"reserved, but another host has it: one of the range, which the site does not give", reserved, func(_ *testing.T, s *Server, w *fakeWire) {
			w.hosts[mine] = mac(0xee)
			elsewhere(s)
		}, first},
		{"reserved, but a client renews it, and sleeps", reserved, func(_ *testing.T, s *Server, w *fakeWire) {
			s.receive(request(mac(8), dhcpv4.MessageTypeRequest, ciaddr(own)), portServer, own+":68")
			synctest.Wait()
		}, ""},
		{"had it, and another host has it since", reserved, func(t *testing.T, s *Server, w *fakeWire) {
			takes(t, s, w, offeredTo(t, s, w))
			time.Sleep(10 * time.Minute)
			w.hosts[mine] = mac(0xee)
		}, ""},
		{"had it, and has it still", reserved, func(t *testing.T, s *Server, w *fakeWire) {
			takes(t, s, w, offeredTo(t, s, w))
			time.Sleep(10 * time.Minute)
			w.hosts[mine] = mac(1)
		}, own},
		{"declined", nil, func(t *testing.T, s *Server, w *fakeWire) {
			elsewhere(s)
			takes(t, s, w, offeredTo(t, s, w))
			if r := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDecline, want(first), server("192.168.77.1"))); r != nil {
				t.Error("answered a DECLINE with", r)
			}
		}, "192.168.77.101"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lending(t, tt.change, func(t *testing.T, s *Server, w *fakeWire) {
				tt.play(t, s, w)
				if got := offeredTo(t, s, w); got != tt.want {
					t.Errorf("offered %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// TestLentStands: what was offered is given, though the next dialect is tried
// already, and what the machine gives back is free.
func TestLentStands(t *testing.T) {
	elsewhere := func(s *Server) { siteOffers(s, dhcpv4.MessageTypeOffer, mac(0), "192.168.77.50") }
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) {
		s.Boot, s.Mode, s.Machines = b, Proxy, func() []boot.Machine { return []boot.Machine{{Name: "srv01", MACs: []boot.MAC{mac(1)}}} }
	}, func(t *testing.T, s *Server, w *fakeWire) {
		elsewhere(s)
		offers, ok := pxe{t, s, w, mac(1), uefi}.attempt(isAddress)
		if !ok {
			t.Fatal(len(offers), "offers, none with an address")
		}
		addr := offers[len(offers)-1].YourIPAddr.String()
		s.receive(request(mac(1), dhcpv4.MessageTypeDiscover, uefi), portServer, "0.0.0.0:68") // its next one: it is slow
		settle()
		w.take()
		if d := s.interpreter.dialect(client(boot.UEFIX64, "PXEClient"), "", false); d.Full {
			t.Fatal("the dialect has not changed")
		}
		a := one(t, s, w, request(mac(1), dhcpv4.MessageTypeRequest, uefi, want(addr), server("192.168.77.1")))
		if a == nil || a.MessageType() != dhcpv4.MessageTypeAck || a.YourIPAddr.String() != addr || a.BootFileName == "" {
			t.Fatal("REQUEST got", a)
		}
		if d := s.interpreter.dialect(client(boot.UEFIX64, "PXEClient"), "", false); d.Name != address {
			t.Errorf("it took our address, and %q gets the credit", d.Name)
		}
		if one(t, s, w, request(mac(1), dhcpv4.MessageTypeRelease, ciaddr(addr), server("192.168.77.1"))); len(s.Leases()) != 0 {
			t.Error("released, and leased still:", s.Leases())
		}
	})
}

// TestOldWishIsNoLease: a laptop that comes back asks for the address that it
// had, which the site's server has given to another host since. When we take
// over that one has it, awake or asleep.
func TestOldWishIsNoLease(t *testing.T) {
	const addr = "192.168.77.100"
	for _, asleep := range []bool{true, false} {
		bubble(t, func(s *Server) { s.Mode, s.KnownShare = Auto, 0 }, func(t *testing.T, s *Server, w *fakeWire) {
			s.arbiter.hear(time.Now(), siteDHCP)
			if asleep { // and was seen when it got it
				s.receive(request(mac(1), dhcpv4.MessageTypeRequest, want(addr), server("192.168.77.254")), portServer, "0.0.0.0:68")
				synctest.Wait()
			} else {
				w.hosts[netip.MustParseAddr(addr)] = mac(1)
			}
			s.receive(request(mac(2), dhcpv4.MessageTypeRequest, want(addr)), portServer, "0.0.0.0:68")
			synctest.Wait()
			for range 4 {
				s.arbiter.probe(time.Now())
			}
			if got := lease(t, s, w, mac(2), want(addr)); got == addr {
				t.Errorf("asleep %v: the laptop gets %s, another host's", asleep, got)
			}
		})
	}
}

// TestOthersLeases: who had an address of our range from the server that died
// gets it again, and nobody else gets it, though its owner sleeps.
func TestOthersLeases(t *testing.T) {
	bubble(t, func(s *Server) { s.Mode, s.KnownShare = Auto, 0 }, func(t *testing.T, s *Server, w *fakeWire) {
		s.arbiter.hear(time.Now(), siteDHCP)
		s.receive(request(mac(1), dhcpv4.MessageTypeRequest, want("192.168.77.100"), server("192.168.77.254")), portServer, "0.0.0.0:68")
		s.receive(request(mac(2), dhcpv4.MessageTypeInform, ciaddr("192.168.77.101")), portServer, "192.168.77.101:68")
		synctest.Wait()
		siteOffers(s, dhcpv4.MessageTypeAck, mac(3), "192.168.77.102")
		for range 4 {
			s.arbiter.probe(time.Now())
		}
		if s.arbiter.now() != Full {
			t.Fatal(s.arbiter.now())
		}
		if got := lease(t, s, w, mac(9)); got != "192.168.77.103" {
			t.Errorf("a stranger gets %s, want the first address that nobody had", got)
		}
		for m, addr := range map[byte]string{1: "192.168.77.100", 2: "192.168.77.101", 3: "192.168.77.102"} {
			if got := lease(t, s, w, mac(m)); got != addr {
				t.Errorf("client %d gets %s, had %s", m, got, addr)
			}
		}
	})
}

// TestLendOnTheWire has a firmware like that of bootimus#77 beside a real
// dnsmasq: only one offer with address and boot file will do for it.
func TestLendOnTheWire(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base")
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	l := newLAN(t)
	site := dnsmasq(t, l.peer("site", mac(0xfe), "192.168.77.254/24"))
	s := l.serve(func(s *Server) {
		quick(s)
		s.Boot, s.Machines = b, func() []boot.Machine { return []boot.Machine{{Name: "srv01", MACs: []boot.MAC{mac(1)}}} }
	})
	eventually(t, time.Minute, "proxy beside dnsmasq", func() bool { return s.Status().Mode == Proxy })
	eventually(t, time.Minute, "dnsmasq's addresses are known", s.book.othersElsewhere)
	l.peer("srv01", mac(1), "")
	var conn net.PacketConn
	insideOf(t, "srv01", func() {
		var err error
		if conn, err = nclient4.NewRawUDPConn("eth0", portClient); err != nil {
			t.Fatal(err)
		}
	})
	defer conn.Close()
	hear := func(d *dhcpv4.DHCPv4, wait time.Duration, ok func(*dhcpv4.DHCPv4) bool) *dhcpv4.DHCPv4 {
		t.Helper()
		if _, err := conn.WriteTo(d.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: portServer}); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		for buf := make([]byte, 2048); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return nil
			}
			if r, err := dhcpv4.FromBytes(buf[:n]); err == nil && r.TransactionID == d.TransactionID && ok(r) {
				return r
			}
		}
	}
	d := request(mac(1), dhcpv4.MessageTypeDiscover, uefi, dhcpv4.WithBroadcast(true))
	var offer *dhcpv4.DHCPv4
	tries := 0
	for ; offer == nil && tries < 8; tries++ {
		d.NumSeconds = uint16(4 * tries)
		offer = hear(d, 4*time.Second, func(r *dhcpv4.DHCPv4) bool { return !r.YourIPAddr.IsUnspecified() && r.BootFileName != "" })
	}
	if offer == nil || offer.YourIPAddr.String() != "192.168.77.100" || !offer.ServerIPAddr.Equal(ip("192.168.77.1")) {
		t.Fatalf("after %d DISCOVERs: %v; timeline %q", tries, offer, b.texts(boot.StepDialect))
	}
	r := request(mac(1), dhcpv4.MessageTypeRequest, uefi, dhcpv4.WithBroadcast(true), want("192.168.77.100"), server("192.168.77.1"))
	var ack *dhcpv4.DHCPv4
	for tries := 0; ack == nil && tries < 8; tries++ {
		ack = hear(r, 4*time.Second, func(a *dhcpv4.DHCPv4) bool { return a.MessageType() == dhcpv4.MessageTypeAck })
	}
	if ack == nil || ack.BootFileName != "boot/525400000001/snponly.efi" {
		t.Fatal("REQUEST got", ack)
	}
	s.Fetched(mac(1), true)
	// On a slow machine an answer may come after the next DISCOVER.
	if got := b.texts(boot.StepDialect); len(got) < 4 || !strings.Contains(got[len(got)-1], `works with DHCP dialect "address"`) {
		t.Errorf("timeline %q after %d DISCOVERs", got, tries)
	}
	if strings.Contains(site.String(), "DHCPACK(eth0) 192.168.77.100") || s.Status().Mode != Proxy {
		t.Errorf("mode %s, the site's server:\n%s", s.Status().Mode, site)
	}
}
