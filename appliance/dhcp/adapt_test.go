package dhcp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// learned is a LearnedStore in memory.
type learned struct{ rows map[string]Learned }

func (l *learned) Put(k string, v Learned) error { l.rows[k] = v; return nil }
func (l *learned) Delete(k string) error         { delete(l.rows, k); return nil }
func (l *learned) All() (out []Learned, err error) {
	for _, v := range l.rows {
		out = append(out, v)
	}
	return out, nil
}

// names lists the dialects of a ladder.
func names(ladder []Dialect) (out []string) {
	for _, d := range ladder {
		out = append(out, d.Name)
	}
	return out
}

func client(arch boot.Arch, class string, oui ...byte) boot.Client {
	c := boot.Client{MAC: mac(1), Arch: arch, Program: boot.Firmware, VendorClass: class}
	copy(c.MAC[:], oui)
	return c
}

func TestLadders(t *testing.T) {
	ipxe := boot.Client{MAC: mac(1), Arch: boot.BIOS, Program: boot.IPXE}
	tests := []struct {
		name   string
		client boot.Client
		full   bool
		want   string // the first three
	}{
		{"BIOS beside a server", client(boot.BIOS, "PXEClient"), false, "control menu late"},
		{"BIOS", client(boot.BIOS, "PXEClient"), true, "control late binl"},
		{"UEFI beside a server", client(boot.UEFIX64, "PXEClient"), false, "binl control late"},
		{"UEFI", client(boot.UEFIX64, "PXEClient"), true, "control late binl"},
		{"ia32", client(boot.UEFIIA32, "PXEClient"), false, "binl control late"},
		{"arm64", client(boot.UEFIARM64, "PXEClient"), false, "binl control late"},
		{"HTTP Boot", client(boot.HTTPX64, "HTTPClient"), false, "plain late control"},
		{"HTTP Boot arm64", client(boot.HTTPARM64, "HTTPClient"), true, "plain late"},
		{"iPXE", ipxe, false, "plain late control"},
		{"iPXE of a full server", ipxe, true, "plain late"},
		{"HP beside a server", client(boot.UEFIX64, "PXEClient", 0x3c, 0x52, 0x82), false, "binl address control"},
		{"HP as BIOS", client(boot.BIOS, "PXEClient", 0x3c, 0x52, 0x82), false, "control menu late"},
		{"HP of a full server", client(boot.UEFIX64, "PXEClient", 0x3c, 0x52, 0x82), true, "control late binl"},
		{"Dell T430", client(boot.UEFIX64, "PXEClient", 0x18, 0x66, 0xda), false, "binl address control"},
		{"U-Boot", client(boot.UEFIARM64, "U-Boot.armv8"), false, "address header"},
		{"Huawei", client(boot.UEFIX64, "HW-Client"), false, "binl control late"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := names(ladderOf(tt.client, tt.full))
			if first := strings.Join(got[:min(3, len(got))], " "); first != tt.want {
				t.Errorf("%v, want %s first", got, tt.want)
			}
			for i, n := range got {
				if !slices.Contains(Dialects(), n) || slices.Contains(got[:i], n) {
					t.Errorf("%q in %v twice, or no name that can be pinned", n, got)
				}
			}
			if i := slices.Index(got, address); tt.full && i >= 0 {
				t.Error("a full server gives the address anyway")
			}
		})
	}
	if d := ladderOf(client(boot.UEFIX64, ""), false)[2]; d.Control || !d.Binl || d.Delay == 0 {
		t.Errorf("late says it otherwise than the usual dialect: %+v", d)
	}
}

// TestSaid: what each dialect puts on the wire, in the offer and on port 4011.
func TestSaid(t *testing.T) {
	const file, item = "boot/525400000001/snponly.efi", "\x47\x04\x80\x00\x00\x00\xff"
	menu43 := "\x06\x01\x07" + "\x08\x07\x80\x00\x01\xc0\xa8\x4d\x01" + "\x09\x0c\x80\x00\x09rescuebox" + "\x0a\x0a\x00rescuebox" + "\xff"
	tests := []struct {
		pin            string
		class          string
		header, option bool
		vendor         string
	}{
		{"binl", "PXEClient", true, true, ""},
		{"control", "PXEClient", true, true, "\x06\x01\x08\xff"},
		{"menu", "PXEClient", true, true, menu43},
		{"wds", "PXEClient", false, false, ""},
		{"header", "PXEClient", true, false, "\x06\x01\x08\xff"},
		{"option", "PXEClient", false, true, "\x06\x01\x08\xff"},
		{"late", "PXEClient", true, true, ""},
		{"small", "PXEClient", true, true, ""},
		{"nonsense", "PXEClient", true, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.pin, func(t *testing.T) {
			b := &orders{ordered: map[boot.MAC]bool{mac(1): true}, dialect: tt.pin}
			bubble(t, func(s *Server) { s.Boot, s.Mode = b, Proxy }, func(t *testing.T, s *Server, w *fakeWire) {
				begin := time.Now()
				s.receive(request(mac(1), dhcpv4.MessageTypeDiscover, uefi), portServer, "0.0.0.0:68")
				out := waitReply(w)
				if late := time.Since(begin) >= lateBy; late != (tt.pin == "late") {
					t.Errorf("answered after %v", time.Since(begin))
				}
				if got := string(out.Options.Get(dhcpv4.OptionVendorSpecificInformation)); got != tt.vendor {
					t.Errorf("option 43 %q, want %q", got, tt.vendor)
				}
				if (out.BootFileName == file) != tt.header || (out.BootFileNameOption() == file) != tt.option || out.ClassIdentifier() != tt.class || out.ServerIPAddr.String() != "192.168.77.1" {
					t.Error(out.Summary())
				}
				s.receive(request(mac(1), dhcpv4.MessageTypeRequest, uefi, opt(43, 71, 4, 0x80, 0, 0, 0, 255)), portBoot, "192.168.77.50:68")
				ack := waitReply(w)
				if ack.BootFileName != file && ack.BootFileNameOption() != file || !strings.HasSuffix(string(ack.Options.Get(dhcpv4.OptionVendorSpecificInformation)), item) {
					t.Error("on port 4011:", ack.Summary())
				}
				if want := map[string]int{"small": 512}[tt.pin]; s.BlockSize(mac(1)) != want {
					t.Errorf("block size %d, want %d", s.BlockSize(mac(1)), want)
				}
			})
		})
	}
}

// waitReply waits up to ten seconds for the next answer.
func waitReply(w *fakeWire) *sent {
	for range 100 {
		synctest.Wait()
		if out := w.take(); len(out) > 0 {
			return &out[0]
		}
		time.Sleep(100 * time.Millisecond)
	}
	return &sent{DHCPv4: &dhcpv4.DHCPv4{}}
}

// pxe is a firmware that sends DISCOVERs as PXE 2.1 section 2.2.3 has them.
type pxe struct {
	t      *testing.T
	s      *Server
	w      *fakeWire
	mac    boot.MAC
	change dhcpv4.Modifier
}

// attempt sends up to four DISCOVERs of one transaction until an offer is
// understood, and returns all that came.
func (c pxe) attempt(understood func(*sent) bool) (offers []*sent, ok bool) {
	c.t.Helper()
	d := request(c.mac, dhcpv4.MessageTypeDiscover, c.change)
	for i, secs := range []uint16{0, 4, 12, 28} {
		d.NumSeconds = secs
		c.s.receive(d, portServer, "0.0.0.0:68")
		time.Sleep(time.Duration(4<<i) * time.Second)
		synctest.Wait()
		for _, o := range c.w.take() {
			offers = append(offers, &o)
			if understood(&o) {
				return offers, true
			}
		}
	}
	return offers, false
}

func isAddress(o *sent) bool { return !o.YourIPAddr.IsUnspecified() }
func hasControl(o *sent) bool {
	return string(o.Options.Get(dhcpv4.OptionVendorSpecificInformation)) == "\x06\x01\x08\xff"
}

// adaptive is a server in proxy mode with one ordered machine, known to it.
func adaptive(t *testing.T, st LearnedStore, f func(t *testing.T, s *Server, w *fakeWire, b *orders)) {
	t.Helper()
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true, mac(2): true}}
	bubble(t, func(s *Server) {
		s.Boot, s.Mode, s.Learned = b, Proxy, st
		s.Machines = func() []boot.Machine { return []boot.Machine{{Name: "srv01", MACs: []boot.MAC{mac(1)}}} }
	}, func(t *testing.T, s *Server, w *fakeWire) { f(t, s, w, b) })
}

func (o *orders) texts(step boot.Step) (out []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		if e.Step == step {
			out = append(out, e.Text)
		}
	}
	return out
}

// TestAdapts: firmware that ignores offers without option 43 is talked to in
// another dialect at its second DISCOVER; what worked comes first afterwards,
// also after a restart of the box.
func TestAdapts(t *testing.T) {
	st := &learned{rows: map[string]Learned{}}
	adaptive(t, st, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
		c := pxe{t, s, w, mac(1), uefi}
		offers, ok := c.attempt(hasControl)
		if !ok || len(offers) != 2 {
			t.Fatalf("understood: %v, after %d offers, want 2", ok, len(offers))
		}
		s.receive(request(mac(1), dhcpv4.MessageTypeRequest, uefi, server("192.168.77.254"), want("192.168.77.50")), portServer, "0.0.0.0:68")
		synctest.Wait()
		s.Fetched(mac(1), false)
		s.Fetched(mac(1), true)
		if got := b.texts(boot.StepDialect); len(got) != 2 || !strings.Contains(got[0], `repeats its DISCOVER after 4s without a REQUEST: tries DHCP dialect "control" after "binl"`) ||
			!strings.Contains(got[1], `works with DHCP dialect "control"`) {
			t.Errorf("timeline: %q", got)
		}
		time.Sleep(time.Minute)
		if offers, _ := c.attempt(hasControl); len(offers) != 1 {
			t.Errorf("next boot: %d offers, want what worked at once", len(offers))
		}
	})
	if len(st.rows) != 1 {
		t.Errorf("kept %v", st.rows)
	}
	adaptive(t, st, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
		c := pxe{t, s, w, mac(1), uefi}
		if offers, _ := c.attempt(hasControl); len(offers) != 1 {
			t.Errorf("after a restart: %d offers", len(offers))
		}
		c.mac = mac(2)
		if offers, _ := c.attempt(hasControl); len(offers) != 2 {
			t.Errorf("another machine: %d offers, want 2: what was learned is one machine's", len(offers))
		}
	})
}

// TestFailedTries: what counts as a failed try, and what does not.
func TestFailedTries(t *testing.T) {
	discover := func(s *Server, xid byte, secs uint16, change dhcpv4.Modifier) {
		d := request(mac(1), dhcpv4.MessageTypeDiscover, change)
		d.TransactionID, d.NumSeconds = dhcpv4.TransactionID{xid}, secs
		s.receive(d, portServer, "0.0.0.0:68")
		synctest.Wait()
	}
	tests := []struct {
		name string
		play func(s *Server)
		want string // dialect in the end
		told string // in the timeline
	}{
		{"first DISCOVER", func(*Server) {}, binl, ""},
		{"sent twice", func(s *Server) { time.Sleep(10 * time.Millisecond); discover(s, 1, 0, uefi) }, binl, ""},
		{"repeated with growing secs", func(s *Server) { time.Sleep(4 * time.Second); discover(s, 1, 4, uefi) }, control, "repeats its DISCOVER after 4s"},
		{"repeated, secs always 0", func(s *Server) { time.Sleep(4 * time.Second); discover(s, 1, 0, uefi) }, control, "repeats its DISCOVER after 4s"},
		{"repeated within the time of a site's ping", func(s *Server) {
			for _, at := range []uint16{1, 2} {
				time.Sleep(time.Second)
				discover(s, 1, at, uefi)
			}
		}, binl, ""},
		{"two came together, by their own clock 4 s apart", func(s *Server) { discover(s, 1, 4, uefi) }, control, "repeats its DISCOVER after 4s"},
		{"repeated every second", func(s *Server) {
			for at := range uint16(5) {
				time.Sleep(time.Second)
				discover(s, 1, at+1, uefi)
			}
		}, control, "repeats its DISCOVER after 3s"},
		{"the one before comes late", func(s *Server) {
			time.Sleep(time.Second)
			discover(s, 1, 2, uefi)
			time.Sleep(3 * time.Second)
			discover(s, 1, 0, uefi)
		}, binl, ""},
		{"new transaction, nothing loaded", func(s *Server) { time.Sleep(30 * time.Second); discover(s, 2, 0, uefi) }, control, "asks anew after 30s without a REQUEST"},
		{"took an address, then a new transaction", func(s *Server) {
			s.receive(request(mac(1), dhcpv4.MessageTypeRequest, uefi, server("192.168.77.254"), want("192.168.77.50")), portServer, "0.0.0.0:68")
			time.Sleep(30 * time.Second)
			discover(s, 2, 0, uefi)
		}, control, "took an address, loaded nothing, and asks anew after 30s"},
		{"asked on 4011, then a new transaction", func(s *Server) {
			s.receive(request(mac(1), dhcpv4.MessageTypeRequest, uefi), portBoot, "192.168.77.50:68")
			time.Sleep(30 * time.Second)
			discover(s, 2, 0, uefi)
		}, control, "took an address"},
		{"loaded, then rebooted", func(s *Server) { s.Fetched(mac(1), true); time.Sleep(30 * time.Second); discover(s, 2, 0, uefi) }, binl, ""},
		{"loading never ended", func(s *Server) { s.Fetched(mac(1), false); time.Sleep(30 * time.Second); discover(s, 2, 0, uefi) }, binl, "tries TFTP blocks of at most 1024 bytes"},
		{"what it loaded asks", func(s *Server) {
			time.Sleep(8 * time.Second)
			discover(s, 2, 0, ipxe)
			time.Sleep(time.Minute)
			discover(s, 3, 0, uefi)
		}, binl, ""},
		{"tomorrow", func(s *Server) { time.Sleep(24 * time.Hour); discover(s, 2, 0, uefi) }, binl, ""},
		{"asks as HTTP client next", func(s *Server) { time.Sleep(30 * time.Second); discover(s, 2, 0, httpClient) }, binl, ""},
		{"worked before: one packet may be lost", func(s *Server) {
			s.Fetched(mac(1), true)
			time.Sleep(time.Hour)
			discover(s, 2, 0, uefi)
			time.Sleep(4 * time.Second)
			discover(s, 2, 4, uefi)
		}, binl, ""},
		{"worked before, but twice is no chance", func(s *Server) {
			s.Fetched(mac(1), true)
			time.Sleep(time.Hour)
			discover(s, 2, 0, uefi)
			time.Sleep(4 * time.Second)
			discover(s, 2, 4, uefi)
			time.Sleep(8 * time.Second)
			discover(s, 2, 12, uefi)
		}, control, "repeats its DISCOVER after 8s"},
		{"the bytes of its secs are swapped", func(s *Server) { time.Sleep(4 * time.Second); discover(s, 1, 4<<8, uefi) }, control, "repeats its DISCOVER after 4s"},
		{"one xid for all boots", func(s *Server) {
			time.Sleep(time.Hour)
			discover(s, 1, 0, uefi)
			time.Sleep(4 * time.Second)
			discover(s, 1, 4, uefi)
		}, control, "repeats its DISCOVER after 4s"},
		{"one xid for all boots, worked before", func(s *Server) {
			s.Fetched(mac(1), true)
			time.Sleep(time.Hour)
			discover(s, 1, 0, uefi)
			time.Sleep(4 * time.Second)
			discover(s, 1, 4, uefi)
			time.Sleep(8 * time.Second)
			discover(s, 1, 12, uefi)
		}, control, "repeats its DISCOVER after 8s"},
		{"worked before, then the site's server was away", func(s *Server) {
			s.Fetched(mac(1), true)
			time.Sleep(time.Hour)
			discover(s, 2, 0, uefi)
			time.Sleep(4 * time.Second)
			discover(s, 2, 4, uefi)
			time.Sleep(8 * time.Second)
			discover(s, 2, 12, uefi)
			time.Sleep(time.Hour)
			discover(s, 3, 0, uefi)
		}, binl, "repeats its DISCOVER after 8s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			adaptive(t, &learned{rows: map[string]Learned{}}, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
				discover(s, 1, 0, uefi)
				tt.play(s)
				c := client(boot.UEFIX64, "PXEClient")
				if d := s.interpreter.dialect(c, "", false); d.Name != tt.want {
					t.Errorf("dialect %s, want %s", d.Name, tt.want)
				}
				if got := b.texts(boot.StepDialect); len(got) > 1 || !strings.Contains(strings.Join(got, ""), tt.told) || (tt.told == "") != (len(got) == 0) {
					t.Errorf("timeline %q, want %q", got, tt.told)
				}
			})
		})
	}
}

// TestHTTPHasNoBlocks: who asked for its file by HTTP understood us, and no TFTP block is too large for it.
func TestHTTPHasNoBlocks(t *testing.T) {
	for name, change := range map[string]dhcpv4.Modifier{"HTTP Boot": httpClient, "iPXE": ipxe} {
		adaptive(t, nil, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
			for range 3 {
				d := request(mac(1), dhcpv4.MessageTypeDiscover, change)
				s.receive(d, portServer, "0.0.0.0:68")
				synctest.Wait()
				s.Fetched(mac(1), false)
				time.Sleep(30 * time.Second)
			}
			if got := b.texts(boot.StepDialect); len(got) != 0 {
				t.Errorf("%s: timeline %q", name, got)
			}
		})
	}
}

func httpClient(d *dhcpv4.DHCPv4) {
	text(60, "HTTPClient:Arch:00016:UNDI:003001")(d)
	opt(93, 0, 16)(d)
}

// TestAsksForEver: a machine that nothing helps does not fill its timeline.
func TestAsksForEver(t *testing.T) {
	adaptive(t, nil, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
		for range 50 {
			pxe{t, s, w, mac(1), uefi}.attempt(func(*sent) bool { return false })
		}
		if got := len(b.texts(boot.StepDialect)); got != maxTold {
			t.Errorf("%d switches in the timeline, want %d", got, maxTold)
		}
	})
}

// TestNobodyElseAdapts: machines without an order have no dialects.
func TestNobodyElseAdapts(t *testing.T) {
	adaptive(t, nil, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
		if offers, _ := (pxe{t, s, w, mac(9), uefi}).attempt(isAddress); len(offers) != 0 || s.interpreter.talks.order.Len() != 0 {
			t.Errorf("%d offers, %d talks", len(offers), s.interpreter.talks.order.Len())
		}
	})
}

// TestUnansweredIsNoTry: what we did not answer cannot have been misunderstood.
func TestUnansweredIsNoTry(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) { s.Boot, s.Range.Last, s.KnownShare = b, s.Range.First, 0 }, func(t *testing.T, s *Server, w *fakeWire) {
		lease(t, s, w, mac(7)) // the only address
		(pxe{t, s, w, mac(1), bios}).attempt(isAddress)
		if got := b.texts(boot.StepDialect); len(got) != 0 {
			t.Errorf("timeline: %q", got)
		}
	})
}

// TestLearnedIsBounded: strangers' MACs do not fill memory or store.
func TestLearnedIsBounded(t *testing.T) {
	st := &learned{rows: map[string]Learned{}}
	i, err := newInterpreter(st, zap.NewNop(), func(stage, string) {})
	if err != nil {
		t.Fatal(err)
	}
	for n := range maxTalks + 500 {
		m := mac(byte(n>>8), byte(n))
		p, err := parse(request(m, dhcpv4.MessageTypeDiscover, bios).ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		i.discover(p, "", false, func(Dialect) bool { return true })
		i.answered(stageOf(p.client, false))
		i.fetched(m, true)
	}
	if len(i.learned) != maxTalks || len(st.rows) != maxTalks || i.talks.order.Len() != maxTalks || i.current.order.Len() != maxTalks {
		t.Errorf("%d learned, %d stored, %d talks, %d machines; want %d of each", len(i.learned), len(st.rows), i.talks.order.Len(), i.current.order.Len(), maxTalks)
	}
	for n := range 100 { // and a store that grew elsewhere is cut
		st.rows[fmt.Sprint(n)] = Learned{MAC: mac(0xff, byte(n)), Dialect: binl}
	}
	if i, err = newInterpreter(st, zap.NewNop(), nil); err != nil || len(i.learned) != maxTalks {
		t.Errorf("%d learned after a restart: %v", len(i.learned), err)
	}
}

// TestLeaveAlone: what sends each kind of firmware on to its own disk.
func TestLeaveAlone(t *testing.T) {
	const url = "http://192.168.77.1:8080/boot/525400000001/boots-own-disk"
	for _, tt := range []struct {
		client boot.Client
		full   bool
		want   string // class and URL
	}{
		{client(boot.BIOS, "PXEClient"), true, ""},
		{client(boot.UEFIIA32, "PXEClient"), true, "PXEClient "},
		{client(boot.UEFIX64, "PXEClient"), true, "PXEClient "},
		{client(boot.UEFIARM64, "PXEClient"), true, "PXEClient "},
		{client(boot.UEFIX64, "HW-Client"), true, "HW-Client "},
		{client(boot.HTTPX64, "HTTPClient"), true, "HTTPClient " + url},
		{client(boot.HTTPARM64, "HTTPClient"), true, "HTTPClient " + url},
		{client(boot.HTTPBIOS, "HTTPClient"), true, "HTTPClient " + url},
		{client(boot.UEFIX64, "PXEClient"), false, ""},
		{client(boot.HTTPX64, "HTTPClient"), false, ""},
		{boot.Client{MAC: mac(1), Arch: boot.UEFIX64, Program: boot.IPXE}, true, ""},
	} {
		got := ""
		if part := leaveAlone(tt.client, tt.full, selfAddr, 8080); part != nil {
			got = part.class + " " + part.file
		}
		if got != tt.want {
			t.Errorf("%s as full server %v: %q, want %q", tt.client.Arch, tt.full, got, tt.want)
		}
	}
}

// TestProxyBehindRelay: the boot part for a machine behind a relay goes to the
// relay by unicast: broadcasts it does not pass on (bootimus#129).
func TestProxyBehindRelay(t *testing.T) {
	adaptive(t, nil, func(t *testing.T, s *Server, w *fakeWire, b *orders) {
		o := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover, uefi, giaddr("10.5.0.1"), opt(82, 1, 2, 'p', '1')))
		if o == nil || o.way != "udp" || o.dst.String() != "10.5.0.1:67" || o.BootFileName == "" || string(o.Options.Get(dhcpv4.OptionRelayAgentInformation)) != "\x01\x02p1" {
			t.Errorf("%v", o)
		}
	})
}
