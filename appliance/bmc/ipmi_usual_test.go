package bmc

import (
	"strings"
	"testing"
)

// What an order sets can be taken back: the controller's own client reads no override.
func TestIPMIUsual(t *testing.T) {
	s := startSim(t, "")
	if _, err := s.client().Set(t.Context(), Boot{Device: Network, UEFI: true}); err != nil {
		t.Fatal(err)
	}
	if now := s.ipmitool(t, "chassis", "bootparam", "get", "5"); !strings.Contains(now, "Force PXE") {
		t.Fatalf("ipmitool reads %s", now)
	}
	if next, err := s.client().Set(t.Context(), Boot{Device: Usual}); err != nil || next.Device != Usual {
		t.Errorf("%+v, %v", next, err)
	}
	if now := s.ipmitool(t, "chassis", "bootparam", "get", "5"); !strings.Contains(now, "No override") {
		t.Errorf("ipmitool reads %s", now)
	}
}
