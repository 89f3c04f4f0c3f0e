package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"rescuebox/appliance/bmc/bmctest"
)

// behind puts a fault before a maker's service. The fault answers, or returns false.
func behind(t *testing.T, kind string, fault func(w http.ResponseWriter, r *http.Request) bool) (*bmctest.Redfish, *Redfish) {
	t.Helper()
	service, err := bmctest.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	return service, serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r) {
			service.ServeHTTP(w, r)
		}
	}))
}

// drop ends the connection without an answer.
func drop(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

func isSystem(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/redfish/v1/Systems/") }

// What is bad ends in bounded time, with a reason, and without the password.
func TestRedfishFaults(t *testing.T) {
	for _, f := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  error
		says  string
	}{
		{"nothing is ever answered", func(w http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }, ErrSilent, ""},
		{"every connection is dropped", func(w http.ResponseWriter, r *http.Request) bool { drop(w); return true }, ErrSilent, ""},
		{"a page for people", func(w http.ResponseWriter, r *http.Request) bool {
			io.WriteString(w, "<html><body>Welcome to your switch</body></html>")
			return true
		}, nil, "no Redfish"},
		{"noise", func(w http.ResponseWriter, r *http.Request) bool {
			w.Write(bytes.Repeat([]byte{0x1b, '[', 0, 0xff}, 500))
			return true
		}, nil, "no Redfish"},
		{"a system of 10 MB", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				w.Write(append([]byte(`{"Name":"`), bytes.Repeat([]byte("a"), 10<<20)...))
			}
			return isSystem(r)
		}, nil, "larger than 4 MB"},
		{"a system without an end, packed", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				for range 1 << 10 {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
						break
					}
				}
			}
			return isSystem(r)
		}, nil, "larger than 4 MB"},
		{"a system that drips", func(w http.ResponseWriter, r *http.Request) bool {
			for isSystem(r) && r.Context().Err() == nil {
				fmt.Fprint(w, " ")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
			return isSystem(r)
		}, ErrSilent, ""},
		{"a system that ends too early", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				io.WriteString(w, `{"PowerState":"On","Boot":{`)
			}
			return isSystem(r)
		}, nil, "no Redfish: /redfish/v1/Systems/1"},
		{"a system that is a list", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				io.WriteString(w, `[1,2]`)
			}
			return isSystem(r)
		}, nil, "no Redfish: /redfish/v1/Systems/1"},
		{"no systems", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == systemsPath {
				io.WriteString(w, `{"Members":null}`)
			}
			return r.URL.Path == systemsPath
		}, ErrUnsupported, "no system"},
		{"redirected to another host", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				http.Redirect(w, r, "https://192.0.2.66/redfish/v1/Systems/1", http.StatusTemporaryRedirect)
			}
			return isSystem(r)
		}, nil, "another host"},
		{"redirected in a circle", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				http.Redirect(w, r, r.URL.Path, http.StatusFound)
			}
			return isSystem(r)
		}, nil, "redirects"},
		{"a link that makes the host a user name", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == systemsPath {
				io.WriteString(w, `{"Members":[{"@odata.id":"@192.0.2.66/redfish"}]}`)
			}
			return r.URL.Path == systemsPath
		}, nil, "no path"},
		{"busy for ever", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				bmctest.Refuse(w, http.StatusServiceUnavailable, "Base.1.4.ServiceTemporarilyUnavailable", "come back\x1b[2J later secret12")
			}
			return isSystem(r)
		}, nil, "come back [2J later (password)"},
		{"the user may not", func(w http.ResponseWriter, r *http.Request) bool {
			if isSystem(r) {
				bmctest.Refuse(w, http.StatusForbidden, "Base.1.4.InsufficientPrivilege", "insufficient privilege")
			}
			return isSystem(r)
		}, ErrRefused, "operator"},
	} {
		t.Run(f.name, func(t *testing.T) {
			_, c := behind(t, "xcc", f.fault)
			if errors.Is(f.want, ErrSilent) {
				c.pace.request = 2 * time.Second
			}
			begun := time.Now()
			state, err := c.Power(t.Context())
			if err == nil || state != Unknown || f.want != nil && !errors.Is(err, f.want) || !strings.Contains(err.Error(), f.says) {
				t.Errorf("%s, %v", state, err)
			}
			if took := time.Since(begun); took > 45*time.Second {
				t.Errorf("took %s", took)
			}
			if err != nil && (strings.Contains(err.Error(), "secret12") || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 600) {
				t.Errorf("%q", err)
			}
		})
	}
}

// The place for sessions is named before anybody has logged in, by whoever answers: it gets the password only
// if it is on the host itself.
func TestRedfishPasswordStays(t *testing.T) {
	var stolen atomic.Int64
	thief := serveTLS(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Add(1) }))
	for _, place := range []string{"@" + thief.address() + "/", ".evil/", "//" + thief.address() + "/", "https://" + thief.address() + "/"} {
		_, c := behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/redfish/v1/" {
				json.NewEncoder(w).Encode(map[string]any{"RedfishVersion": "1.6.0", "Links": map[string]any{"Sessions": map[string]string{"@odata.id": place}}})
			}
			return r.URL.Path == "/redfish/v1/"
		})
		if _, err := c.Power(t.Context()); strings.HasPrefix(place, "@") && !errors.Is(err, errAway) {
			t.Errorf("%s: %v", place, err)
		}
	}
	if stolen.Load() != 0 {
		t.Errorf("another host was asked %d times", stolen.Load())
	}
}

// Nobody there, and a caller who has no more time.
func TestRedfishNobody(t *testing.T) {
	c := &Redfish{Host: "127.0.0.1", Port: newPort(), User: "rescue", Password: fixed("secret12"), pace: quick}
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrSilent) {
		t.Errorf("got %v", err)
	}
	_, slow := behind(t, "ilo", func(w http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := slow.Do(ctx, PowerOn); !errors.Is(err, ErrSilent) {
		t.Errorf("got %v", err)
	}
}

// A question that is lost is asked again; a controller that is busy is waited for.
func TestRedfishLosesSome(t *testing.T) {
	var n atomic.Int64
	service, c := behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || r.URL.Path == "/redfish/v1/" || n.Add(1)%3 != 0 {
			return false
		}
		if n.Load()%2 == 0 {
			drop(w)
		} else {
			bmctest.Refuse(w, http.StatusServiceUnavailable, "", "busy")
		}
		return true
	})
	if _, err := c.Start(t.Context(), uefi); err != nil || !slices.Equal(service.Starts(), []string{"Pxe"}) {
		t.Errorf("%v: started from %q", err, service.Starts())
	}
}

// The medium of somebody else makes room for ours, but not that of a person at the remote console, when
// ours is ejected; and a drive that is empty is left alone.
func TestRedfishMedia(t *testing.T) {
	service, c := startKind(t, "ilo")
	if err := errors.Join(c.Insert(t.Context(), "http://192.0.2.7/other.iso"), c.Insert(t.Context(), isoURL), c.Insert(t.Context(), isoURL)); err != nil {
		t.Fatal(err)
	}
	if d := service.Resource(service.Drive()); d["Image"] != isoURL || len(inserts(service)) != 2 {
		t.Errorf("the drive is %v after %v", d, inserts(service))
	}
	service.Change(service.Drive(), func(d map[string]any) { d["ConnectedVia"] = byConsole })
	if err := c.Eject(t.Context()); err != nil || service.Resource(service.Drive())["Image"] != isoURL {
		t.Errorf("%v: somebody's own was taken away", err)
	}
	service.Change("/redfish/v1/Managers/1/VirtualMedia", func(r map[string]any) { r["Members"] = []any{} })
	if err := c.Insert(t.Context(), isoURL); !errors.Is(err, ErrUnsupported) {
		t.Errorf("there is no drive, and it says %v", err)
	}
}

// A command whose answer is lost is looked after, and never sent twice.
func TestRedfishHalfway(t *testing.T) {
	for _, a := range []Action{PowerOn, Cycle} {
		var service *bmctest.Redfish
		service, c := behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "Reset") {
				service.ServeHTTP(&deaf{}, r)
				drop(w)
				return true
			}
			return false
		})
		if a == Cycle {
			service.Change(service.System(), func(r map[string]any) { r["PowerState"] = "On" })
		}
		err := c.Do(t.Context(), a)
		switch {
		case a == PowerOn && err != nil:
			t.Errorf("on: %v, but it is on", err)
		case a == Cycle && (!errors.Is(err, ErrSilent) || !errors.Is(err, ErrHalfway)):
			t.Errorf("cycle: %v", err)
		}
		if got := resets(service); len(got) != 1 {
			t.Errorf("%s: sent %v", a, got)
		}
	}
}

// Off and on again is brought to its end, though the answer to off is lost, or nobody waits any more.
func TestRedfishLeavesOn(t *testing.T) {
	for _, answered := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var service *bmctest.Redfish
		var offs atomic.Int64
		service, c := behind(t, "xcc", func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "Reset") && offs.Add(1) == 1 && !answered:
				service.ServeHTTP(&deaf{}, r)
				drop(w)
				return true
			case answered && offs.Load() == 1 && r.Method == http.MethodGet:
				cancel() // the box stops while it waits for off
			}
			return false
		})
		service.Change(service.System(), func(r map[string]any) { r["PowerState"] = "On" })
		allow(service, "ForceOff", "On")
		err := c.Do(ctx, Cycle)
		if got := resets(service); !slices.Equal(got, []string{"ForceOff", "On"}) {
			t.Errorf("answered=%t: sent %v (%v)", answered, got, err)
		}
		if state, err := c.Power(t.Context()); state != On || err != nil {
			t.Errorf("answered=%t: power is %s, %v", answered, state, err)
		}
	}
}

// deaf is an answer that nobody hears.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (d *deaf) Write(b []byte) (int, error) { return len(b), nil }
func (d *deaf) WriteHeader(int)             {}

// A controller that says what is not so: the error says what it was told and what it says.
func TestRedfishLies(t *testing.T) {
	service, c := startKind(t, "xcc")
	service.View = func(path string, r map[string]any) {
		if r["PowerState"] != nil {
			r["PowerState"] = "Off"
		}
	}
	if _, err := c.Start(t.Context(), uefi); !errors.Is(err, ErrNotTaken) || !strings.Contains(err.Error(), "power is off") {
		t.Errorf("always off: %v", err)
	}
	service, c = startKind(t, "xcc")
	allow(service, "On", "ForceOff")
	service.View = func(path string, r map[string]any) {
		if r["PowerState"] != nil {
			r["PowerState"] = "On"
		}
	}
	if err := c.Do(t.Context(), Cycle); !errors.Is(err, ErrNotTaken) || service.Resource(service.System())["PowerState"] != "On" {
		t.Errorf("always on: %v; it was left %v", err, service.Resource(service.System())["PowerState"])
	}
	service, c = startKind(t, "xcc")
	service.View = func(path string, r map[string]any) {
		if boot, ok := r["Boot"].(map[string]any); ok {
			boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"] = "Hdd", "Once"
		}
	}
	if next, err := c.Start(t.Context(), uefi); !errors.Is(err, ErrNotTaken) || next.Device != Disk || len(service.Starts()) != 0 {
		t.Errorf("takes no override: %+v, %v; started from %q", next, err, service.Starts())
	}
	service, c = startKind(t, "xcc")
	service.View = func(path string, r map[string]any) { delete(r, "PowerState") }
	if state, err := c.Power(t.Context()); state != Unknown || err != nil {
		t.Errorf("says nothing of power: %s, %v", state, err)
	}
	service, c = startKind(t, "ilo")
	service.View = func(path string, r map[string]any) {
		if path == "/redfish/v1/Managers/1/VirtualMedia/2" {
			r["ConnectedVia"], r["Image"], r["Inserted"] = notConnected, nil, false
		}
	}
	if err := c.Insert(t.Context(), isoURL); err == nil {
		t.Error("the drive stays empty, and nothing is said")
	}
}

// Whatever a service answers, the client comes to an end without a panic, and repeats neither the password
// nor what steers a terminal.
func FuzzRedfish(f *testing.F) {
	for _, kind := range everyKind {
		service, _ := bmctest.New(kind)
		raw, _ := json.Marshal(service.Resource(service.System()))
		f.Add(200, raw)
	}
	f.Add(400, []byte(`{"error":{"code":"x","message":"secret12","@Message.ExtendedInfo":[{"MessageId":"a.b","Message":"no\u001b"}]}}`))
	f.Add(500, []byte("<html>"))
	f.Add(200, []byte(`{"Members":[{"@odata.id":"//evil"}],"Boot":5,"Actions":[]}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		s := &session{Redfish: &Redfish{Host: "bmc"}, password: "secret12"}
		var sys systemView
		if decode(bytes.NewReader(body), &sys) == nil {
			sys.link.ID = "/redfish/v1/Systems/1"
			_ = sys.power()
			_ = sys.Boot.next().String()
			for _, d := range []Device{Usual, Network, VirtualCD} {
				target, err := s.target(&sys, d)
				if err == nil && target != "" && len(shapes(&sys, target, Boot{Device: d}, s.maker)) == 0 {
					t.Error("no shape")
				}
			}
			for _, service := range services(makerOf(sys.Manufacturer), sys.services()) {
				if service.Port < 1 || service.Port > 65535 {
					t.Errorf("%+v", service)
				}
			}
			if path, err := s.local(sys.Actions.Reset.Target); err == nil && (!strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//")) {
				t.Errorf("%q", path)
			}
		}
		var d drive
		if decode(bytes.NewReader(body), &d) == nil && d.empty() && d.holds() {
			t.Errorf("%+v is empty and is not", d)
		}
		err := s.plain(schemas.ConstructError(status, body))
		if text := err.Error(); strings.Contains(text, "secret12") || strings.ContainsAny(text, "\n\r\x1b") {
			t.Errorf("%q", text)
		}
	})
}
