package httpboot

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Tickets takes what DaRT, or a script in its place, brings. A token may be
// empty: whether that is enough is theirs to say. An error that is a
// *boot.Refusal is told to the machine; one that also has a method RetryAfter()
// time.Duration tells it to come again.
type Tickets interface {
	// Ticket takes an inv32.xml as it came: at most 64 KiB.
	Ticket(token string, from netip.Addr, raw []byte) error
	// MDT takes MDT's monitoring event, and gives the XML document that is its answer.
	MDT(from netip.Addr, q url.Values) (reply string, err error)
	// Say takes a line for the timeline: plain text, at most 4 KiB.
	Say(token string, from netip.Addr, text string) error
}

const (
	maxSaying = 4 << 10
	maxForm   = 8 << 10 // around the file of a form
	maxFields = 16      // of a form
)

// ticketing is the handler for what brings tickets; nil for every other
// request. An inv32.xml may be sent to any path that ends in its name, which is
// what `curl -T inv32.xml http://box/` makes of it.
func (v *service) ticketing(r *http.Request) handler {
	switch p := strings.ToLower(r.URL.Path); {
	case p == "/agent/ticket":
		return v.ticket
	case path.Base(p) == "inv32.xml" && (r.Method == http.MethodPut || r.Method == http.MethodPost):
		return v.ticket
	case p == "/" && r.Method == http.MethodPost: // curl -F file=@inv32.xml http://box/
		return v.ticket
	case p == "/agent/say":
		return v.say
	case p == "/mdtmonitorevent/postevent": // IIS takes names in any case
		return v.mdtEvent
	case p == "/mdtmonitorevent/getsettings":
		return v.mdtSettings
	}
	return nil
}

func (v *service) ticket(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		return refuseMethod(w, r, "tickets are for PUT or POST", "PUT, POST")
	}
	raw, no := v.upload(w, r, c)
	if no == nil && len(raw) == 0 {
		no = &badBody{http.StatusBadRequest, "the ticket is empty"}
	}
	if no != nil {
		return refuse(w, r, no.status, no.reason, "")
	}
	return v.taken(w, r, c, v.Tickets.Ticket(bearer(r), c.from, raw))
}

// upload is the file that a request brings: its body, or the file of its form
// (curl -F, WebClient.UploadFile). Other types say nothing: curl --data-binary
// and wget --post-file call every file a form of a page.
func (v *service) upload(w http.ResponseWriter, r *http.Request, c *conn) ([]byte, *badBody) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return v.read(w, r, c, maxReport, "the ticket")
	}
	form, no := v.read(w, r, c, maxReport+maxForm, "the form")
	if no != nil {
		return nil, no
	}
	return fileOf(multipart.NewReader(bytes.NewReader(form), params["boundary"]))
}

// fileOf is a form's file, or its first field that is not empty: curl -F
// inv32=<inv32.xml sends the file as a field.
func fileOf(form *multipart.Reader) (file []byte, no *badBody) {
	for range maxFields {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, &badBody{http.StatusBadRequest, "the form cannot be read"}
		}
		data, err := io.ReadAll(io.LimitReader(part, maxReport+1))
		switch {
		case err != nil:
			return nil, &badBody{http.StatusBadRequest, "the form cannot be read"}
		case len(data) > maxReport:
			return nil, &badBody{http.StatusRequestEntityTooLarge, "the ticket has more than 65536 bytes"}
		case part.FileName() != "":
			return data, nil
		case len(file) == 0:
			file = data
		}
	}
	return file, nil
}

func (v *service) say(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodPost {
		return refuseMethod(w, r, "lines for the timeline are for POST", "POST")
	}
	line, no := v.read(w, r, c, maxSaying, "the line")
	if no == nil && strings.TrimSpace(string(line)) == "" {
		no = &badBody{http.StatusBadRequest, "the line is empty"}
	}
	if no != nil {
		return refuse(w, r, no.status, no.reason, "")
	}
	said := ticketNumber.ReplaceAllString(strings.ToValidUTF8(string(line), "\uFFFD"), "(ticket)")
	return v.taken(w, r, c, v.Tickets.Say(bearer(r), c.from, said))
}

// ticketNumber is the form of DaRT's: viewers who may not have it read timelines.
var ticketNumber = regexp.MustCompile(`[0-9]{3}-[0-9]{3}-[0-9]{3}`)

// mdtEvent answers as the monitoring service of the Microsoft Deployment Toolkit does.
func (v *service) mdtEvent(w http.ResponseWriter, r *http.Request, c *conn) string {
	if r.Method != http.MethodGet {
		return refuseMethod(w, r, "monitoring events are for GET", "GET")
	}
	reply, err := v.Tickets.MDT(c.from, r.URL.Query())
	if err != nil {
		return v.refuseAgent(w, r, c, err)
	}
	return answer(w, r, http.StatusOK, "application/xml; charset=utf-8", reply)
}

// mdtSettings tells MDT's scripts that there are no settings for them here.
func (v *service) mdtSettings(w http.ResponseWriter, r *http.Request, _ *conn) string {
	if r.Method != http.MethodGet {
		return refuseMethod(w, r, "settings are for GET", "GET")
	}
	return answer(w, r, http.StatusOK, "application/xml; charset=utf-8", "<Settings />")
}
