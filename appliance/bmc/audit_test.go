package bmc

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// levels are the worst level of each check for a host.
func levels(list []Finding, host string) map[string]Level {
	out := map[string]Level{}
	for _, f := range list {
		if f.Host == host && (out[f.Check] == "" || f.Level < out[f.Check]) { // bad < good < note, and no check has both of the latter
			out[f.Check] = f.Level
		}
	}
	return out
}

func textOf(list []Finding, check string) (text string) {
	for _, f := range list {
		if f.Check == check {
			text += f.Text + "\n"
		}
	}
	return text
}

// ipmi_sim takes commands with cipher suite 0 and any password, and sessions of IPMI 1.5 without
// authentication; it is the one that has everything wrong.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := startSim(t, `  user 3 true "ADMIN" "ADMIN" admin 10 none md2 md5 straight`)
	a := &Auditor{Targets: []Target{{Machine: "srv01", Controller: s.client(),
		Config: Config{Protocol: "ipmi", Host: s.host, Port: s.port, User: "rescue", Password: fixed("secret12")}}}}
	got, err := a.Run(t.Context(), "srv01", false)
	if err != nil {
		t.Fatal(err)
	}
	have := levels(got.Findings, s.host)
	for check, want := range map[string]Level{checkIPMI: Note, checkVersion: Good, checkCipher0: Bad, checkRAKP: Note, checkAccounts: Bad, checkFirmware: Note} {
		if have[check] != want {
			t.Errorf("%s is %q, want %q: %s", check, have[check], want, textOf(got.Findings, check))
		}
	}
	if text := textOf(got.Findings, checkCipher0); !strings.Contains(text, "power is off") {
		t.Errorf("no command was taken: %s", text)
	}
	if text := textOf(got.Findings, checkAccounts); !strings.Contains(text, `"ADMIN" still has`) {
		t.Errorf("accounts: %s", text)
	}
	for _, f := range got.Findings {
		if strings.Contains(f.Text+f.Hint, "secret12") || f.Level == Bad && f.Hint == "" {
			t.Errorf("%+v", f)
		}
	}
	if other, err := a.Run(t.Context(), "srv02", false); err != nil || len(other.Findings) != 0 {
		t.Errorf("another machine: %+v, %v", other, err)
	}
	// The refused ones are not tried again; that which is open is.
	if want := len(factories) - 1; len(a.tried) != want {
		t.Errorf("%d accounts are remembered as refused, want %d", len(a.tried), want)
	}
	// The box's own user is never tried by the factory's password, and compared without being sent.
	a.Targets[0].Config.User, a.Targets[0].Config.Password = "ADMIN", fixed("ADMIN")
	if got, err = a.Run(t.Context(), "", false); err != nil || !strings.Contains(textOf(got.Findings, checkAccounts), "the box itself") {
		t.Errorf("own default: %v, %s", err, textOf(got.Findings, checkAccounts))
	}
}

// A controller of the file that answers under a second address, on the rescue LAN.
func TestAuditLAN(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	lan := netip.PrefixFrom(netip.MustParseAddr(s.host).Next(), 29) // .1 to .6; the simulator is .1, the box .2
	a := &Auditor{LAN: lan, Own: lan.Addr(), IPMIPort: s.port, TLSPort: 1, late: 10 * time.Second}
	got, err := a.Run(t.Context(), "", true)
	if err != nil || got.Swept != 5 {
		t.Fatalf("%d swept, %v", got.Swept, err)
	}
	if have := levels(got.Findings, s.host); have[checkNetwork] != Note || have[checkCipher0] != Bad {
		t.Errorf("%+v", got.Findings)
	}
	// The file has it elsewhere: the same controller, by its GUID.
	elsewhere := relayUDP(t, s, nil)
	a.Targets = []Target{{Machine: "srv01", Config: Config{Protocol: "ipmi", Host: "127.0.0.9", Port: elsewhere, User: "rescue", Password: fixed("secret12")}}}
	if got, err = a.Run(t.Context(), "", true); err != nil {
		t.Fatal(err)
	}
	if text := textOf(got.Findings, checkNetwork); levels(got.Findings, s.host)[checkNetwork] != Bad || !strings.Contains(text, "this is the BMC of srv01, which belongs to 127.0.0.9") {
		t.Errorf("shared port: %s", text)
	}
}

// relayUDP is the simulator under another address. Packets that lost says yes to are lost, questions
// and answers; nil: none.
func relayUDP(t *testing.T, to *sim, lost func(question bool, packet []byte) bool) int {
	t.Helper()
	return twistUDP(t, to, func(question bool, packet []byte, pass func([]byte)) {
		if lost == nil || !lost(question, packet) {
			pass(packet)
		}
	})
}

// twistUDP is the simulator under another address, with somebody in between who passes on what he likes.
func twistUDP(t *testing.T, to *sim, twist func(question bool, packet []byte, pass func([]byte))) int {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); front.Close(); wg.Wait() })
	backs := map[string]net.Conn{}
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			back := backs[from.String()]
			if back == nil {
				if back, err = net.Dial("udp4", net.JoinHostPort(to.host, strconv.Itoa(to.port))); err != nil {
					return
				}
				backs[from.String()] = back
				context.AfterFunc(ctx, func() { back.Close() })
				wg.Go(func() {
					buf := make([]byte, 2048)
					for {
						n, err := back.Read(buf)
						if err != nil {
							return
						}
						twist(false, bytes.Clone(buf[:n]), func(b []byte) { front.WriteToUDP(b, from) })
					}
				})
			}
			twist(true, bytes.Clone(buf[:n]), func(b []byte) { back.Write(b) })
		}
	})
	return front.LocalAddr().(*net.UDPAddr).Port
}

// fakeController answers without a session as configured, and refuses all else.
type fakeController struct {
	caps   []byte // of Get Channel Authentication Capabilities, behind the channel
	status byte   // of Open Session
	guid   []byte
	opens  atomic.Int32 // sessions that were asked for
}

func (f *fakeController) listen(t *testing.T) int {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDP(buf)
			if err != nil {
				return
			}
			for _, b := range f.answer(buf[:n]) {
				conn.WriteToUDP(b, from)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).Port
}

func (f *fakeController) answer(b []byte) [][]byte {
	switch {
	case b[4] == 6: // Open Session: refused
		f.opens.Add(1)
		return [][]byte{{1}, append([]byte{6, 0, 0xff, 7, 6, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0}, b[16], f.status, 0, 0, b[20], b[21], b[22], b[23])}
	case b[19] == cmdCapabilities && f.caps == nil:
		return [][]byte{replyTo(b, 0xc1)}
	case b[19] == cmdCapabilities && len(f.caps) < 4 && b[20]&0x80 != 0:
		return [][]byte{replyTo(b, 0xcc)}
	case b[19] == cmdCapabilities:
		return [][]byte{replyTo(b, append([]byte{0, 1}, f.caps...)...)}
	case b[19] == cmdGUID && f.guid != nil:
		return [][]byte{replyTo(b, append([]byte{0}, f.guid...)...)}
	}
	return [][]byte{replyTo(b, 0xc1)}
}

// replyTo answers a command outside a session.
func replyTo(b []byte, data ...byte) []byte {
	m := append([]byte{0x81, 7 << 2, sum(0x81, 7<<2), 0x20, b[18], b[19]}, data...)
	m = append(m, sum(m[3:]...))
	return append([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))}, m...)
}

// One that refuses everything is good, and one that does not answer is as well.
func TestAuditGood(t *testing.T) {
	t.Parallel()
	f := &fakeController{caps: []byte{0x80, 0x04, 2, 0, 0, 0, 0}, status: 0x11}
	for name, port := range map[string]int{"refuses": f.listen(t), "silent": newPort()} {
		a := &Auditor{Targets: []Target{{Machine: "srv01", Config: Config{Protocol: "ipmi", Host: "127.0.0.1", Port: port, User: "rescue", Password: fixed("x")}}}}
		a.Targets[0].Config.Protocol = "ipmi"
		begun := time.Now()
		got, err := a.Run(t.Context(), "", false)
		if err != nil || len(got.Findings) == 0 || time.Since(begun) > auditOne+10*time.Second {
			t.Errorf("%s: %+v, %v after %s", name, got, err, time.Since(begun))
		}
		for _, finding := range got.Findings {
			if finding.Level == Bad {
				t.Errorf("%s: %+v", name, finding)
			}
		}
	}
	if f.opens.Load() == 0 {
		t.Error("nobody tried cipher suite 0")
	}
}

// What controllers say of themselves, and what is made of it.
func TestAuditCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		caps []byte
		want map[string]Level
	}{
		"1.5 only":  {[]byte{0x04, 0x04, 0}, map[string]Level{checkVersion: Bad, checkNone: Good, checkAnonymous: Good}},
		"none":      {[]byte{0x81, 0x04, 3, 0, 0, 0, 0}, map[string]Level{checkVersion: Good, checkNone: Bad}},
		"2.0 only":  {[]byte{0x81, 0x04, 2, 0, 0, 0, 0}, map[string]Level{checkNone: Good}},
		"straight":  {[]byte{0x90, 0x04, 3, 0, 0, 0, 0}, map[string]Level{checkNone: Note}},
		"null user": {[]byte{0x80, 0x06, 2, 0, 0, 0, 0}, map[string]Level{checkAnonymous: Note}},
		"anonymous": {[]byte{0x80, 0x07, 2, 0, 0, 0, 0}, map[string]Level{checkAnonymous: Bad}},
		"refuses":   {nil, map[string]Level{checkIPMI: Good}},
	} {
		f := &fakeController{caps: c.caps, status: 0x11}
		s := &subject{host: "x", addr: netip.MustParseAddr("127.0.0.1"), ipmi: f.listen(t)}
		(&Auditor{}).lookAtIPMI(t.Context(), s)
		have := map[string]Level{}
		for _, f := range s.findings {
			have[f.Check] = f.Level
		}
		for check, want := range c.want {
			if have[check] != want {
				t.Errorf("%s: %s is %q, want %q", name, check, have[check], want)
			}
		}
	}
}

// The web server: certificates, and factory accounts over Redfish, each tried once.
func TestAuditWeb(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	open := ""
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if ok {
			tries.Add(1)
		}
		if !ok || user+"/"+password != open {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	for name, c := range map[string]struct {
		cert     tls.Certificate
		max      uint16
		open     string
		tls, acc Level
		says     string
	}{
		"good":     {cert: certificate(t, elliptic.P256(), time.Hour), tls: Note, acc: Good},
		"expired":  {cert: certificate(t, elliptic.P256(), -time.Hour), tls: Bad, acc: Good, says: "expired"},
		"weak key": {cert: certificate(t, nil, time.Hour), tls: Bad, acc: Good, says: "1024 bits"},
		"old":      {cert: certificate(t, elliptic.P256(), time.Hour), max: tls.VersionTLS11, tls: Bad, acc: Good, says: "no TLS 1.2"},
		"factory":  {cert: certificate(t, elliptic.P256(), time.Hour), open: "root/calvin", tls: Note, acc: Bad},
	} {
		open = c.open
		tries.Store(0)
		srv := httptest.NewUnstartedServer(handler)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{c.cert}, MaxVersion: c.max, MinVersion: tls.VersionTLS12}
		if c.max != 0 {
			srv.TLS.MinVersion = tls.VersionTLS10
		}
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		at := netip.MustParseAddrPort(srv.Listener.Addr().String())
		a := &Auditor{Targets: []Target{{Machine: "srv01", Config: Config{Protocol: "redfish", Host: at.Addr().String(),
			Port: int(at.Port()), IPMIPort: newPort(), User: "rescue", Password: fixed("x")}}}}
		for range 2 {
			got, err := a.Run(t.Context(), "", false)
			have := levels(got.Findings, "127.0.0.1")
			if err != nil || have[checkTLS] != c.tls || have[checkAccounts] != c.acc || !strings.Contains(textOf(got.Findings, checkTLS), c.says) {
				t.Errorf("%s: %v, %v %s", name, err, have, textOf(got.Findings, checkTLS))
			}
		}
		srv.Close()
		if n, want := int(tries.Load()), len(factories); c.open == "" && n != want {
			t.Errorf("%s: %d tries in two audits, want %d", name, n, want)
		}
	}
}

// The blades of a chassis share its controller, which is asked for each factory account once for all of them; and one whose
// Redfish wants no password is told so, also where IPMI answers.
func TestAuditChassis(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			tries.Add(1)
			time.Sleep(100 * time.Millisecond) // the other one comes meanwhile
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	blade := func(machine string, ipmi int) Target {
		return Target{Machine: machine, Config: Config{Protocol: "redfish", Host: at.Addr().String(), Port: int(at.Port()), IPMIPort: ipmi, User: "rescue", Password: fixed("x")}}
	}
	mute := newPort()
	a := &Auditor{Targets: []Target{blade("blade1", mute), blade("blade2", mute)}}
	if _, err := a.Run(t.Context(), "", false); err != nil || int(tries.Load()) != len(factories) {
		t.Errorf("%v; %d tries, want %d", err, tries.Load(), len(factories))
	}
	srv.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	f := &fakeController{caps: []byte{0x80, 0x04, 2, 0, 0, 0, 0}, status: 0x11}
	a = &Auditor{Targets: []Target{blade("srv01", f.listen(t))}}
	if got, err := a.Run(t.Context(), "", false); err != nil || levels(got.Findings, "127.0.0.1")[checkOpen] != Bad {
		t.Errorf("an open Redfish: %v, %+v", err, got.Findings)
	}
}

// What listens on the web server's port is told from nobody, whatever it speaks; and a certificate of somebody whom
// nobody knows, such as the factory's of an HPE iLO, is no better than one that is signed by itself.
func TestAuditTLS(t *testing.T) {
	t.Parallel()
	strangers := certificate(t, elliptic.P256(), time.Hour)
	issuer, err := x509.ParseCertificate(strangers.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	issuer.Subject.CommonName = "Default Issuer (Do not trust)" + strings.Repeat("\x1b", 3) + strings.Repeat("x", 9000)
	issuer.RawSubject = nil
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "ILOCZ123"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, strangers.PrivateKey.(crypto.Signer).Public(), strangers.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	issued := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: strangers.PrivateKey}
	secure := func(c net.Conn) { tls.Server(c, &tls.Config{Certificates: []tls.Certificate{issued}}).Handshake() }
	old := func(c net.Conn) {
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{issued}, MinVersion: tls.VersionTLS10}).Handshake()
	}
	for name, c := range map[string]struct {
		serve  func(net.Conn)
		level  Level
		says   string
		usable bool
	}{
		"old, too":      {old, Bad, "it still takes TLS 1.0 or 1.1", true},
		"of a stranger": {secure, Note, "for whom nobody vouches", true},
		"speaks HTTP":   {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, Bad, "no TLS 1.0 or later", false},
		"hangs up":      {func(net.Conn) {}, Note, "answers no TLS", false},
		"refuses":       {func(c net.Conn) { c.Write([]byte{21, 3, 0, 0, 2, 2, 40}) }, Bad, "handshake failure", false},
	} {
		l := listen(t)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				c.serve(conn)
				conn.Close()
			}
		}()
		s := &subject{addr: netip.MustParseAddr("127.0.0.1"), tls: l.Addr().(*net.TCPAddr).Port}
		usable := s.lookAtTLS(t.Context())
		l.Close()
		if len(s.findings) != 1 || s.findings[0].Level != c.level || !strings.Contains(s.findings[0].Text, c.says) || len(s.findings[0].Text) > 200 ||
			strings.Contains(s.findings[0].Text, "\x1b") || usable != c.usable {
			t.Errorf("%s: %t, %+v", name, usable, s.findings)
		}
		if s.findings, s.tls = nil, newPort(); s.lookAtTLS(t.Context()) || len(s.findings) != 0 {
			t.Errorf("nobody is there: %+v", s.findings)
		}
	}
}

// certificate is of a curve's key, or of an RSA key that is too small for nil.
func certificate(t *testing.T, curve elliptic.Curve, valid time.Duration) tls.Certificate {
	t.Helper()
	var key crypto.Signer
	var err error
	if key, err = rsa.GenerateKey(rand.Reader, 1024); curve != nil {
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "BMC"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(valid)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Two audits at once would try accounts twice.
func TestAuditBusy(t *testing.T) {
	a := &Auditor{}
	a.running.Lock()
	if _, err := a.Run(t.Context(), "", false); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
}

func TestHosts(t *testing.T) {
	for network, want := range map[string][]string{
		"10.0.0.5/30": {"10.0.0.5", "10.0.0.6"}, "10.0.0.5/32": nil, "10.0.0.5/31": nil, "fd00::1/64": nil,
		"255.255.255.255/30": {"255.255.255.253", "255.255.255.254"},
	} {
		var got []string
		for a := range hosts(netip.MustParsePrefix(network)) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", network, got, want)
		}
	}
}

// Whatever comes back, it is read without a panic, and means what its bytes say.
func FuzzAnswer(f *testing.F) {
	f.Add(replyTo(askCapabilities(true), 0, 1, 0x80, 4, 3, 0, 0, 0, 0))
	f.Add(append([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x40, 1, 0, 16, 0, 0, 0x11, 0xbe, 0, 0, 0, 0, 0x81, 0}, make([]byte, 6)...))
	f.Add((&fakeController{status: 0x11}).answer(plus(stepOpen, 0, 0, make([]byte, 32)))[1])
	f.Add(plus(stepRAKP2, 0, 0, make([]byte, 40)))
	f.Add(plus(0, 1, 1, []byte{0x81, 4, sum(0x81, 4), 0x20, 0, 1, 0, 0x21, sum(0x20, 0, 1, 0, 0x21)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		a, ok := parseAnswer(b)
		if c, is := a.capabilities(); is && (!ok || !c.V15 && !c.V20 && a.data[1]&0x80 == 0) {
			t.Errorf("%x: %+v", b, c)
		}
		if ok && !a.pong && (len(b) < 22 || a.step == 0 && a.body != nil || a.step != 0 && len(a.body) < 8) {
			t.Errorf("%x was read as %+v", b, a)
		}
		if !bytes.Equal(b, before) {
			t.Error("the bytes were changed")
		}
	})
}
