package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/notify"
	"rescuebox/appliance/state"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// listener is a webhook that remembers.
type listener struct {
	mu   sync.Mutex
	told []map[string]any
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m map[string]any
	json.NewDecoder(r.Body).Decode(&m)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, m)
}

// kinds waits for so many messages, and a moment for more, and lists what they are of.
func (l *listener) kinds(t *testing.T, n int) (list []string) {
	t.Helper()
	for i := 0; i < 300; i++ {
		l.mu.Lock()
		list = nil
		for _, m := range l.told {
			list = append(list, fmt.Sprint(m["kind"], " ", m["machine"]))
		}
		l.mu.Unlock()
		if len(list) >= n && i > 3 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	slices.Sort(list)
	return list
}

// What happens to orders and tickets is told once, over restarts, with the secret
// only to whom it is for; what an admin did, and what a machine boots every day, is no news.
func TestNotices(t *testing.T) {
	trusted, public := &listener{}, &listener{}
	mux := http.NewServeMux()
	mux.Handle("/trusted", trusted)
	mux.Handle("/public", public)
	hook := httptest.NewServer(mux)
	defer hook.Close()
	dir := t.TempDir()
	cfg := site(t, dir)
	usual := []string{"ticket", "failed", "expired"}
	cfg.LAN.Address = netip.MustParsePrefix("192.168.77.1/24")
	cfg.Notify = config.Notify{Webhooks: []config.Webhook{
		{Name: "trusted", URL: hook.URL + "/trusted", Kinds: append([]string{"done"}, usual...), Credentials: true},
		{Name: "public", URL: hook.URL + "/public", Kinds: usual}}}
	cfg.Machines = append(cfg.Machines, config.Machine{Name: "srv02", MACs: []string{"02:00:00:00:00:00"}, Image: "rescue"})
	addRescue(t, dir+"/images")

	stop, b := runNotices(t, cfg)
	arm := func(by string, ttl time.Duration) string {
		o, err := b.table.Arm("srv01", "rescue", by, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return o.ID
	}
	done := arm("anna", 0)
	const inv32 = `<E><A ID="118-497-589"/><C><T ID="1" SID="1"><L P="49161" N="192.168.77.101"/></T></C></E>`
	for range 3 { // the agent retries
		if _, err := b.tickets.DaRT("srv01", done, true, netip.MustParseAddr("192.168.77.101"), []byte(inv32)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.table.Up(done); err != nil {
		t.Fatal(err)
	}
	if err := b.table.Fail(arm("standing", 0), "cancelled by the switch: the image has no loader for its processor"); err != nil {
		t.Fatal(err)
	}
	arm("boris", 0)
	arm("anna", 0) // boris is told
	arm("anna", 0) // who orders anew knows it
	if _, err := b.table.Cancel("srv01", "anna"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.table.Decide(boot.Client{MAC: boot.MAC{2}}); err != nil { // it boots the same always
		t.Fatal(err)
	}
	if o, ok := b.table.OpenOrder("srv02"); !ok || b.table.Up(o.ID) != nil {
		t.Fatal(o, ok)
	}
	want := []string{"done srv01", "failed srv01", "failed srv01", "ticket srv01"}
	if got := trusted.kinds(t, 4); !slices.Equal(got, want) {
		t.Errorf("trusted: %q, want %q", got, want)
	}
	waitFor(t, "all answers of the receivers", func() bool { // what is cut off before that comes twice, and rightly so
		return !slices.ContainsFunc(b.outbox.List(), func(e notify.Entry) bool {
			return slices.ContainsFunc(e.Deliveries, func(d notify.Delivery) bool { return d.State.Open() })
		})
	})
	stop()

	stop, b = runNotices(t, cfg)
	defer func() { stop() }()
	if _, err := b.tickets.DaRT("srv01", done, true, netip.MustParseAddr("192.168.77.101"), []byte(inv32)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.table.Arm("srv01", "rescue", "anna", time.Second); err != nil {
		t.Fatal(err)
	}
	if got, want := trusted.kinds(t, 5), append(slices.Clone(want[:1]), "expired srv01", "failed srv01", "failed srv01", "ticket srv01"); !slices.Equal(got, want) {
		t.Errorf("trusted, after a restart: %q, want %q", got, want)
	}
	if got, want := public.kinds(t, 4), []string{"expired srv01", "failed srv01", "failed srv01", "ticket srv01"}; !slices.Equal(got, want) {
		t.Errorf("public: %q, want %q", got, want)
	}
	has := func(l *listener) string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Sprint(l.told)
	}
	if text := has(trusted); !strings.Contains(text, "DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=192.168.77.101 -port=49161") ||
		!strings.Contains(text, "the image has no loader for its processor") {
		t.Errorf("trusted was told %s", text)
	}
	if text := has(public); strings.Contains(text, "118-497-589") || !strings.Contains(text, "rescuebox connect srv01") {
		t.Errorf("public was told %s", text)
	}
}

// addRescue puts an image into a library.
func addRescue(t *testing.T, dir string) {
	t.Helper()
	lib := &images.Library{Dir: dir}
	if _, err := lib.Add(images.Image{Name: "ipxe", Kind: images.BootSet}, map[string]io.Reader{"undionly.kpxe": strings.NewReader("a")}); err != nil {
		t.Fatal(err)
	}
	_, err := lib.Add(images.Image{Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Agent},
		map[string]io.Reader{"vmlinuz": strings.NewReader("kernel")})
	if err != nil {
		t.Fatal(err)
	}
}

// runNotices runs the parts that orders and news need.
func runNotices(t *testing.T, cfg *config.Config) (stop func(), b *box) {
	t.Helper()
	b, err := assemble(Options{Config: cfg, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context, func()) error{b.table.Run, notices{b}.Run, b.outbox.Run} {
		wg.Go(func() {
			if err := run(ctx, func() {}); err != nil {
				t.Error(err)
			}
		})
	}
	return func() { cancel(); wg.Wait(); b.db.Close() }, b
}

// What is told of a ticket that opens nothing, or is of no known machine, says so, and
// sends nobody where there is no way.
func TestTicketMessage(t *testing.T) {
	stop, b := runNotices(t, site(t, t.TempDir()))
	defer stop()
	opens := ticket.Ticket{ID: "0123456789ab", Kind: ticket.DaRT, Machine: "srv01", Code: "118-497-589", Address: netip.MustParseAddr("192.168.77.101"), Port: 49161}
	unknown, unread, nowhere := opens, opens, opens
	unknown.Machine, unread.Problem, nowhere.Address = "", "inv32.xml has no ticket number", netip.Addr{}
	for _, tt := range []struct {
		of              ticket.Ticket
		text, in, notIn string // in: of the secret
		shortHasTheCode bool
	}{
		{opens, "", "rescuebox connect srv01\n", "0123456789ab", true},
		{unknown, "", "Ticket 0123456789ab does not say whose it is", "rescuebox connect", true},
		{unread, "its ticket cannot be read: inv32.xml has no ticket number", "", "-", false},
		{nowhere, "its ticket names no address at which it can be reached: the machine had none when it wrote it", "", "-", false},
	} {
		m := b.ticketMessage(tt.of)
		if m.Text != tt.text || !strings.Contains(m.Secret, tt.in) || strings.Contains(m.Secret, tt.notIn) || (m.SecretShort != "") != tt.shortHasTheCode {
			t.Errorf("%v: %+v", tt, m)
		}
	}
}

// A ticket that was stored when the power went, and nobody was told of, is told of at the next start.
func TestNoticesAfterPowerCut(t *testing.T) {
	cfg := site(t, t.TempDir())
	b, err := assemble(Options{Config: cfg, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	stored := ticket.Ticket{ID: "0123456789ab", Kind: ticket.DaRT, Machine: "srv01", From: netip.MustParseAddr("192.168.77.101"), Problem: "it was not read yet",
		Raw: []byte(`<E><A ID="118-497-589"/><C><T><L P="49161" N="192.168.77.101"/></T></C></E>`)}
	if err := state.NewTable[ticket.Ticket](b.db, "tickets", state.Durable).Put(stored.ID, stored); err != nil {
		t.Fatal(err)
	}
	b.db.Close()
	stop, b := runNotices(t, cfg)
	defer stop()
	for range 300 {
		if got, err := b.tickets.Get(stored.ID); err == nil && got.Announced && b.outbox.Has(b.ticketMessage(got).ID) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("nobody was told; the desk has %+v", b.tickets.List(""))
}
