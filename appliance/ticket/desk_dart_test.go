package ticket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// inv32 is an inv32.xml with a ticket number and listeners, "address:port" each.
func inv32(code string, listeners ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<E><A KH="YiKwWUY8Ioq5NB3wAQHSbs5kwrM=" ID="%s"/><C><T ID="1" SID="0">`, code)
	for _, l := range listeners {
		ap := netip.MustParseAddrPort(l)
		fmt.Fprintf(&b, `<L P="%d" N="%s"/>`, ap.Port(), ap.Addr())
	}
	return []byte(b.String() + `</T></C></E>`)
}

const dartCode, otherCode = "118-497-589", "222-333-444"

// dart brings an inv32.xml of srv01; with order 0badcafe's token if verified.
func (b *bench) dart(t *testing.T, verified bool, raw []byte) Ticket {
	t.Helper()
	order := ""
	if verified {
		order = "0badcafe"
	}
	tk, err := b.DaRT("srv01", order, verified, srv01, raw)
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func TestDaRT(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	raw := encodings["UTF-16LE with mark"](inv32(dartCode, "[fe80::1%4]:49160", "192.168.77.100:49161"))
	tk := b.dart(t, true, raw)
	if tk.Kind != DaRT || tk.Code != dartCode || tk.Endpoint() != "192.168.77.100:49161" || len(tk.Listeners) != 2 || tk.Problem != "" || !bytes.Equal(tk.Raw, raw) || KnownHosts(tk) != "" {
		t.Errorf("ticket %s at %s, problem %q", tk.Code, tk.Endpoint(), tk.Problem)
	}
	if first := b.disk.puts[0]; !bytes.Equal(first.Raw, raw) || first.Code != "" {
		t.Error("what was stored first is not the raw file, unread")
	}
	b.dart(t, true, raw)
	b.dart(t, true, inv32(dartCode, "192.168.77.100:49161"))
	b = newBench(b.disk) // the daemon restarts
	b.dart(t, true, raw)
	if len(b.List("")) != 1 || len(b.told) != 0 {
		t.Errorf("a retry gives %d tickets, announced %d times more", len(b.List("")), len(b.told))
	}
	again := b.dart(t, true, inv32(otherCode, "192.168.77.100:50000"))
	if again.ID != tk.ID || again.Code != otherCode || again.Port != 50000 || len(b.told) != 1 || len(b.List("")) != 1 {
		t.Errorf("RemoteRecovery.exe was started again: %s of %d, announced %d times", again.Code, len(b.List("")), len(b.told))
	}
	next, err := b.DaRT("srv01", "0badbeef", true, srv01, inv32(otherCode, "192.168.77.100:50000"))
	if err != nil || next.ID == tk.ID || next.Order != "0badbeef" || len(b.told) != 2 || len(b.List("")) != 2 {
		t.Errorf("the next order's ticket with the same number: %v, %v, announced %d times", next, err, len(b.told))
	}
	if ssh := b.must(t, report(t, nil)); ssh.ID == tk.ID || len(b.List("srv01")) != 3 {
		t.Error("an SSH ticket of the order took the place of the DaRT ticket")
	}
}

// TestDaRTUnreadable: it is kept byte for byte and announced as such, and what
// was known before stands.
func TestDaRTUnreadable(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	junk := []byte("\xff\xfe<\x00E\x00 118-497-589\x00")
	for _, verified := range []bool{false, true} {
		if tk := b.dart(t, verified, junk); tk.Problem == "" || !bytes.Equal(tk.Raw, junk) || Command(tk) != "" {
			t.Errorf("verified %t: problem %q, raw %q", verified, tk.Problem, tk.Raw)
		}
		b.dart(t, verified, junk)
	}
	if len(b.told) != 2 || len(b.List("")) != 2 || b.told[0].Problem == "" {
		t.Errorf("announced %d times, %d tickets", len(b.told), len(b.List("")))
	}
	b.dart(t, true, inv32(dartCode, "192.168.77.100:49161"))
	if tk := b.dart(t, true, junk); tk.Problem == "" || tk.Code != dartCode || tk.Endpoint() != "192.168.77.100:49161" {
		t.Errorf("what was known is gone: %q at %s", tk.Code, tk.Endpoint())
	}
}

// TestDaRTByManyWays: the same ticket comes by MDT's event, from a script, and from the
// agent with its token: that is one ticket, and once verified nobody without the token changes it.
func TestDaRTByManyWays(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	mdt, _ := MDT(url.Values{"dartTicket": {dartCode}, "dartIP": {"192.168.77.100"}, "dartPort": {"49161"}})
	whole := inv32(dartCode, "[fd00::1]:49160", "192.168.77.100:49161")
	first := b.dart(t, false, mdt)
	b.dart(t, false, whole)
	b.dart(t, false, mdt)
	tk, err := b.DaRT("srv01", "", false, netip.Addr{}, encodings["UTF-16BE"](whole)) // out of the drop directory
	if err != nil || tk.ID != first.ID || tk.Verified || len(tk.Listeners) != 2 || len(b.List("")) != 1 {
		t.Errorf("%v: %d tickets, the last with %d listeners", err, len(b.List("")), len(tk.Listeners))
	}
	if len(b.told) != 2 { // the second has one address more
		t.Errorf("announced %d times", len(b.told))
	}
	tk = b.dart(t, true, whole)
	if tk.ID != first.ID || !tk.Verified || tk.Order != "0badcafe" || len(b.told) != 3 || len(b.List("")) != 1 {
		t.Errorf("with the token: %v, verified %t, %d tickets", tk, tk.Verified, len(b.List("")))
	}
	for _, raw := range [][]byte{mdt, whole, inv32(dartCode, "192.168.77.66:1")} {
		if got := b.dart(t, false, raw); got.ID != tk.ID || got.Endpoint() != "192.168.77.100:49161" || !got.Verified {
			t.Errorf("without the token it is now %s", got.Endpoint())
		}
	}
	if len(b.told) != 3 {
		t.Errorf("announced %d times", len(b.told))
	}
	other := b.dart(t, false, inv32(otherCode, "192.168.77.66:1"))
	if got, _ := b.Get(tk.ID); other.ID == tk.ID || got.Code != dartCode || len(b.List("")) != 2 {
		t.Errorf("another number without the token: %v, %d tickets", other, len(b.List("")))
	}
	b.dart(t, true, inv32(otherCode, "192.168.77.100:2"))
	if list := b.List(""); len(list) != 1 || list[0].ID != tk.ID || list[0].Code != otherCode || list[0].Port != 2 {
		t.Errorf("the order's ticket has the other number now: %v", list)
	}
}

func TestDaRTOfNobody(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	tk, err := b.DaRT("", "", false, netip.Addr{}, inv32(dartCode, "10.0.0.1:1"))
	if err != nil || tk.Machine != "" || tk.Endpoint() != "10.0.0.1:1" || len(b.told) != 1 || len(b.List("")) != 1 {
		t.Errorf("%v: %v at %s, announced %d times", err, tk, tk.Endpoint(), len(b.told))
	}
	for i := range 2 * keepUnverified {
		b.DaRT("", "", false, netip.Addr{}, inv32(fmt.Sprintf("%03d-111-111", i), "10.0.0.1:1"))
	}
	if n := len(b.List("")); n != keepUnverified {
		t.Errorf("%d tickets of nobody are kept", n)
	}
}

// TestTicketIsSecret: neither fmt nor zap nor the desk's own log shows what a
// ticket opens.
func TestTicketIsSecret(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	tk := b.dart(t, true, inv32(dartCode, "192.168.77.100:49161"))
	b.disk.full = true
	_, err := b.DaRT("srv01", "0badcafe", true, srv01, inv32(otherCode, "192.168.77.100:49161"))
	_, err2 := b.DaRT("srv01", "", false, srv01, []byte("<E "+dartCode))
	_, err3 := b.DaRT("srv01", "", false, srv01, bytes.Repeat([]byte(dartCode), MaxReport))
	shown := []string{fmt.Sprint(err, err2, err3)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, tk), fmt.Sprintf(verb, &tk), fmt.Sprintf(verb, []Ticket{tk}), fmt.Sprintf(verb, entry{Ticket: tk}), fmt.Sprintf(verb, map[string]entry{"": {Ticket: tk}}))
	}
	for _, f := range []zap.Field{zap.Any("t", tk), zap.Any("t", &tk), zap.Object("t", tk), zap.Stringer("t", tk), zap.Reflect("t", tk.String()), zap.Inline(tk)} {
		line, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{}).EncodeEntry(zapcore.Entry{}, []zap.Field{f})
		if err != nil || !strings.Contains(line.String(), tk.ID) {
			t.Fatalf("%v: %s", err, line)
		}
		shown = append(shown, line.String())
	}
	if b.lines.Len() < 4 || err == nil || err2 == nil || err3 == nil {
		t.Errorf("only %d lines in the log", b.lines.Len())
	}
	for _, e := range b.lines.All() {
		shown = append(shown, fmt.Sprint(e.Message, e.ContextMap()))
	}
	for _, s := range shown {
		for _, secret := range []string{dartCode, otherCode, "YiKw", fmt.Sprintf("%x", dartCode), "49161", fmt.Sprint([]byte(dartCode))} {
			if strings.Contains(strings.ToLower(s), strings.ToLower(secret)) {
				t.Errorf("%s is in %s", secret, s)
			}
		}
	}
	if doc, err := json.Marshal(tk); err != nil || !bytes.Contains(doc, []byte(dartCode)) {
		t.Errorf("the state does not get the ticket: %v", err)
	}
}

func TestReportsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	b := newBench(&disk{docs: map[string][]byte{}})
	b.Metrics = reg
	b.dart(t, true, inv32(dartCode, "192.168.77.100:1"))
	b.dart(t, false, inv32(dartCode, "192.168.77.100:1"))
	b.dart(t, false, []byte("junk"))
	for i := range maxChanges {
		b.DaRT("srv01", "", false, srv01, fmt.Append(nil, i))
	}
	b.disk.full = true
	b.DaRT("srv01", "0badcafe", true, srv01, inv32(otherCode, "192.168.77.100:1"))
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "rescuebox_ticket_reports_total" {
		t.Fatal(families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
	}
	want := map[string]float64{"dart taken": 1, "dart repeated": 1, "dart unreadable": maxChanges, "dart refused": 1, "dart failed": 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
