package admin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// document is the part of OpenAPI 3.1 that openapi.json uses.
type document struct {
	Paths      map[string]map[string]operation
	Components struct {
		Schemas   map[string]schema
		Responses map[string]response
	}
}

type operation struct {
	Summary     string
	Role        api.Role `json:"x-role"`
	Parameters  []struct{ Name, In string }
	RequestBody struct{ Content map[string]media }
	Responses   map[string]response
}

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]media
}

type media struct{ Schema schema }

// schema is the part of JSON Schema that openapi.json uses.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Description          string
	Format               string
	Enum                 []string
	Minimum              *int
	Properties           map[string]schema
	Required             []string
	Items                *schema
	AdditionalProperties *bool
}

func readDocument(t *testing.T) document {
	t.Helper()
	var d document
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// check says where a document is not what its schema wants.
func (d document) check(v any, s schema, at string) error {
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		target, ok := d.Components.Schemas[name]
		if !ok {
			return fmt.Errorf("%s: no schema %s", at, s.Ref)
		}
		return d.check(v, target, at)
	}
	switch v := v.(type) {
	case map[string]any:
		return d.checkObject(v, s, at)
	case []any:
		if s.Type != "array" {
			return fmt.Errorf("%s is an array, want %s", at, s.Type)
		}
		for i, e := range v {
			if err := d.check(e, *s.Items, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case string:
		return checkString(v, s, at)
	case bool:
		if s.Type != "boolean" {
			return fmt.Errorf("%s is a boolean, want %s", at, s.Type)
		}
		return nil
	case float64:
		if s.Type != "integer" || v != float64(int64(v)) {
			return fmt.Errorf("%s is the number %v, want %s", at, v, s.Type)
		}
		return nil
	}
	return fmt.Errorf("%s is %v, want %s", at, v, s.Type)
}

func (d document) checkObject(v map[string]any, s schema, at string) error {
	if s.Type != "object" {
		return fmt.Errorf("%s is an object, want %s", at, s.Type)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%s.%s is missing", at, name)
		}
	}
	for name, e := range v {
		p, known := s.Properties[name]
		if !known {
			if s.AdditionalProperties == nil || *s.AdditionalProperties {
				continue
			}
			return fmt.Errorf("%s.%s is not in the schema", at, name)
		}
		if err := d.check(e, p, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func checkString(v string, s schema, at string) error {
	if s.Type != "string" {
		return fmt.Errorf("%s is a string, want %s", at, s.Type)
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v) {
		return fmt.Errorf("%s is %q, which is none of %q", at, v, s.Enum)
	}
	if s.Format == "date-time" {
		if at0, err := time.Parse(time.RFC3339, v); err != nil || at0.IsZero() {
			return fmt.Errorf("%s is %q, which is no time", at, v)
		}
	}
	return nil
}

// checkAnswer compares a real answer with what the document says of it.
func (d document) checkAnswer(op operation, w *httptest.ResponseRecorder) error {
	r, ok := op.Responses[fmt.Sprint(w.Code)]
	if !ok {
		return fmt.Errorf("status %d is not in the document: %s", w.Code, w.Body)
	}
	if r.Ref != "" {
		r = d.Components.Responses[strings.TrimPrefix(r.Ref, "#/components/responses/")]
	}
	if r.Content == nil {
		if w.Body.Len() > 0 {
			return fmt.Errorf("status %d has a body that is not in the document: %s", w.Code, w.Body)
		}
		return nil
	}
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	m, ok := r.Content[kind]
	if !ok {
		return fmt.Errorf("Content-Type %q is not in the document", kind)
	}
	if kind != "application/json" {
		return nil
	}
	var v any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		return err
	}
	return d.check(v, m.Schema, "answer")
}

// The document has the server's routes, with their roles, and no others.
func TestDocumentRoutes(t *testing.T) {
	s := newSite(t)
	h, _ := s.handler(t)
	d := readDocument(t)
	var served, written []string
	for _, r := range h.routes() {
		served = append(served, r.method+" "+r.path+" "+string(r.role))
		op := d.Paths[r.path][strings.ToLower(r.method)]
		for part := range strings.SplitSeq(r.path, "/") {
			name := strings.Trim(part, "{}")
			if name != part && !slices.ContainsFunc(op.Parameters, func(p struct{ Name, In string }) bool { return p.Name == name && p.In == "path" }) {
				t.Errorf("%s %s: the parameter %s is not in the document", r.method, r.path, name)
			}
		}
	}
	for path, ops := range d.Paths {
		for method, op := range ops {
			written = append(written, strings.ToUpper(method)+" "+path+" "+string(op.Role))
		}
	}
	slices.Sort(served)
	slices.Sort(written)
	if !slices.Equal(served, written) {
		t.Errorf("served:\n%s\nwritten:\n%s", strings.Join(served, "\n"), strings.Join(written, "\n"))
	}
}

// Every field of the API's types is in the document, and no others.
func TestDocumentTypes(t *testing.T) {
	d := readDocument(t)
	types := []any{api.Error{}, api.Identity{}, api.Version{}, api.LAN{}, api.DHCP{}, api.Listener{}, api.Part{}, api.Order{}, api.Status{},
		api.Seen{}, api.Machine{}, api.Adopt{}, api.Lease{}, api.NewOrder{}, api.Event{}, api.Ticket{}, api.Relay{}, api.RelayEnd{}, api.Relays{}, api.PowerState{}, api.PowerAction{}, api.PowerDone{}, api.BMCAudit{}, api.BMCFinding{}, api.BMCTrust{}, api.ConsoleNotice{}, api.ConsoleFlushed{}, api.Notifications{},
		api.NotifyTarget{}, api.Notification{}, api.Delivery{}, api.TestNotification{}, api.File{}, api.Image{}, api.Windows{}, api.Library{},
		api.Verified{}, api.Finding{}, api.Diagnosis{}, api.Token{}, api.CreateToken{}, api.NewToken{}, api.AuditEntry{},
		api.Link{}, api.Uplink{}, api.VPN{}, api.LinkAction{}, api.LinkDrill{}, api.LinkReport{}, api.Modem{}, api.ModemData{}, api.Recovery{}, api.ModemReset{}, api.ModemAllow{}, api.TextMessage{}, api.NewTextMessage{}, api.Texting{}, api.Sender{}, api.Enroll{}, api.Enrolled{}}
	for _, v := range types {
		name := reflect.TypeOf(v).Name()
		s, ok := d.Components.Schemas[name]
		if !ok {
			t.Errorf("no schema %s", name)
			continue
		}
		all, required := jsonFields(reflect.TypeOf(v))
		if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, all) {
			t.Errorf("%s: the schema has %q, the type %q", name, got, all)
		}
		if got := slices.Sorted(slices.Values(s.Required)); !slices.Equal(got, required) {
			t.Errorf("%s: the schema requires %q, the type always has %q", name, got, required)
		}
	}
	if len(types) != len(d.Components.Schemas) {
		t.Errorf("%d schemas for %d types", len(d.Components.Schemas), len(types))
	}
}

// jsonFields names a type's fields in JSON, and those that are never left out.
func jsonFields(t reflect.Type) (all, required []string) {
	for _, f := range reflect.VisibleFields(t) {
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" {
			continue
		}
		all = append(all, name)
		if option != "omitempty" {
			required = append(required, name)
		}
	}
	slices.Sort(all)
	slices.Sort(required)
	return all, required
}

// Real answers, good and bad, of every route are what the document says.
func TestDocumentAnswers(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	d := readDocument(t)
	order, err := s.table.Arm("srv01", "rescue", "alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	s.table.Decide(boot.Client{MAC: srv01, Arch: boot.UEFIX64, Program: boot.Firmware, VendorClass: "PXEClient"})
	s.table.Decide(boot.Client{MAC: boot.MAC{2, 0, 0, 0, 0, 9}, Program: boot.Firmware})
	ticket := s.bringTicket(t, "srv01", order.ID)
	asked := map[string]bool{}
	for _, c := range []struct {
		route, path, body string
		want              int
	}{
		{"GET /openapi.json", "", "", 200},
		{"GET /metrics", "", "", 200},
		{"GET /v1/version", "", "", 200},
		{"GET /v1/whoami", "", "", 200},
		{"GET /v1/status", "", "", 200},
		{"GET /v1/machines", "", "", 200},
		{"GET /v1/machines/{name}", "/v1/machines/srv01", "", 200},
		{"GET /v1/machines/{name}", "/v1/machines/srv1", "", 404},
		{"POST /v1/machines", "", `{"name":"srv09","mac":"02-00-00-00-00-09"}`, 201},
		{"POST /v1/machines", "", `{"name":"srv09","mac":"02-00-00-00-00-09"}`, 409},
		{"POST /v1/machines", "", `{"name":"srv10","mac":"02:00:00:00:00:10"}`, 404},
		{"POST /v1/machines", "", `{"name":"a b","mac":"02:00:00:00:00:09"}`, 400},
		{"POST /v1/machines", "", `{"name":"a","mac":"zz"}`, 400},
		{"POST /v1/machines", "", `{"name":"a","mac":"02:00:00:00:00:09","uuid":"1"}`, 400},
		{"GET /v1/clients", "", "", 200},
		{"GET /v1/leases", "", "", 200},
		{"GET /v1/orders", "", "", 200},
		{"GET /v1/orders", "/v1/orders?max=0", "", 400},
		{"GET /v1/orders/{id}", "/v1/orders/" + order.ID, "", 200},
		{"GET /v1/orders/{id}", "/v1/orders/0", "", 404},
		{"GET /v1/orders/{id}/timeline", "/v1/orders/" + order.ID + "/timeline", "", 200},
		{"GET /v1/orders/{id}/timeline", "/v1/orders/0/timeline", "", 404},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","ttl":"1h","no_power":true}`, 201},
		{"POST /v1/orders", "", `{"machine":"srv2","image":"dart"}`, 404},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"drat"}`, 404},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"../x"}`, 409},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"ipxe"}`, 409},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","ttl":"8000h"}`, 409},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","ttl":"soon"}`, 400},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","token":"x"}`, 400},
		{"POST /v1/orders", "", `{"machine":"` + strings.Repeat("x", 70<<10) + `"}`, 413},
		{"DELETE /v1/machines/{name}/order", "/v1/machines/srv02/order", "", 200},
		{"DELETE /v1/machines/{name}/order", "/v1/machines/srv02/order", "", 409},
		{"DELETE /v1/machines/{name}/order", "/v1/machines/srv2/order", "", 404},
		{"GET /v1/events", "/v1/events?machine=srv2", "", 404},
		{"GET /v1/events", "/v1/events?order=0", "", 404},
		{"GET /v1/events", "/v1/events?after=-1", "", 400},
		{"GET /v1/tickets", "", "", 200},
		{"GET /v1/tickets/{id}", "/v1/tickets/" + ticket.ID, "", 200},
		{"GET /v1/tickets/{id}", "/v1/tickets/0", "", 404},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv01/connect", "", 426},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv1/connect", "", 404},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv02/connect", "", 404},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv01/connect?id=0", "", 404},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv01/connect?service=ipmi", "", 400},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv01/connect?for=-1h", "", 400},
		{"GET /v1/machines/{name}/power", "/v1/machines/srv01/power", "", 200},
		{"GET /v1/machines/{name}/power", "/v1/machines/srv01/power?by=switch", "", 200},
		{"GET /v1/machines/{name}/power", "/v1/machines/srv01/power?by=hand", "", 400},
		{"GET /v1/machines/{name}/power", "/v1/machines/srv02/power", "", 409},
		{"GET /v1/machines/{name}/power", "/v1/machines/srv1/power", "", 404},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv01/power", `{"action":"cycle"}`, 200},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv01/power", `{"action":"reset","by":"switch"}`, 409},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv01/power", `{"action":"soft"}`, 502},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv01/power", `{"action":"soft","by":"switch"}`, 409},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv01/power", `{"action":"explode"}`, 400},
		{"POST /v1/machines/{name}/power", "/v1/machines/srv1/power", `{"action":"on"}`, 404},
		{"POST /v1/machines/{name}/bmc/trust", "/v1/machines/srv01/bmc/trust", "", 200},
		{"POST /v1/machines/{name}/bmc/trust", "/v1/machines/srv01/bmc/trust?switch=true", "", 200},
		{"POST /v1/machines/{name}/bmc/trust", "/v1/machines/srv01/bmc/trust?switch=perhaps", "", 400},
		{"POST /v1/machines/{name}/bmc/trust", "/v1/machines/srv02/bmc/trust", "", 409},
		{"POST /v1/machines/{name}/bmc/trust", "/v1/machines/srv2/bmc/trust", "", 404},
		{"GET /v1/bmc/audit", "/v1/bmc/audit?machine=srv01&lan=true", "", 200},
		{"GET /v1/bmc/audit", "/v1/bmc/audit?machine=srv02", "", 409},
		{"GET /v1/bmc/audit", "/v1/bmc/audit?machine=srv2", "", 404},
		{"GET /v1/bmc/audit", "/v1/bmc/audit?lan=maybe", "", 400},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv01/connect?service=bmc", "", 426},
		{"GET /v1/machines/{name}/connect", "/v1/machines/srv02/connect?service=bmc", "", 409},
		{"POST /v1/orders", "", `{"machine":"srv01","image":"rescue","soft":true,"via":"media"}`, 201},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","soft":true}`, 409},
		{"POST /v1/orders", "", `{"machine":"srv02","image":"dart","via":"media"}`, 409},
		{"POST /v1/orders", "", `{"machine":"srv01","image":"dart","via":"floppy"}`, 400},
		{"POST /v1/orders", "", `{"machine":"srv01","image":"dart","soft":true,"no_power":true}`, 400},
		{"GET /v1/relays/{id}", "/v1/relays/0", "", 426},
		{"GET /v1/machines/{name}/console", "/v1/machines/srv01/console", "", 426},
		{"GET /v1/machines/{name}/console", "/v1/machines/srv1/console", "", 404},
		{"GET /v1/machines/{name}/console", "/v1/machines/srv01/console?mode=peek", "", 400},
		{"GET /v1/machines/{name}/console/log", "/v1/machines/srv01/console/log?lines=2", "", 200},
		{"GET /v1/machines/{name}/console/log", "/v1/machines/srv1/console/log", "", 404},
		{"GET /v1/machines/{name}/console/log", "/v1/machines/srv02/console/log", "", 409},
		{"GET /v1/machines/{name}/console/log", "/v1/machines/srv01/console/log?lines=-1", "", 400},
		{"GET /v1/notifications", "", "", 200},
		{"GET /v1/notifications", "/v1/notifications?max=0", "", 400},
		{"POST /v1/notifications/test", "", `{}`, 201},
		{"POST /v1/notifications/test", "", `{"target":"nobody"}`, 409},
		{"POST /v1/notifications/test", "", `{"to":"x"}`, 400},
		{"GET /v1/images", "", "", 200},
		{"GET /v1/images/{name}", "/v1/images/rescue", "", 200},
		{"GET /v1/images/{name}", "/v1/images/drat", "", 404},
		{"GET /v1/images/{name}", "/v1/images/%2e%2e%2fimages", "", 404},
		{"POST /v1/images/{name}/verify", "/v1/images/rescue/verify", "", 200},
		{"POST /v1/images/{name}/verify", "/v1/images/drat/verify", "", 404},
		{"DELETE /v1/images/{name}", "/v1/images/dart", "", 204},
		{"DELETE /v1/images/{name}", "/v1/images/dart", "", 404},
		{"DELETE /v1/images/{name}", "/v1/images/rescue", "", 409},
		{"GET /v1/doctor", "", "", 200},
		{"GET /v1/tokens", "", "", 200},
		{"POST /v1/tokens", "", `{"name":"bob","role":"viewer"}`, 201},
		{"POST /v1/tokens", "", `{"name":"bob","role":"king"}`, 400},
		{"POST /v1/tokens", "", `{"name":"","role":"viewer"}`, 400},
		{"POST /v1/tokens", "", `{"name":"bob","role":"viewer","ttl":"99999h"}`, 400},
		{"DELETE /v1/tokens/{id}", "/v1/tokens/" + h.keys.list()[0].ID + "0", "", 404},
		{"GET /v1/link", "", "", 200},
		{"POST /v1/link", "", `{"action":"fail","uplink":"wan","for":"1h"}`, 200},
		{"POST /v1/link", "", `{"action":"fail","uplink":"dsl"}`, 409},
		{"POST /v1/link", "", `{"action":"fail","uplink":"wan","for":"forever"}`, 400},
		{"POST /v1/link", "", `{"action":"cut"}`, 400},
		{"POST /v1/link/drill", "", `{}`, 200},
		{"POST /v1/link/drill", "", `{"for":"24h"}`, 400},
		{"GET /v1/modems", "", "", 200},
		{"POST /v1/modems/{name}/reset", "/v1/modems/lte/reset", "", 200},
		{"POST /v1/modems/{name}/reset", "/v1/modems/lte/reset", `{"rung":"usb"}`, 200},
		{"POST /v1/modems/{name}/reset", "/v1/modems/lte/reset", `{"rung":"hammer"}`, 409},
		{"POST /v1/modems/{name}/reset", "/v1/modems/lte/reset", `{"hammer":1}`, 400},
		{"POST /v1/modems/{name}/reset", "/v1/modems/e3372/reset", "", 404},
		{"POST /v1/modems/{name}/allow", "/v1/modems/lte/allow", `{"bytes":200000000}`, 200},
		{"POST /v1/modems/{name}/allow", "/v1/modems/lte/allow", `{}`, 200},
		{"POST /v1/modems/{name}/allow", "/v1/modems/lte/allow", `{"bytes":-1}`, 400},
		{"POST /v1/modems/{name}/allow", "/v1/modems/e3372/allow", `{}`, 404},
		{"GET /v1/texts", "", "", 200},
		{"GET /v1/texts", "/v1/texts?max=0", "", 400},
		{"POST /v1/texts", "", `{"to":"+79161234567","text":"hello"}`, 201},
		{"POST /v1/texts", "", `{"to":"+79161234567"}`, 400},
		{"GET /v1/texts/senders", "", "", 200},
		{"POST /v1/texts/senders", "", `{"number":"+79161234567"}`, 201},
		{"POST /v1/texts/senders", "", `{"number":"+79161234568"}`, 409},
		{"DELETE /v1/texts/senders/{number}", "/v1/texts/senders/+79161234567", "", 204},
		{"DELETE /v1/texts/senders/{number}", "/v1/texts/senders/+79161234568", "", 409},
		{"GET /v1/audit", "", "", 200},
		{"GET /v1/audit", "/v1/audit?max=x", "", 400},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		op := d.Paths[path][strings.ToLower(method)]
		if c.path != "" {
			path = c.path
		}
		w := ask(h, method, path, token[api.Admin], c.body)
		if w.Code != c.want {
			t.Errorf("%s %s %.60s: status %d, want %d: %s", method, path, c.body, w.Code, c.want, w.Body)
		}
		if err := d.checkAnswer(op, w); err != nil {
			t.Errorf("%s %s %.60s: %v", method, path, c.body, err)
		}
		if w.Code >= 400 {
			oneSentence(t, path, problemIn(t, w))
		}
		if c.want < 300 {
			asked[c.route] = true
		}
	}
	if w := ask(h, "DELETE", "/v1/tokens/"+h.keys.list()[0].ID, token[api.Admin], ""); w.Code == http.StatusNoContent {
		asked["DELETE /v1/tokens/{id}"] = true
	}
	asked["GET /v1/events"] = true                                                      // TestEvents
	asked["GET /v1/machines/{name}/connect"], asked["GET /v1/relays/{id}"] = true, true // TestConnect
	asked["GET /v1/machines/{name}/console"] = true                                     // TestConsole
	for _, r := range h.routes() {
		if !asked[r.method+" "+r.path] {
			t.Errorf("no good answer of %s %s was compared", r.method, r.path)
		}
	}
}

// oneSentence is what an error is: short, one line, no stack of wrapped texts.
func oneSentence(t *testing.T, path string, e api.Error) {
	t.Helper()
	if strings.ContainsAny(e.Message+e.Hint, "\n\r") || len(e.Message) > 200 {
		t.Errorf("%s: %q is not one sentence", path, e.Message)
	}
}

// The order's token never leaves, in no answer of the API.
func TestOrderTokenStays(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	order, err := s.table.Arm("srv01", "rescue", "alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range h.routes() {
		path := strings.NewReplacer("/orders/{id}", "/orders/"+order.ID, "{name}", "srv01").Replace(r.path)
		if r.method != "GET" || r.path == "/v1/events" || strings.Contains(path, "{") {
			continue
		}
		if w := ask(h, "GET", path, token[api.Admin], ""); strings.Contains(w.Body.String(), order.Token) {
			t.Errorf("GET %s shows the order's token", path)
		}
	}
	cancelled := ask(h, "DELETE", "/v1/machines/srv01/order", token[api.Admin], "")
	if cancelled.Code != http.StatusOK || strings.Contains(cancelled.Body.String(), order.Token) {
		t.Errorf("cancel: %d %s", cancelled.Code, cancelled.Body)
	}
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}
