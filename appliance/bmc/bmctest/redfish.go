// Package bmctest has controllers for tests: a Redfish service of one server, in the
// manner of the makers that it knows, with their refusals.
package bmctest

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// vendors has what each maker's service shows, in the shape of the facts known about it.
//
//go:embed vendors/*.json
var vendors embed.FS

// Machine is the server behind a controller. A power cycle is off and on.
type Machine interface {
	// Power switches it. boot is what it starts from: a BootSourceOverrideTarget, or "".
	// cd is the address of what is in its virtual drive, or "".
	Power(on bool, boot, cd string) error
}

// Request is one that the service got.
type Request struct {
	Method, Path string
	Body         map[string]any
	IfMatch      string
}

// Redfish is a Redfish service.
type Redfish struct {
	User, Password string  // "" lets everybody in
	Machine        Machine // nil is one that does as it is told
	// Hook sees each request after the login, and may answer it itself: true ends it.
	Hook func(w http.ResponseWriter, r Request) bool
	// View may change a resource before it is shown; it must not ask the service for anything.
	View func(path string, resource map[string]any)

	mu        sync.Mutex
	kind      kind
	resources map[string]map[string]any
	versions  map[string]int // of resources, for their ETags
	sessions  map[string]bool
	opened    int
	requests  []Request
	starts    []string
}

// New is the service of a kind: ilo, idrac, xcc, supermicro, ami or sushy. User and password
// are "rescue" and "secret12".
func New(name string) (*Redfish, error) {
	raw, err := vendors.ReadFile("vendors/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("no service %q", name)
	}
	r := &Redfish{User: "rescue", Password: "secret12", kind: kinds[name], versions: map[string]int{}, sessions: map[string]bool{}}
	return r, json.Unmarshal(raw, &r.resources)
}

// Requests are those that the service got after the login.
func (r *Redfish) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Starts are what the server has started from, "" being as its setup says.
func (r *Redfish) Starts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.starts)
}

// Sessions are how many are open, and how many ever were.
func (r *Redfish) Sessions() (open, ever int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions), r.opened
}

// Resource is one as it is now; nil is none.
func (r *Redfish) Resource(path string) map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.resources[path])
}

// Add adds a resource, or puts it in another's place.
func (r *Redfish) Add(path string, resource map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resources[path] = resource
}

// Change changes a resource behind the clients' backs.
func (r *Redfish) Change(path string, change func(map[string]any)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r.resources[path])
	r.versions[path]++
}

// System is the path of the system.
func (r *Redfish) System() string { return r.first("#ComputerSystem.v", "Actions") }

// Drive is the path of the drive that takes images.
func (r *Redfish) Drive() string { return r.kind.drive }

func (r *Redfish) first(kind, has string) string {
	for _, path := range slices.Sorted(maps.Keys(r.resources)) {
		resource := r.resources[path]
		if t, _ := resource["@odata.type"].(string); strings.HasPrefix(t, kind) && resource[has] != nil {
			return path
		}
	}
	return ""
}

// no is an answer that refuses.
type no struct {
	status int
	id     string
	said   string
}

func (n *no) Error() string { return n.said }

func refuse(status int, id, said string) error { return &no{status, id, said} }

// Refuse writes an error answer as the standard has it.
func Refuse(w http.ResponseWriter, status int, id, said string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": "Base.1.4.GeneralError", "message": "See ExtendedInfo",
		"@Message.ExtendedInfo": []any{map[string]any{"MessageId": id, "Message": said}}}})
}

// ServeHTTP is the service.
func (r *Redfish) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	one := Request{Method: req.Method, Path: strings.TrimSuffix(req.URL.Path, "/"), IfMatch: req.Header.Get("If-Match")}
	if one.Path == "/redfish/v1" {
		one.Path = "/redfish/v1/"
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &one.Body); err != nil {
			Refuse(w, http.StatusBadRequest, "Base.1.4.MalformedJSON", "malformed")
			return
		}
	}
	if one.Path == "/redfish/v1/SessionService/Sessions" && one.Method == http.MethodPost && !r.kind.noSessions {
		r.login(w, one)
		return
	}
	if one.Path != "/redfish/v1/" && !r.knows(req) {
		Refuse(w, http.StatusUnauthorized, "Base.1.4.NoValidSession", "no valid session")
		return
	}
	if token, ok := strings.CutPrefix(one.Path, "/redfish/v1/SessionService/Sessions/"); ok && one.Method == http.MethodDelete {
		r.mu.Lock()
		delete(r.sessions, token)
		r.mu.Unlock()
		return
	}
	r.mu.Lock()
	r.requests = append(r.requests, one)
	r.mu.Unlock()
	if r.Hook != nil && r.Hook(w, one) {
		return
	}
	r.serve(w, one, bytes.TrimSpace(body))
}

func (r *Redfish) login(w http.ResponseWriter, one Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
	if one.Body["UserName"] != r.User || one.Body["Password"] != r.Password {
		if r.kind.loginRefusal != nil {
			r.kind.loginRefusal(w)
			return
		}
		Refuse(w, http.StatusUnauthorized, "Base.1.4.ResourceAtUriUnauthorized", fmt.Sprintf("user %v with password %v may not", one.Body["UserName"], one.Body["Password"]))
		return
	}
	token := fmt.Sprintf("session-%d", r.opened)
	r.sessions[token] = true
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/"+token)
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, `{"@odata.id":"/redfish/v1/SessionService/Sessions/`+token+`"}`)
}

// knows reports whether a request has a session's token, or the password.
func (r *Redfish) knows(req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, password, ok := req.BasicAuth()
	return r.User == "" || r.sessions[req.Header.Get("X-Auth-Token")] || ok && user == r.User && password == r.Password
}

func (r *Redfish) serve(w http.ResponseWriter, one Request, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := refuse(http.StatusMethodNotAllowed, "Base.1.4.OperationNotAllowed", "not allowed")
	switch resource, found := r.resources[one.Path]; {
	case found && one.Method == http.MethodGet:
		r.show(w, one.Path, resource)
		return
	case found && one.Method == http.MethodPatch:
		err = r.patch(one, resource)
	case one.Method == http.MethodPost && strings.HasSuffix(one.Path, "/Actions/ComputerSystem.Reset"):
		err = r.reset(one)
	case one.Method == http.MethodPost && strings.Contains(one.Path, "/Actions/VirtualMedia."):
		err = r.media(one, body)
	case !found:
		err = refuse(http.StatusNotFound, "Base.1.4.ResourceMissingAtURI", "there is no "+one.Path)
	}
	var n *no
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.As(err, &n):
		Refuse(w, n.status, n.id, n.said)
	default:
		Refuse(w, http.StatusInternalServerError, "Base.1.4.InternalError", err.Error())
	}
}

func (r *Redfish) etag(path string) string { return fmt.Sprintf(`"%d"`, r.versions[path]+1000) }

func (r *Redfish) show(w http.ResponseWriter, path string, resource map[string]any) {
	raw, _ := json.Marshal(resource)
	var copied map[string]any
	json.Unmarshal(raw, &copied)
	if r.kind.view != nil {
		r.kind.view(copied)
	}
	if r.View != nil {
		r.View(path, copied)
	}
	w.Header().Set("ETag", r.etag(path))
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(copied)
}

// patch changes what is given, objects within objects.
func (r *Redfish) patch(one Request, resource map[string]any) error {
	if one.IfMatch != "" && one.IfMatch != "*" && one.IfMatch != r.etag(one.Path) {
		return refuse(http.StatusPreconditionFailed, "Base.1.4.PreconditionFailed", "the ETag does not match")
	}
	if one.IfMatch == "" && r.kind.needsMatch {
		return refuse(http.StatusPreconditionRequired, "Base.1.4.PreconditionRequired", "an ETag is needed")
	}
	if r.kind.patch != nil {
		if err := r.kind.patch(one); err != nil {
			return err
		}
	}
	r.versions[one.Path]++
	merge(resource, one.Body)
	if _, ok := one.Body["Image"]; ok || one.Body["Inserted"] != nil {
		if inserted, _ := resource["Inserted"].(bool); inserted && resource["Image"] != nil {
			resource["ConnectedVia"] = "URI"
		} else {
			resource["ConnectedVia"] = "NotConnected"
		}
	}
	return nil
}

func merge(into, from map[string]any) {
	for k, v := range from {
		a, isMap := into[k].(map[string]any)
		b, also := v.(map[string]any)
		if isMap && also {
			merge(a, b)
			continue
		}
		into[k] = v
	}
}

// reset is ComputerSystem.Reset.
func (r *Redfish) reset(one Request) error {
	path := strings.TrimSuffix(one.Path, "/Actions/ComputerSystem.Reset")
	system := r.resources[path]
	if system == nil {
		return refuse(http.StatusNotFound, "Base.1.4.ResourceMissingAtURI", "there is no such system")
	}
	kind, _ := one.Body["ResetType"].(string)
	on := system["PowerState"] == "On"
	if r.kind.reset != nil {
		if err := r.kind.reset(kind, on); err != nil {
			return err
		}
	}
	switch kind {
	case "On", "ForceOn":
		return r.power(path, true)
	case "ForceOff", "GracefulShutdown":
		return r.power(path, false)
	case "PushPowerButton":
		return r.power(path, !on)
	case "ForceRestart", "GracefulRestart", "PowerCycle":
		if err := r.power(path, false); err != nil {
			return err
		}
		return r.power(path, true)
	}
	return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterValueNotInList", "ResetType "+kind)
}

// power switches the machine; a start eats the override.
func (r *Redfish) power(path string, on bool) error {
	system := r.resources[path]
	if (system["PowerState"] == "On") == on {
		return nil
	}
	boot := ""
	if on {
		boot = r.override(path)
		r.starts = append(r.starts, boot)
	}
	if r.Machine != nil {
		if err := r.Machine.Power(on, boot, r.inserted()); err != nil {
			return err
		}
	}
	system["PowerState"] = map[bool]string{true: "On", false: "Off"}[on]
	r.versions[path]++
	return nil
}

// override takes what is set for one start; the settings resource's counts where there is one.
func (r *Redfish) override(path string) string {
	from := path
	if r.resources[path+"/SD"] != nil {
		from = path + "/SD"
	}
	if a := r.resources[r.kind.attributes]; a != nil {
		attributes := a["Attributes"].(map[string]any)
		if attributes["ServerBoot.1.BootOnce"] == "Enabled" {
			attributes["ServerBoot.1.BootOnce"] = "Disabled"
			return fmt.Sprint(attributes["ServerBoot.1.FirstBootDevice"])
		}
	}
	boot, _ := r.resources[from]["Boot"].(map[string]any)
	target, _ := boot["BootSourceOverrideTarget"].(string)
	if target == "None" || boot["BootSourceOverrideEnabled"] != "Once" {
		return ""
	}
	boot["BootSourceOverrideEnabled"], boot["BootSourceOverrideTarget"] = "Disabled", "None"
	return target
}

// media is VirtualMedia.InsertMedia and EjectMedia.
func (r *Redfish) media(one Request, body []byte) error {
	path, action, _ := strings.Cut(one.Path, "/Actions/VirtualMedia.")
	drive := r.resources[path]
	if drive == nil || drive["Actions"] == nil {
		return refuse(http.StatusNotFound, "Base.1.4.ResourceMissingAtURI", "there is no such drive")
	}
	if action == "EjectMedia" && string(body) != "{}" {
		return refuse(http.StatusUnsupportedMediaType, "Base.1.4.MalformedJSON", "an object is wanted")
	}
	if r.kind.insert != nil && action == "InsertMedia" {
		if err := r.kind.insert(one); err != nil {
			return err
		}
	}
	image, _ := one.Body["Image"].(string)
	switch {
	case action == "InsertMedia" && image == "":
		return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterMissing", "Image is missing")
	case action == "InsertMedia" && drive["ConnectedVia"] != "NotConnected":
		return refuse(http.StatusBadRequest, "Base.1.4.ResourceInUse", "there is a medium in the drive")
	case action == "InsertMedia":
		drive["Image"], drive["ImageName"], drive["Inserted"], drive["ConnectedVia"] = image, image[strings.LastIndex(image, "/")+1:], true, "URI"
	default:
		drive["Image"], drive["Inserted"], drive["ConnectedVia"] = nil, false, "NotConnected"
		if !r.kind.keepsName {
			drive["ImageName"] = nil
		}
	}
	r.versions[path]++
	return nil
}

// inserted is the image in whichever drive has one.
func (r *Redfish) inserted() string {
	for _, resource := range r.resources {
		if image, ok := resource["Image"].(string); ok && resource["ConnectedVia"] != "NotConnected" {
			return image
		}
	}
	return ""
}
