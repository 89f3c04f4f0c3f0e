package appliance

import (
	"slices"
	"testing"

	"rescuebox/appliance/config"
	"rescuebox/appliance/dhcp"
)

// The file of the site knows the dialects that there are.
func TestDialects(t *testing.T) {
	if !slices.Equal(config.Dialects, dhcp.Dialects()) {
		t.Errorf("config has %v, dhcp %v", config.Dialects, dhcp.Dialects())
	}
}
