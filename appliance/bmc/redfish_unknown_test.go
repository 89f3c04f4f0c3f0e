package bmc

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"rescuebox/appliance/bmc/bmctest"
)

// faulty is a server that is on, whose controller answers the first resets with a status: done, or not.
type faulty struct {
	*bmctest.Redfish
	undone int // resets that were asked for and not done
}

func newFaulty(t *testing.T, status, times int, done bool) (*faulty, *Redfish) {
	t.Helper()
	f := &faulty{}
	var c *Redfish
	f.Redfish, c = behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "Reset") || times == 0 {
			return false
		}
		times--
		if done {
			f.ServeHTTP(&deaf{}, r)
		} else {
			f.undone++
		}
		bmctest.Refuse(w, status, "Base.1.4.GeneralError", "something went wrong")
		return true
	})
	f.Change(f.System(), func(r map[string]any) { r["PowerState"] = "On" })
	return f, c
}

// A reset that may have been done is looked after before there is another, whatever the answer to it was.
func TestRedfishResetWithFault(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		f, c := newFaulty(t, status, 1, true)
		if _, err := c.Start(t.Context(), uefi); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if got := f.Starts(); !slices.Equal(got, []string{"Pxe"}) || len(resets(f.Redfish)) != 1 {
			t.Errorf("%d: started from %q by %q", status, got, resets(f.Redfish))
		}
	}
	// The time of the last reset shows it where no boot was set that it would have used up.
	f, c := newFaulty(t, http.StatusInternalServerError, 1, true)
	seen := "08:00:00Z"
	f.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
		if strings.HasSuffix(r.Path, "Reset") {
			seen = "08:15:00Z"
		}
		return false
	}
	f.View = func(path string, r map[string]any) {
		if r["PowerState"] != nil {
			r["LastResetTime"] = "2026-11-23T" + seen
		}
	}
	if err := c.Do(t.Context(), Cycle); err != nil || len(resets(f.Redfish)) != 1 {
		t.Errorf("time of the last reset: %v, %q", err, resets(f.Redfish))
	}
	// Nothing shows it: nobody knows, and nobody sends another.
	f, c = newFaulty(t, http.StatusInternalServerError, 1, true)
	if err := c.Do(t.Context(), Cycle); !errors.Is(err, ErrHalfway) || len(f.Starts()) != 1 {
		t.Errorf("nothing shows: %v, started %q", err, f.Starts())
	}
}

// A fault of what was not done: it is not known, and the next one asks in another way. What is busy is
// asked once more, and what is not implemented is not asked for again.
func TestRedfishResetUndone(t *testing.T) {
	f, c := newFaulty(t, http.StatusInternalServerError, 1, false)
	if _, err := c.Start(t.Context(), uefi); !errors.Is(err, ErrHalfway) || f.undone != 1 || len(f.Starts()) != 0 {
		t.Errorf("a fault: %v, %d asked for, started %q", err, f.undone, f.Starts())
	}
	if _, err := c.Start(t.Context(), uefi); err != nil || !slices.Equal(resets(f.Redfish), []string{"ForceOff", "On"}) { // ForceRestart was the first
		t.Errorf("after a fault: %v, %q", err, resets(f.Redfish))
	}
	f, c = newFaulty(t, http.StatusServiceUnavailable, 2, false)
	if _, err := c.Start(t.Context(), uefi); err != nil || f.undone != 2 || !slices.Equal(f.Starts(), []string{"Pxe"}) {
		t.Errorf("busy: %v, %d asked for, started %q", err, f.undone, f.Starts())
	}
	f, c = newFaulty(t, http.StatusNotImplemented, 1, false)
	if _, err := c.Start(t.Context(), uefi); err != nil || !slices.Equal(f.Starts(), []string{"Pxe"}) {
		t.Errorf("not implemented: %v, started %q", err, f.Starts())
	}
}

// Off and on again, with a fault as the answer to either: the server is on at the end, and was started once.
func TestRedfishFaultBetweenOffAndOn(t *testing.T) {
	for _, times := range []int{1, 2} {
		f, c := newFaulty(t, http.StatusInternalServerError, times, true)
		allow(f.Redfish, "ForceOff", "On")
		if _, err := c.Start(t.Context(), uefi); err != nil || !slices.Equal(resets(f.Redfish), []string{"ForceOff", "On"}) || !slices.Equal(f.Starts(), []string{"Pxe"}) {
			t.Errorf("%d faults: %v, %q, started %q", times, err, resets(f.Redfish), f.Starts())
		}
	}
}

// A controller that is gone after the reset: whoever hears of it must not send another, by another protocol.
func TestRedfishGoneAfterReset(t *testing.T) {
	gone := false
	service, c := behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
		if gone {
			drop(w)
		}
		return gone
	})
	service.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
		gone = gone || strings.HasSuffix(r.Path, "Reset")
		return false
	}
	if _, err := c.Start(t.Context(), uefi); !errors.Is(err, ErrHalfway) {
		t.Errorf("got %v", err)
	}
}

// Whoever has to know hears that power is taken before it is, and not where it is only given.
func TestRedfishTaking(t *testing.T) {
	service, c := startKind(t, "xcc")
	taken := []string{}
	c.Taking = func() { taken = append(taken, strings.Join(resets(service), " ")) }
	if err := errors.Join(c.Do(t.Context(), Cycle), c.Do(t.Context(), PowerOff), c.Do(t.Context(), PowerOn)); err != nil || len(taken) != 0 {
		t.Errorf("%v: taken after %q", err, taken)
	}
	if err := c.Do(t.Context(), Cycle); err != nil || !slices.Equal(taken, []string{"On ForceOff On"}) {
		t.Errorf("%v: taken after %q", err, taken)
	}
}

// Where nobody knows the firmware, the controller's mode stays: but one that must be told is told its own.
func TestRedfishUnsure(t *testing.T) {
	for kind, want := range map[string]any{"xcc": nil, "ilo": nil, "supermicro": "Legacy"} {
		service, c := startKind(t, kind)
		service.Change(service.System(), func(r map[string]any) { r["Boot"].(map[string]any)["BootSourceOverrideMode"] = "Legacy" })
		next, err := c.Set(t.Context(), Boot{Device: Network, UEFI: true, Unsure: true})
		if err != nil || next.Device != Network || next.UEFI {
			t.Errorf("%s: %+v, %v", kind, next, err)
		}
		if got := boots(service)[0]["BootSourceOverrideMode"]; got != want {
			t.Errorf("%s is told mode %v, want %v", kind, got, want)
		}
		if now := service.Resource(service.System())["Boot"].(map[string]any)["BootSourceOverrideMode"]; now != "Legacy" {
			t.Errorf("%s: the mode is %v", kind, now)
		}
	}
}
