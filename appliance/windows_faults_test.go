package appliance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/boottest"
	"rescuebox/images"
)

// windowsFiles are the files of a Windows image as its import leaves them.
func windowsFiles(t *testing.T) map[string][]byte {
	t.Helper()
	need(t, "wimlib-imagex", "wimtools")
	dir := t.TempDir()
	if _, err := (boottest.WindowsPE{Packing: "none"}).Capture(dir); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, path := range map[string]string{"boot.wim": "boot.wim", "pxeboot.n12": "tree/Windows/Boot/PXE/pxeboot.n12", "bootmgr.exe": "tree/Windows/Boot/PXE/bootmgr.exe",
		"bootmgfw.efi": "tree/Windows/Boot/EFI/bootmgfw.efi", "boot.sdi": "tree/Windows/Boot/DVD/EFI/boot.sdi"} {
		var err error
		if files[name], err = os.ReadFile(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// windows orders Windows PE for srv01, of whose files there is no agent on this host.
func (c *clinic) windows(files map[string][]byte) boot.Order {
	c.t.Helper()
	c.add(images.Image{Name: "winpe", Kind: images.Windows, Arch: "amd64", Up: images.Agent, Windows: &images.WindowsPE{
		WIM: "boot.wim", SDI: "boot.sdi", Index: 1, Build: "10.0.26100", Has: []string{"wpeinit.exe", "wpeutil.exe", "cmd.exe", "startnet.cmd", "bcryptprimitives.dll"},
		WinloadBIOS: `\windows\system32\boot\winload.exe`, WinloadEFI: `\windows\system32\boot\winload.efi`}}, files)
	o, err := c.box.table.Arm("srv01", "winpe", "anna", 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}

// Microsoft's loaders and Windows PE stop where they would.
func TestCauseOfWindows(t *testing.T) {
	files := windowsFiles(t)
	for _, test := range []struct {
		key, personality string
		refused          string // a file that is loaded, and not started
		times            int
		words            []string
	}{
		{"other-loader-ca", "EDK2 new", "bootmgfw.efi", 1, []string{"Secure Boot refused it"}},
		{"bcd-not-asked", "Intel UNDI", "bootmgr.exe", 1, []string{"wimboot"}},
		{"wim-not-asked", "EDK2 new", "boot.sdi", 1, []string{"image verify winpe"}},
		{"pe-restarted", "Intel UNDI", "", 2, []string{"memory"}},
		{"no-report", "EDK2 new", "", 1, []string{"driver"}},
	} {
		t.Run(test.key, func(t *testing.T) {
			c := newClinic(t)
			c.open("full", "")
			o := c.windows(files)
			for range test.times {
				c.power(c.machine(boottest.Faults{Starts: func(f boottest.Loaded) bool { return f.Name != test.refused }}), test.personality)
			}
			c.diagnose(o, test.key, test.words...)
		})
	}
}

// There is no agent for the image on this host: that is told as soon as its WIM is asked for.
func TestCauseNoAgent(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.windows(windowsFiles(t))
	c.boot("EDK2 new")
	eventually(t, "no-agent is in the timeline", func() bool {
		events, err := c.box.table.Timeline(o.ID)
		return err == nil && slices.ContainsFunc(events, func(e boot.Event) bool {
			return e.Step == boot.StepCause && e.Key == "no-agent" && e.Text != "" && e.Hint != ""
		})
	})
}
