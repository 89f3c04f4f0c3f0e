package bmc

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/bmc/bmctest"
)

// quick is a pace for controllers that are slow only where a test says so.
var quick = pace{request: 20 * time.Second, poll: 50 * time.Millisecond, power: 3 * time.Second, boot: 2 * time.Second, media: 2 * time.Second}

var everyKind = []string{"ilo", "idrac", "xcc", "supermicro", "ami", "sushy"}

// serve starts a handler as a controller, and its client.
func serveTLS(t *testing.T, h http.Handler) *Redfish {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	host, text, _ := net.SplitHostPort(server.Listener.Addr().String())
	number, _ := strconv.Atoi(text)
	return &Redfish{Host: host, Port: number, User: "rescue", Password: fixed("secret12"), pace: quick,
		TLS: tlsConfig(host, func(string) error { return nil })}
}

// startKind starts a maker's service.
func startKind(t *testing.T, kind string) (*bmctest.Redfish, *Redfish) {
	t.Helper()
	service, err := bmctest.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	return service, serveTLS(t, service)
}

// resets are the reset types that a service was asked for.
func resets(service *bmctest.Redfish) []string {
	var list []string
	for _, r := range service.Requests() {
		if kind, ok := r.Body["ResetType"].(string); ok {
			list = append(list, kind)
		}
	}
	return list
}

// What an order does, with every maker's service: asked of the server, not of ourselves.
func TestRedfishStart(t *testing.T) {
	for _, kind := range everyKind {
		t.Run(kind, func(t *testing.T) {
			service, c := startKind(t, kind)
			ctx := t.Context()
			next, err := c.Start(ctx, Boot{Device: Network, UEFI: true})
			if err != nil || next.Device != Network {
				t.Fatalf("%+v, %v", next, err)
			}
			if state, err := c.Power(ctx); state != On || err != nil {
				t.Errorf("power is %s, %v", state, err)
			}
			if err := c.Do(ctx, Cycle); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Start(ctx, Boot{Device: Network, UEFI: true}); err != nil {
				t.Fatal(err)
			}
			if got := service.Starts(); !slices.Equal(got, []string{"Pxe", "", "Pxe"}) {
				t.Errorf("the server started from %q", got)
			}
			if info, err := c.Info(ctx); err != nil || info.Protocol != "redfish" || info.Firmware == "" || info.Vendor == "" {
				t.Errorf("%+v, %v", info, err)
			}
			if open, ever := service.Sessions(); open != 0 || ever == 0 && kind != "sushy" {
				t.Errorf("%d sessions are left of %d", open, ever)
			}
		})
	}
}

func TestRedfishPower(t *testing.T) {
	for _, kind := range everyKind {
		t.Run(kind, func(t *testing.T) {
			_, c := startKind(t, kind)
			for _, step := range []struct {
				do   Action
				want State
			}{{PowerOff, Off}, {SoftOff, Off}, {PowerOn, On}, {PowerOn, On}, {Reset, On}, {SoftOff, Off}, {Reset, On}, {PowerOff, Off}, {Cycle, On}, {Cycle, On}} {
				if err := c.Do(t.Context(), step.do); err != nil {
					t.Fatalf("%s: %v", step.do, err)
				}
				if state, err := c.Power(t.Context()); state != step.want || err != nil {
					t.Fatalf("%s: power is %s, %v", step.do, state, err)
				}
			}
		})
	}
}

func TestRedfishSet(t *testing.T) {
	for _, kind := range everyKind {
		for _, b := range []Boot{{Device: Network, UEFI: true}, {Device: Network, UEFI: false}, {Device: NetworkHTTP, UEFI: true}, {Device: Disk, UEFI: true}, {Device: VirtualCD, UEFI: true}, {Device: Usual, UEFI: true}} {
			service, c := startKind(t, kind)
			if b.Device == Usual {
				if _, err := c.Set(t.Context(), Boot{Device: Network, UEFI: true}); err != nil {
					t.Fatal(err)
				}
			}
			next, err := c.Set(t.Context(), b)
			if kind == "xcc" && b.Device == NetworkHTTP {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "Pxe") {
					t.Errorf("xcc has no UefiHttp, and says %v", err)
				}
				continue
			}
			if err != nil || next.Device != b.Device || (b.Device != Usual && !next.Held) {
				t.Errorf("%s: %+v: %+v, %v", kind, b, next, err)
				continue
			}
			if kind != "idrac" || b.Device != VirtualCD { // iDRAC keeps that elsewhere
				if read, err := c.Next(t.Context()); err != nil || read != next {
					t.Errorf("%s: %+v: next is %+v, %v", kind, b, read, err)
				}
			}
			if err := c.Do(t.Context(), PowerOn); err != nil {
				t.Fatal(err)
			}
			want := map[Device]string{Network: "Pxe", NetworkHTTP: "UefiHttp", Disk: "Hdd", VirtualCD: "Cd", Usual: ""}[b.Device]
			switch {
			case kind == "supermicro" && b.Device == VirtualCD:
				want = "UsbCd"
			case kind == "idrac" && b.Device == VirtualCD:
				want = "VCD-DVD"
			}
			if got := service.Starts(); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %+v: started from %q", kind, b, got)
			}
		}
	}
}

// A wrong password costs one try, none again until it is another, and is in no error, even where the
// service says it back.
func TestRedfishWrongPassword(t *testing.T) {
	for _, kind := range everyKind {
		t.Run(kind, func(t *testing.T) {
			tries := 0
			service, err := bmctest.New(kind)
			if err != nil {
				t.Fatal(err)
			}
			c := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost || r.Header.Get("Authorization") != "" {
					tries++
				}
				service.ServeHTTP(w, r)
			}))
			password := "hunter2hunter2"
			c.Password = func() (string, error) { return password, nil }
			for range 3 {
				_, err := c.Power(t.Context())
				if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), password) {
					t.Fatalf("got %v", err)
				}
			}
			if tries != 1 {
				t.Errorf("the password was tried %d times", tries)
			}
			password = "secret12"
			if _, err := c.Power(t.Context()); err != nil {
				t.Errorf("with the right one: %v", err)
			}
		})
	}
}

func TestRedfishSystems(t *testing.T) {
	service, c := startKind(t, "ilo")
	second := service.Resource("/redfish/v1/Systems/1")
	second["@odata.id"], second["Id"], second["UUID"], second["SerialNumber"] = "/redfish/v1/Systems/2", "2", "deadbeef-0000-0000-0000-000000000002", "CZ2"
	second["Actions"] = map[string]any{"#ComputerSystem.Reset": map[string]any{"target": "/redfish/v1/Systems/2/Actions/ComputerSystem.Reset"}}
	second["EthernetInterfaces"] = map[string]any{"@odata.id": "/redfish/v1/Systems/2/EthernetInterfaces"}
	service.Add("/redfish/v1/Systems/2", second)
	service.Add("/redfish/v1/Systems/2/EthernetInterfaces", map[string]any{"Members": []any{map[string]any{"@odata.id": "/redfish/v1/Systems/2/EthernetInterfaces/1"}}})
	service.Add("/redfish/v1/Systems/2/EthernetInterfaces/1", map[string]any{"MACAddress": "52-54-00-00-00-02"})
	service.Change("/redfish/v1/Systems", func(r map[string]any) {
		r["Members"] = append(r["Members"].([]any), map[string]any{"@odata.id": "/redfish/v1/Systems/2"})
	})
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "2 (serial CZ2)") {
		t.Errorf("which of two was not said, and it says %v", err)
	}
	if !c.several.Load() {
		t.Error("it is not known that there are two")
	}
	for _, by := range []struct {
		system string
		macs   []string
	}{{system: "2"}, {system: "DEADBEEF-0000-0000-0000-000000000002"}, {system: "CZ2"}, {macs: []string{"52:54:00:00:00:02"}}} {
		c := &Redfish{Host: c.Host, Port: c.Port, User: c.User, Password: c.Password, TLS: c.TLS, pace: quick, System: by.system, MACs: by.macs}
		if err := c.Do(t.Context(), PowerOn); err != nil {
			t.Errorf("%+v: %v", by, err)
		}
		if service.Resource("/redfish/v1/Systems/2")["PowerState"] != "On" || service.Resource("/redfish/v1/Systems/1")["PowerState"] != "Off" {
			t.Errorf("%+v: the wrong one was switched on", by)
		}
		service.Change("/redfish/v1/Systems/2", func(r map[string]any) { r["PowerState"] = "Off" })
	}
	// The place of the other is empty.
	service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
		if r.Path == "/redfish/v1/Systems/1" {
			bmctest.Refuse(w, http.StatusNotFound, "Base.1.4.ResourceMissing", "no blade")
		}
		return r.Path == "/redfish/v1/Systems/1"
	}
	for _, macs := range [][]string{{"52:54:00:00:00:02"}, {"52:54:00:00:00:01"}} {
		c := &Redfish{Host: c.Host, Port: c.Port, User: c.User, Password: c.Password, TLS: c.TLS, pace: quick, MACs: macs}
		if _, err := c.Power(t.Context()); (err == nil) != (macs[0] == "52:54:00:00:00:02") {
			t.Errorf("one of two cannot be read, and %s is meant: %v", macs, err)
		}
	}
	service.Hook = nil
	c.System = "3"
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("there is no third, and it says %v", err)
	}
}

// A controller's own ETag, not that of the packed form; and a collection has an end.
func TestTags(t *testing.T) {
	own := resource{ETag: `W/"7"`}
	for header, want := range map[string]string{"": `W/"7"`, `"5"`: `"5"`, `"5-gzip"`: `"5"`, `W/"5-gzip"`: `W/"5"`} {
		if got := own.tag(header); got != want {
			t.Errorf("%s: %s, want %s", header, got, want)
		}
	}
	service, c := startKind(t, "ilo")
	service.Change("/redfish/v1/Systems", func(r map[string]any) {
		for range 5000 {
			r["Members"] = append(r["Members"].([]any), map[string]any{"@odata.id": "/redfish/v1/Systems/none"})
		}
	})
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a system among thousands that are not there: %v", err)
	}
	if n := len(service.Requests()); n > maxMembers+20 {
		t.Errorf("%d requests", n)
	}
}

// A system that has another name since its firmware was updated is found again.
func TestRenamed(t *testing.T) {
	service, c := startKind(t, "ilo")
	if _, err := c.Power(t.Context()); err != nil {
		t.Fatal(err)
	}
	system := service.Resource("/redfish/v1/Systems/1")
	system["@odata.id"], system["PowerState"] = "/redfish/v1/Systems/Self", "On"
	service.Add("/redfish/v1/Systems/Self", system)
	service.Change("/redfish/v1/Systems", func(r map[string]any) {
		r["Members"] = []any{map[string]any{"@odata.id": "/redfish/v1/Systems/Self"}}
	})
	service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
		if r.Path == "/redfish/v1/Systems/1" {
			bmctest.Refuse(w, http.StatusNotFound, "Base.1.4.ResourceMissing", "no such system")
		}
		return r.Path == "/redfish/v1/Systems/1"
	}
	if state, err := c.Power(t.Context()); err != nil || state != On {
		t.Errorf("%s, %v", state, err)
	}
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
