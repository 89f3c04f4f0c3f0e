package ticket

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// MDT makes an inv32.xml of the query of a monitoring event, the HTTP GET that
// MDT's task sequences send (ZTIUtility.vbs: dartIP, dartPort and dartTicket, each
// empty where DaRT does not run). ok is false for an event without a ticket.
// Scripts of the field give lists with commas; a port that is missing is the last one's.
func MDT(q url.Values) (raw []byte, ok bool) {
	code := strings.TrimSpace(first(q, "dartTicket"))
	if code == "" {
		return nil, false
	}
	var doc wireInvitation
	doc.A.ID = code
	ports := split(first(q, "dartPort"))
	for i, host := range split(first(q, "dartIP")) {
		l := wireListener{N: host}
		if len(ports) > 0 {
			l.P = ports[min(i, len(ports)-1)]
		}
		doc.C.T.L = append(doc.C.T.L, l)
	}
	raw, err := xml.Marshal(doc)
	return raw, err == nil
}

// wireInvitation is an inv32.xml with as much in it as a monitoring event says.
type wireInvitation struct {
	XMLName xml.Name `xml:"E"`
	A       struct {
		ID string `xml:"ID,attr"`
	}
	C struct {
		T struct{ L []wireListener }
	}
}

type wireListener struct {
	P string `xml:"P,attr,omitempty"`
	N string `xml:"N,attr"`
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", ;", r) })
}

// first is a value of a query by its name in any case: MDT's service takes them
// so, and not all scripts spell them alike. Of several spellings MDT's own counts, else the
// first by the alphabet, each time that it is asked for.
func first(q url.Values, name string) string {
	for _, key := range append([]string{name}, slices.Sorted(maps.Keys(q))...) {
		if values := q[key]; strings.EqualFold(key, name) && len(values) > 0 && values[0] != "" {
			return values[0]
		}
	}
	return ""
}

// guidForm is a GUID as Windows writes it.
var guidForm = regexp.MustCompile(`^\{?[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}?$`)

// MDTReply is the answer that MDT's scripts expect to any monitoring event: the
// XML of a WCF service (application/xml) whose document element's text is the GUID by
// which they call themselves from then on (ZTIUtility.vbs keeps it as LTIGUID).
// Without it they stop with an error.
func MDTReply(q url.Values) string {
	id := first(q, "uniqueID")
	if !guidForm.MatchString(id) {
		id = newGUID()
	}
	return `<string xmlns="http://schemas.microsoft.com/2003/10/Serialization/">` + id + `</string>`
}

// newGUID is a random UUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// MDTNote is the line of the timeline for a monitoring event, "" for one that
// says nothing. Neither the ticket nor its address is in it.
func MDTNote(q url.Values) string {
	note := cmp.Or(clean(first(q, "message")), clean(first(q, "stepName")))
	if note == "" {
		return ""
	}
	if code := clean(first(q, "dartTicket")); code != "" {
		note = strings.ReplaceAll(note, code, "(ticket)")
	}
	if at, of := number(first(q, "currentStep")), number(first(q, "totalSteps")); at != "" && of != "" {
		note += " (step " + at + " of " + of + ")"
	}
	return severities[first(q, "severity")] + note
}

// severities are the words for those of MDT that need one.
var severities = map[string]string{"2": "warning: ", "3": "error: "}

// number is a short decimal number, or "".
func number(s string) string {
	if len(s) > 6 || len(bytes.Trim([]byte(s), "0123456789")) > 0 {
		return ""
	}
	return s
}
