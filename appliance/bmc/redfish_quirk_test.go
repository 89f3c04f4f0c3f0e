package bmc

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/bmc/bmctest"
)

// boots are the Boot objects that a service was sent.
func boots(service *bmctest.Redfish) []map[string]any {
	var list []map[string]any
	for _, r := range service.Requests() {
		if boot, ok := r.Body["Boot"].(map[string]any); ok {
			list = append(list, boot)
		}
	}
	return list
}

// inserts are the bodies with an image that a service was sent.
func inserts(service *bmctest.Redfish) []bmctest.Request {
	var list []bmctest.Request
	for _, r := range service.Requests() {
		if _, ok := r.Body["Image"].(string); ok {
			list = append(list, r)
		}
	}
	return list
}

const isoURL = "http://192.0.2.1/media/x7k2/rescue.iso"

var uefi = Boot{Device: Network, UEFI: true}

// Every oddity that the client has a way around: who says so, and what came of it as the service saw it.
func TestRedfishQuirks(t *testing.T) {
	for _, q := range []struct {
		name, source, kind string
		prepare            func(*bmctest.Redfish)
		do                 func(t *testing.T, c *Redfish, service *bmctest.Redfish)
	}{
		{"HPE iLO: the override's mode is not writable", "community.general#3509; bmclib boot_device.go (DL160 Gen10)", "ilo", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if _, err := c.Set(t.Context(), uefi); err != nil {
					t.Fatal(err)
				}
				sent := boots(service)
				if len(sent) != 2 || sent[0]["BootSourceOverrideMode"] != "UEFI" || len(sent[1]) != 2 || sent[1]["BootSourceOverrideTarget"] != "Pxe" || sent[1]["BootSourceOverrideEnabled"] != "Once" {
					t.Errorf("sent %v", sent)
				}
			}},
		{"HPE iLO: eject wants an empty object", "sushy virtual_media.py", "ilo", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Insert(t.Context(), isoURL), c.Eject(t.Context())); err != nil {
					t.Fatal(err)
				}
				if d := service.Resource(service.Drive()); d["ConnectedVia"] != "NotConnected" {
					t.Errorf("the drive holds %v", d["Image"])
				}
			}},
		{"HPE iLO: a reset while off is refused, On is not", "goldyfruit/ansible-ilo#1", "ilo", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Do(t.Context(), Cycle); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"HPE iLO: it says on, refuses a reset since it is off, and then says off", "goldyfruit/ansible-ilo#1", "ilo",
			func(service *bmctest.Redfish) {
				lies := true
				service.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
					lies = lies && r.Method != http.MethodPost
					return false
				}
				service.View = func(path string, r map[string]any) {
					if path == service.System() && lies {
						r["PowerState"] = "On"
					}
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Do(t.Context(), Cycle); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"ForceRestart", "On"}) || len(service.Starts()) != 1 {
					t.Errorf("sent %v, started %v", got, service.Starts())
				}
			}},
		{"HPE iLO: no PowerCycle, so ForceRestart", "iLO 5's AllowableValues", "ilo", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOn), c.Do(t.Context(), Cycle)); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On", "ForceRestart"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"neither PowerCycle nor ForceRestart: off, wait, on", "AllowableValues", "xcc",
			func(service *bmctest.Redfish) { allow(service, "On", "ForceOff") },
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOn), c.Do(t.Context(), Cycle)); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On", "ForceOff", "On"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"no GracefulShutdown: the power button, but not of what is off", "AllowableValues", "ilo",
			func(service *bmctest.Redfish) { allow(service, "On", "ForceOff", "PushPowerButton") },
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), SoftOff), c.Do(t.Context(), PowerOn), c.Do(t.Context(), SoftOff)); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On", "PushPowerButton"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"no On: the power button", "AllowableValues", "sushy",
			func(service *bmctest.Redfish) { allow(service, "ForceOff", "PushPowerButton") },
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOn), c.Do(t.Context(), PowerOn)); !errors.Is(err, ErrUnsupported) {
					t.Errorf("the button of what is on was to be left alone: %v", err)
				}
				if got := resets(service); !slices.Equal(got, []string{"PushPowerButton"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"Supermicro: InsertMedia takes the image only", "sushy virtual_media.py; community.general#4839", "supermicro", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Insert(t.Context(), isoURL); err != nil {
					t.Fatal(err)
				}
				if sent := inserts(service); len(sent) != 1 || len(sent[0].Body) != 1 {
					t.Errorf("sent %v", sent)
				}
			}},
		{"Supermicro: virtual media is UsbCd", "sushy system.py", "supermicro", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) { startsFrom(t, c, service, "UsbCd") }},
		{"Supermicro ARS-111GL-NHR: virtual media is Cd", "sushy system.py", "supermicro",
			func(service *bmctest.Redfish) {
				service.Change(service.System(), func(r map[string]any) { r["Model"] = "ARS-111GL-NHR" })
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) { startsFrom(t, c, service, "Cd") }},
		{"Supermicro: the mode has to be said", "ironcore metal-operator PR#607", "supermicro", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				next, err := c.Set(t.Context(), uefi)
				if err != nil || !next.UEFI || boots(service)[0]["BootSourceOverrideMode"] != "UEFI" {
					t.Errorf("%+v, %v: sent %v", next, err, boots(service))
				}
			}},
		{"Supermicro AS-1015CS: takes all three, keeps the target only", "bmclib boot_device_test.go", "supermicro",
			func(service *bmctest.Redfish) {
				service.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
					if boot, ok := r.Body["Boot"].(map[string]any); ok && len(boot) > 1 {
						delete(boot, "BootSourceOverrideMode")
						delete(boot, "BootSourceOverrideEnabled")
					}
					return false
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				next, err := c.Start(t.Context(), uefi)
				if err != nil || next.Device != Network || !slices.Equal(service.Starts(), []string{"Pxe"}) {
					t.Errorf("%+v, %v: started from %q", next, err, service.Starts())
				}
			}},
		{"Supermicro: the image's name stays after the ejection", "community.general#6969, PR#7470", "supermicro",
			func(service *bmctest.Redfish) {
				service.View = func(path string, r map[string]any) {
					if r["ConnectedVia"] == notConnected {
						r["Image"] = r["ImageName"]
					}
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Insert(t.Context(), isoURL), c.Eject(t.Context()), c.Insert(t.Context(), isoURL), c.Eject(t.Context()), c.Eject(t.Context())); err != nil {
					t.Fatal(err)
				}
				if d := service.Resource(service.Drive()); d["ImageName"] == nil || d["ConnectedVia"] != "NotConnected" {
					t.Errorf("the drive is %v", d)
				}
			}},
		{"Dell iDRAC from 6.00.02: virtual media is under the system", "iDRAC-Redfish-Scripting#265; bmclib", "idrac", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Insert(t.Context(), isoURL); err != nil || service.Resource(service.Drive())["Image"] != isoURL {
					t.Errorf("%v: the drive is %v", err, service.Resource(service.Drive()))
				}
			}},
		{"Dell: the virtual CD is booted by iDRAC's own attributes", "Dell's PowerShell module; ironic drac/boot.py", "idrac", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) { startsFrom(t, c, service, "VCD-DVD") }},
		{"Dell 13G: enabled and target are refused together, and one by one taken", "community.general#5091", "idrac",
			func(service *bmctest.Redfish) {
				service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
					if boot, ok := r.Body["Boot"].(map[string]any); ok && len(boot) > 1 {
						bmctest.Refuse(w, http.StatusBadRequest, "IDRAC.1.6.SYS426", "Unable to set")
						return true
					}
					return false
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				startsOnce(t, c, service, uefi, "Pxe")
				if sent := boots(service); len(sent) != 4 {
					t.Errorf("sent %v", sent)
				}
			}},
		{"Dell: a job sets the override, seconds later", "community.general#5091", "idrac",
			func(service *bmctest.Redfish) {
				looks := 0
				service.View = func(path string, r map[string]any) {
					if path == service.System() && r["Boot"].(map[string]any)["BootSourceOverrideTarget"] == "Pxe" {
						if looks++; looks < 4 {
							r["Boot"].(map[string]any)["BootSourceOverrideTarget"] = "None"
						}
					}
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				c.pace.boot = time.Minute // which a stalled machine does not use up
				if next, err := c.Set(t.Context(), uefi); err != nil || next.Device != Network || len(boots(service)) != 1 {
					t.Errorf("%+v, %v: sent %v", next, err, boots(service))
				}
			}},
		{"Dell: already off or on is a conflict, and done", "Dell's message PSU501", "idrac", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOff), c.Do(t.Context(), PowerOn), c.Do(t.Context(), PowerOn)); err != nil {
					t.Error(err)
				}
			}},
		{"Lenovo XCC: no InsertMedia, so PATCH with Inserted, in the drive that takes addresses", "bmclib providers/lenovo; sushy (SD530)", "xcc", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Insert(t.Context(), isoURL), c.Eject(t.Context())); err != nil {
					t.Fatal(err)
				}
				sent := inserts(service)
				if len(sent) != 1 || sent[0].Method != http.MethodPatch || sent[0].Body["Inserted"] != true || sent[0].Path != service.Drive() || sent[0].IfMatch == "" {
					t.Errorf("sent %v", sent)
				}
			}},
		{"Lenovo XCC: only Once and Disabled", "bmclib providers/lenovo", "xcc", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if _, err := c.Set(t.Context(), uefi); err != nil || boots(service)[0]["BootSourceOverrideEnabled"] != "Once" {
					t.Errorf("%v: sent %v", err, boots(service))
				}
			}},
		{"Lenovo XCC: Image and Inserted lag each other", "sushy (SD530)", "xcc",
			func(service *bmctest.Redfish) {
				looks := 0
				service.View = func(path string, r map[string]any) {
					if path != service.Drive() || r["Inserted"] != true {
						return
					}
					if looks++; looks < 3 {
						r["Inserted"] = false
					} else if looks < 5 {
						r["Image"] = nil
					}
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				c.pace.media = time.Minute // as above
				if err := c.Insert(t.Context(), isoURL); err != nil || len(inserts(service)) != 1 {
					t.Errorf("%v: sent %v", err, inserts(service))
				}
			}},
		{"TransferProtocolType is demanded", "sushy", "ami", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Insert(t.Context(), "https://192.0.2.1/x.iso"); err != nil {
					t.Fatal(err)
				}
				sent := inserts(service)
				if last := sent[len(sent)-1]; last.Body["TransferProtocolType"] != "HTTPS" || len(sent) > 4 {
					t.Errorf("sent %v", sent)
				}
			}},
		{"NVIDIA DGX: a method, a user and a password are demanded", "sushy is_credentials_required", "ami",
			func(service *bmctest.Redfish) {
				service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
					if r.Body["Image"] != nil && (r.Body["UserName"] == nil || r.Body["Password"] == nil || r.Body["TransferMethod"] != "Stream") {
						bmctest.Refuse(w, http.StatusBadRequest, "Base.1.8.ActionParameterMissing", "The action requires the parameter UserName")
						return true
					}
					return false
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Insert(t.Context(), isoURL); err != nil || len(inserts(service)) != 4 {
					t.Errorf("%v: sent %v", err, inserts(service))
				}
			}},
		{"AMI: the override goes into the settings resource, with If-Match", "gofish SetBoot; sushy system.py", "ami", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				startsOnce(t, c, service, uefi, "Pxe")
				for _, r := range service.Requests() {
					if r.Method == http.MethodPatch && strings.HasSuffix(r.Path, "/SD") && r.IfMatch == "" {
						t.Errorf("%v without If-Match", r)
					}
				}
			}},
		{"AMI: the reset types are in an ActionInfo", "DSP0266 section 7.11", "ami", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOn), c.Do(t.Context(), Cycle)); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On", "ForceRestart"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"sushy, OpenBMC: Once reads back Continuous", "measured, sushy-emulator 2.2.0 --fake", "sushy", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if next, err := c.Set(t.Context(), uefi); err != nil || !next.Held || len(boots(service)) != 1 {
					t.Errorf("%+v, %v: sent %v", next, err, boots(service))
				}
			}},
		{"sushy: PowerCycle is allowed and not implemented, 501", "measured, sushy-emulator 2.2.0 --fake", "sushy", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := errors.Join(c.Do(t.Context(), PowerOn), c.Do(t.Context(), Cycle)); err != nil {
					t.Fatal(err)
				}
				if got := resets(service); !slices.Equal(got, []string{"On", "PowerCycle", "ForceRestart"}) {
					t.Errorf("sent %v", got)
				}
			}},
		{"sushy: virtual media 404 under the manager, 200 under the system", "measured, sushy-emulator 2.2.0 --fake", "sushy", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if err := c.Insert(t.Context(), isoURL); err != nil || service.Resource(service.Drive())["Image"] != isoURL {
					t.Errorf("%v: the drive is %v", err, service.Resource(service.Drive()))
				}
			}},
		{"sushy: HttpBootUri reads \"None\"; UefiHttp goes without", "measured, sushy-emulator 2.2.0 --fake", "sushy", nil,
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if _, err := c.Set(t.Context(), Boot{Device: NetworkHTTP, UEFI: true}); err != nil || boots(service)[0]["HttpBootUri"] != nil {
					t.Errorf("%v: sent %v", err, boots(service))
				}
			}},
		{"a HttpBootUri of an earlier boot is taken back", "NVIDIA/libredfish PR#74", "supermicro",
			func(service *bmctest.Redfish) {
				service.Change(service.System(), func(r map[string]any) { r["Boot"].(map[string]any)["HttpBootUri"] = "http://192.0.2.9/old.efi" })
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if _, err := c.Set(t.Context(), Boot{Device: NetworkHTTP, UEFI: true}); err != nil || boots(service)[0]["HttpBootUri"] != "" {
					t.Errorf("%v: sent %v", err, boots(service))
				}
			}},
		{"the ETag changed between reading and writing: once more", "DSP0266 section 6.5", "xcc",
			func(service *bmctest.Redfish) {
				first := true
				service.Hook = func(_ http.ResponseWriter, r bmctest.Request) bool {
					if r.Method == http.MethodPatch && first {
						first = false
						service.Change(service.System(), func(map[string]any) {})
					}
					return false
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if _, err := c.Set(t.Context(), uefi); err != nil || len(boots(service)) != 2 {
					t.Errorf("%v: sent %v", err, boots(service))
				}
			}},
		{"its own ETag never matches: without", "gofish DisableEtagMatch", "xcc",
			func(service *bmctest.Redfish) {
				service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
					if r.IfMatch != "" {
						bmctest.Refuse(w, http.StatusPreconditionFailed, "Base.1.4.PreconditionFailed", "")
					}
					return r.IfMatch != ""
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) {
				if next, err := c.Set(t.Context(), uefi); err != nil || next.Device != Network {
					t.Errorf("%+v, %v", next, err)
				}
			}},
		{"all sessions are taken: the password in each request", "few sessions, facts section 1.2", "xcc",
			func(service *bmctest.Redfish) {},
			func(t *testing.T, _ *Redfish, service *bmctest.Redfish) {
				c := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/Sessions") {
						bmctest.Refuse(w, http.StatusServiceUnavailable, "Base.1.4.SessionLimitExceeded", "too many sessions")
						return
					}
					service.ServeHTTP(w, r)
				}))
				if _, err := c.Power(t.Context()); err != nil {
					t.Error(err)
				}
			}},
		{"a field of another type than the standard's costs that field only", "every list of bugs", "xcc",
			func(service *bmctest.Redfish) {
				service.View = func(path string, r map[string]any) {
					if path == service.System() {
						r["UUID"], r["Model"], r["SerialConsole"], r["HostName"] = 7, []string{"a"}, "none", map[string]any{}
					}
				}
			},
			func(t *testing.T, c *Redfish, service *bmctest.Redfish) { startsOnce(t, c, service, uefi, "Pxe") }},
	} {
		t.Run(q.name, func(t *testing.T) {
			service, c := startKind(t, q.kind)
			if q.prepare != nil {
				q.prepare(service)
			}
			q.do(t, c, service)
			if open, _ := service.Sessions(); open != 0 {
				t.Errorf("%d sessions are left", open)
			}
		})
	}
}

// allow sets the reset types that a service says it allows.
func allow(service *bmctest.Redfish, kinds ...string) {
	service.Change(service.System(), func(r map[string]any) {
		r["Actions"].(map[string]any)["#ComputerSystem.Reset"].(map[string]any)["ResetType@Redfish.AllowableValues"] = kinds
	})
}

// startsFrom boots the virtual drive once, and looks what the server started from, then and the time after.
func startsFrom(t *testing.T, c *Redfish, service *bmctest.Redfish, want string) {
	t.Helper()
	startsOnce(t, c, service, Boot{Device: VirtualCD, UEFI: true}, want)
}

func startsOnce(t *testing.T, c *Redfish, service *bmctest.Redfish, b Boot, want string) {
	t.Helper()
	_, err := c.Start(t.Context(), b)
	if err := errors.Join(err, c.Do(t.Context(), Cycle)); err != nil {
		t.Fatal(err)
	}
	if got := service.Starts(); !slices.Equal(got, []string{want, ""}) {
		t.Errorf("started from %q", got)
	}
}
