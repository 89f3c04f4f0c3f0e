package appliance

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// A machine that reports something new all the time is refused with the reason:
// that is no failure of the box. Its order ends all the same.
func TestTooManyReports(t *testing.T) {
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
	for i := range 30 {
		if err = (agents{b}).Up(o.Token, netip.MustParseAddr("127.0.0.9"), fmt.Appendf(nil, `{"kind":"ssh","n":%d}`, i)); err != nil {
			break
		}
	}
	var no *boot.Refusal
	if !errors.As(err, &no) || !strings.Contains(no.Reason, "too many different tickets") {
		t.Errorf("got %v", err)
	}
	if o, open := b.table.OpenOrder("srv01"); open {
		t.Errorf("the order is still open: %v", o)
	}
}

// What a machine says of itself is in its order's timeline, each line once, and
// says where it was not proven.
func TestSay(t *testing.T) {
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
	for _, text := range []string{"no network\r\ncard", "no network\r\ncard", strings.Repeat("x", 1000)} {
		if err := (agents{b}).Say(o.Token, netip.MustParseAddr("127.0.0.9"), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := (agents{b}).Say("wrong", netip.MustParseAddr("127.0.0.9"), "hello"); !errors.Is(err, errStranger) {
		t.Errorf("a wrong token: %v", err)
	}
	var said []string
	events, err := b.table.Timeline(o.ID)
	for _, e := range events {
		if e.Step == boot.StepSays {
			said = append(said, e.Text)
		}
	}
	want := []string{"srv01 says: no network card", "srv01 says: " + strings.Repeat("x", 299) + "…"}
	if err != nil || !slices.Equal(said, want) {
		t.Errorf("%q, %v", said, err)
	}
}
