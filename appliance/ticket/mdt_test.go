package ticket

import (
	"encoding/xml"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// event is a monitoring event's query as MDT and its successors send it.
func event(t testing.TB, query string) url.Values {
	t.Helper()
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// mdtEvent is what ZTIUtility.vbs sends while DaRT runs.
const mdtEvent = "uniqueID=&computerName=MINWINPC&messageID=41001&severity=1&stepName=Gather&currentStep=3&totalSteps=120" +
	"&id=4C4C4544-0042-3510-8054-B4C04F564432,52:54:00:12:34:56&message=Beginning%20deployment.&dartIP=192.168.77.100&dartPort=49161&dartTicket=118-497-589&vmHost=&vmName="

func TestMDT(t *testing.T) {
	for name, c := range map[string]struct {
		query string
		want  []netip.AddrPort
		ok    bool
	}{
		"MDT":               {mdtEvent, ports(t, "192.168.77.100:49161"), true},
		"lists":             {"dartIP=10.0.0.1,%20fd00::1&dartPort=1,2&dartTicket=118-497-589", ports(t, "10.0.0.1:1", "[fd00::1]:2"), true},
		"one port":          {"dartIP=10.0.0.1,10.0.0.2&dartPort=3389&dartTicket=118-497-589", ports(t, "10.0.0.1:3389", "10.0.0.2:3389"), true},
		"another case":      {"DartIp=10.0.0.1&DARTPORT=1&darTticKet=+118-497-589+", ports(t, "10.0.0.1:1"), true},
		"markup in a value": {"dartIP=%22/%3e%3cA+ID=%22x&dartIP=1.1.1.1&dartPort=1&dartTicket=118-497-589", nil, true},
		"no address":        {"dartIP=&dartPort=&dartTicket=118-497-589", nil, true},
		"no ticket":         {strings.Replace(mdtEvent, "118-497-589", "", 1), nil, false},
		"PSD":               {"uniqueID=x&computerName=PC&messageID=41016&id=x,y&message=m&dartIP=&dartPort=&dartTicket=&vmHost=NA&vmName=PC", nil, false},
		"nothing":           {"", nil, false},
	} {
		raw, ok := MDT(event(t, c.query))
		if ok != c.ok {
			t.Errorf("%s: ok is %t", name, ok)
		}
		if !ok {
			continue
		}
		i, err := ParseInvitation(raw)
		if c.want == nil {
			if len(i.Listeners) != 0 {
				t.Errorf("%s: %v", name, i.Listeners)
			}
			continue
		}
		if d := cmp.Diff(Invitation{Code: "118-497-589", Listeners: c.want}, i, sameAddr); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
}

func TestMDTReply(t *testing.T) {
	text := func(q string) string {
		var doc struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte(MDTReply(event(t, q))), &doc); err != nil || doc.XMLName.Space != "http://schemas.microsoft.com/2003/10/Serialization/" {
			t.Errorf("%v: %v", err, doc.XMLName)
		}
		return doc.Text
	}
	const id = "8f1e2d3c-0000-4a5b-9c6d-7e8f90a1b2c3"
	if got := text("uniqueID=" + id); got != id {
		t.Errorf("its own id comes back as %s", got)
	}
	a, b := text("uniqueID="), text("uniqueID=%3C/string%3E")
	if a == b || !guidForm.MatchString(a) || !guidForm.MatchString(b) {
		t.Errorf("new ids %s, %s", a, b)
	}
}

func TestMDTNote(t *testing.T) {
	for query, want := range map[string]string{
		mdtEvent: "Beginning deployment. (step 3 of 120)",
		"severity=3&message=Litetouch+failed+118-497-589%0a%1b[1m&dartTicket=118-497-589": "error: Litetouch failed (ticket)[1m",
		"severity=2&stepName=Apply&currentStep=x&totalSteps=2":                            "warning: Apply",
		"messageID=41016":                       "",
		"stepName=" + strings.Repeat("x", 1000): strings.Repeat("x", maxText),
	} {
		if got := MDTNote(event(t, query)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Where a name comes in two spellings one of them counts, each time the same: the note does not
// show the ticket that was taken.
func TestMDTTakesOneOfTwoSpellings(t *testing.T) {
	q := event(t, "dartTicket=118-497-589&DARTTICKET=222-333-444&dartIP=10.0.0.1&dartPort=1&message=118-497-589")
	for range 50 {
		raw, _ := MDT(q)
		i, err := ParseInvitation(raw)
		if err != nil || i.Code != dartCode || MDTNote(q) != "(ticket)" {
			t.Fatalf("%v: taken %s, and the note is %q", err, i.Code, MDTNote(q))
		}
	}
}

// FuzzMDT: no query makes anything else than one ticket's XML, and the note
// never has the ticket in it.
func FuzzMDT(f *testing.F) {
	f.Add(mdtEvent)
	f.Add("dartTicket=%22%3E&dartIP=a,b;c&dartPort=,&message=%22%3e")
	f.Fuzz(func(t *testing.T, query string) {
		q, _ := url.ParseQuery(query)
		if err := xml.Unmarshal([]byte(MDTReply(q)), new(struct{})); err != nil {
			t.Fatal(err)
		}
		code := strings.TrimSpace(first(q, "dartTicket"))
		if len(code) > 6 && strings.Contains(MDTNote(q), code) && !strings.Contains("(ticket)(step of )warning: error: ", code) {
			t.Fatalf("note %q has the ticket", MDTNote(q))
		}
		if raw, ok := MDT(q); ok {
			if i, err := ParseInvitation(raw); err == nil && i.Code != code {
				t.Fatalf("ticket %q became %q", code, i.Code)
			}
		}
	})
}
