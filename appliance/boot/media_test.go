package boot

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"rescuebox/images"
)

// The BMC, at an address that nobody knows, gets the order's own disk by a path
// that nobody can guess, and only while the order is open.
func TestMedia(t *testing.T) {
	c := chainConfig(t)
	bmc := netip.MustParseAddr("10.9.9.9")
	c.MACOf = func(a netip.Addr) (MAC, bool) { return foreign, a == bmc } // a BMC that shares the card of another machine
	table := New(c)
	o := arm(t, table, "live", 0)
	path, err := table.MediaPath(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(path, o.Token) || !strings.HasSuffix(path, "/live.iso") {
		t.Errorf("path %q", path)
	}
	f, err := table.Open("/"+path, bmc)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil || !strings.Contains(string(text), "token="+o.Token) {
		t.Errorf("the order's arguments are not in it, %v", err)
	}
	f.Close()
	for _, wrong := range []string{"media/" + strings.Repeat("0", 32) + "/live.iso", "media/live.iso", "media/", strings.TrimSuffix(path, "live.iso") + "vmlinuz"} {
		if f, err := table.Open(wrong, bmc); err == nil {
			f.Close()
			t.Errorf("%q was opened", wrong)
		}
	}
	if _, err := table.Cancel("srv01", "anna"); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Open(path, bmc); err == nil || !strings.Contains(err.Error(), "no open order") {
		t.Errorf("after the order: %v", err)
	}
	if _, err := table.MediaPath(o.ID); err == nil {
		t.Error("a path for an order that is over")
	}
	noISO := arm(t, table, "rescue", 0)
	if _, err := table.MediaPath(noISO.ID); err == nil || !strings.Contains(err.Error(), "no ISO") {
		t.Errorf("an image without ISO: %v", err)
	}
}

// What a console said last is kept with the order, bounded and without its token.
func TestRecordConsole(t *testing.T) {
	table := New(chainConfig(t))
	o := arm(t, table, "live", 0)
	lines := []string{strings.Repeat("x", maxConsole), "Command line: quiet token=" + o.Token, "Kernel panic"}
	table.RecordConsole(o.ID, "srv01", lines)
	table.RecordConsole("nobody", "srv01", lines)
	events, err := table.Timeline(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	last := events[len(events)-1]
	if last.Step != StepConsole || len(last.Lines) != 2 || last.Lines[0] != "Command line: quiet token=[token]" || last.Lines[1] != "Kernel panic" {
		t.Errorf("%+v", last)
	}
}

// A machine that somebody booted from a stick gets the root of its rescue system without
// an order, and nothing that firmware asks for.
func TestStick(t *testing.T) {
	c := chainConfig(t)
	for name, arch := range map[string]string{"stick-arm64": "arm64", "stick": "amd64"} {
		i := images.Image{Name: name, Kind: images.Linux, Arch: arch, Kernel: "vmlinuz", Up: images.Agent, ISO: &images.ISO{File: "rescue.iso", ConfigAt: 1, ConfigSize: 1}}
		if _, err := c.Images.Add(i, map[string]io.Reader{"vmlinuz": strings.NewReader("kernel"), "rescue.iso": strings.NewReader("iso"),
			"root.squashfs": strings.NewReader("root for " + arch), "shimx64.efi": pe(peAMD64, "shim")}); err != nil {
			t.Fatal(err)
		}
	}
	table := New(c)
	read := func(path string) (string, error) {
		f, err := table.Open(path, from100)
		if err != nil {
			return "", err
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		table.Served(f)
		return string(text), err
	}
	if text, err := read("boot/525400123456/root.squashfs"); err != nil || text != "root for amd64" {
		t.Errorf("%q, %v", text, err)
	}
	table.Decide(Client{MAC: mac1, Arch: UEFIARM64, Program: Firmware})
	if text, err := read("boot/525400123456/root.squashfs"); err != nil || text != "root for arm64" {
		t.Errorf("a machine that was seen: %q, %v", text, err)
	}
	for _, path := range []string{"boot/525400123456/shimx64.efi", "boot/525400123456/vmlinuz", "boot/525400123456/rescue.iso", "boot/0253000000ff/root.squashfs"} {
		if text, err := read(path); err == nil {
			t.Errorf("%s was served: %q", path, text)
		}
	}
}
