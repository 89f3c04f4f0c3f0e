package appliance

import (
	"errors"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// An inv32.xml with the order's token ends the order, as an agent's report does;
// to send it again is no error and no second ticket. Strangers bring none.
func TestDaRTEndsTheOrder(t *testing.T) {
	b, err := assemble(Options{Config: site(t, t.TempDir()), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.db.Close()
	for _, i := range []images.Image{{Name: bootSet, Kind: images.BootSet}, {Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Agent}} {
		if _, err := b.library.Add(i, map[string]io.Reader{"vmlinuz": strings.NewReader("kernel")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.table.Arm("srv01", "rescue", "anna", 0); err != nil {
		t.Fatal(err)
	}
	o, _ := b.table.OpenOrder("srv01")
	at := netip.MustParseAddr("127.0.0.9")
	raw := []byte(`<E><A ID="118-497-589"/><C><T><L P="49161" N="192.168.77.100"/></T></C></E>`)
	if err := (agents{b}).Ticket("wrong", at, raw); !errors.Is(err, errStranger) {
		t.Errorf("a wrong token: %v", err)
	}
	if _, err := (agents{b}).MDT(at, url.Values{"dartTicket": {"118-497-589"}}); !errors.Is(err, errStranger) {
		t.Errorf("a stranger's event: %v", err)
	}
	for range 2 {
		if err := (agents{b}).Ticket(o.Token, at, raw); err != nil {
			t.Error(err)
		}
	}
	list := b.tickets.List("")
	if len(list) != 1 || list[0].Kind != ticket.DaRT || !list[0].Verified || list[0].Order != o.ID || list[0].Endpoint() != "192.168.77.100:49161" {
		t.Errorf("tickets: %v", list)
	}
	if o, open := b.table.OpenOrder("srv01"); open {
		t.Errorf("the order is still open: %v", o.State)
	}
	events, err := b.table.Timeline(o.ID)
	told := 0
	for _, e := range events {
		if e.Step == boot.StepTicket {
			told++
		}
		if strings.Contains(e.Text, "118-497") {
			t.Errorf("the ticket's number is in the timeline: %s", e.Text)
		}
	}
	if err != nil || told != 1 {
		t.Errorf("%v; the timeline tells %d times of the ticket", err, told)
	}
}
