package boot

import (
	"strings"
	"testing"
)

// Beside a DHCP server that names another next server GRUB would end at its
// prompt: there iPXE comes, or a "no" with what to do.
func TestNextServerElsewhere(t *testing.T) {
	const lost = "refused: GRUB on srv01 would not find this box"
	for _, test := range []struct {
		name  string
		setup func(c *Config)
		arch  Arch
		want  string
	}{
		{"Secure Boot not known", nil, UEFIX64, "live ipxe snponly.efi"},
		{"Secure Boot off", func(c *Config) { c.Machines[0].SecureBoot = SecureBootOff }, UEFIX64, "live ipxe snponly.efi"},
		{"Secure Boot on", func(c *Config) { c.Machines[0].SecureBoot = SecureBootOn }, UEFIX64, lost},
		{"Secure Boot on, signed iPXE", func(c *Config) { c.Machines[0].SecureBoot, c.BootSet = SecureBootOn, "signed" }, UEFIX64, "live ipxe snponly-shimx64.efi"},
		{"shim insisted on", func(c *Config) { c.Chain = ChainShim }, UEFIX64, lost},
		{"32 bits, no iPXE", nil, UEFIIA32, lost},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := chainConfig(t)
			if test.setup != nil {
				test.setup(&c)
			}
			table := New(c)
			arm(t, table, "live", 0)
			got := answer(table, Client{MAC: mac1, Arch: test.arch, Program: Firmware, NextServerElsewhere: true})
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
