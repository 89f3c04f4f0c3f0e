package ticket

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of an inv32.xml; an honest one has some hundred bytes, four levels,
// and with a certificate an attribute of some KiB.
const (
	maxDepth     = 16
	maxAttrs     = 64
	maxAttr      = 16 << 10
	maxListeners = 64
)

// Invitation is what inv32.xml says, checked. Its shape is that of MS-RAI
// 2.2.2, "Remote Assistance Connection String 2".
type Invitation struct {
	Code       string           // the ticket number: E/A@ID
	Listeners  []netip.AddrPort // where a plain TCP connection is taken, as listed
	Websockets []netip.AddrPort // where only a websocket is taken: L@U in place of L@P
	Named      []uint16         // the ports of plain listeners that have a host's name for address
}

// codeForm is what may stand in the admin's command line. DaRT's own are
// 118-497-589; those of other Remote Assistance programs are words or base64.
var codeForm = regexp.MustCompile(`^[A-Za-z0-9+/=][A-Za-z0-9+/=_.-]{0,255}$`)

// ParseInvitation reads inv32.xml in whichever encoding it comes. It comes from
// a hostile LAN: a document type (and with it every entity of its own), deep
// nesting and long attributes are refused; elements and attributes that are not
// known are left to newer versions. Errors never say what stands in the file.
func ParseInvitation(raw []byte) (Invitation, error) {
	if len(raw) > MaxReport {
		return Invitation{}, fmt.Errorf("inv32.xml has %d bytes, more than the %d of the largest one taken", len(raw), MaxReport)
	}
	var r invitationReader
	if err := r.read(decode(raw)); err != nil {
		return Invitation{}, err
	}
	i := r.Invitation
	switch {
	case !r.root:
		return Invitation{}, errors.New("inv32.xml has no element E: it is not what RemoteRecovery.exe writes")
	case i.Code == "":
		return Invitation{}, errors.New("inv32.xml has no ticket number")
	case !codeForm.MatchString(i.Code):
		return Invitation{}, errors.New("the ticket number of inv32.xml has not the form of one")
	case len(i.Listeners)+len(i.Websockets)+len(i.Named) == 0:
		return Invitation{}, errors.New("inv32.xml names no address with a port: RemoteRecovery.exe had no network when it wrote it")
	}
	return i, nil
}

// invitationReader collects what matters while the elements go by.
type invitationReader struct {
	Invitation
	root bool
	path []string
}

func (r *invitationReader) read(text []byte) error {
	dec := xml.NewDecoder(bytes.NewReader(text))
	// The text is UTF-8 by now, whatever its declaration says.
	dec.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	for {
		token, err := dec.Token()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return notXML(err)
		}
		switch e := token.(type) {
		case xml.Directive:
			return errors.New("inv32.xml has a document type: none is taken, since entities come with it")
		case xml.StartElement:
			if err := r.start(e); err != nil {
				return err
			}
		case xml.EndElement:
			r.path = r.path[:len(r.path)-1]
		}
	}
}

// notXML strips an error of what stood in the file.
func notXML(err error) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("inv32.xml is no XML from line %d on", syntax.Line)
	}
	return errors.New("inv32.xml is no XML")
}

func (r *invitationReader) start(e xml.StartElement) error {
	r.path = append(r.path, e.Name.Local)
	if len(r.path) > maxDepth {
		return fmt.Errorf("inv32.xml has elements in more than %d levels", maxDepth)
	}
	if len(e.Attr) > maxAttrs || slices.ContainsFunc(e.Attr, func(a xml.Attr) bool { return len(a.Value) > maxAttr }) {
		return fmt.Errorf("inv32.xml has an element with more than %d attributes, or one of more than %d bytes", maxAttrs, maxAttr)
	}
	switch strings.Join(r.path, "/") {
	case "E":
		r.root = true
	case "E/A":
		if r.Code == "" {
			r.Code = attr(e, "ID")
		}
	case "E/C/T/L":
		if len(r.Listeners)+len(r.Websockets)+len(r.Named) == maxListeners {
			return fmt.Errorf("inv32.xml has more than %d listeners", maxListeners)
		}
		r.listener(attr(e, "N"), attr(e, "P"), attr(e, "U"))
	}
	return nil
}

// attr is the value of an attribute, or "".
func attr(e xml.StartElement, name string) string {
	i := slices.IndexFunc(e.Attr, func(a xml.Attr) bool { return a.Name.Local == name })
	if i < 0 {
		return ""
	}
	return strings.TrimSpace(e.Attr[i].Value)
}

// listener notes one L. One that cannot be read is left out: the others may lead
// to the machine. "If present" U "replaces" P (MS-RAI 2.2.2), and N is still there.
func (r *invitationReader) listener(host, port, uri string) {
	if p, err := strconv.ParseUint(port, 10, 16); err == nil && p > 0 {
		if a, ok := address(host); ok {
			r.Listeners = once(r.Listeners, netip.AddrPortFrom(a, uint16(p)))
		} else if host != "" && !slices.Contains(r.Named, uint16(p)) {
			r.Named = append(r.Named, uint16(p))
		}
		return
	}
	if ap, ok := websocket(uri, host); ok {
		r.Websockets = once(r.Websockets, ap)
	}
}

func once(list []netip.AddrPort, ap netip.AddrPort) []netip.AddrPort {
	if slices.Contains(list, ap) {
		return list
	}
	return append(list, ap)
}

// address reads an IP address. Its zone is the machine's own interface, of no
// use to anybody else.
func address(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return a.Unmap().WithZone(""), err == nil
}

// websocket is where a listener's URI leads; a host's name in it gives way to
// the address of N.
func websocket(uri, host string) (netip.AddrPort, bool) {
	u, err := url.Parse(uri)
	if err != nil {
		return netip.AddrPort{}, false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "http": "80", "wss": "443", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	p, err := strconv.ParseUint(port, 10, 16)
	a, ok := address(u.Hostname())
	if !ok {
		a, ok = address(host)
	}
	return netip.AddrPortFrom(a, uint16(p)), ok && err == nil && p > 0
}

// endpoint picks the listener under which the admin reaches the machine: each
// address has a port of its own, so both come as one. A websocket is the last
// choice: DaRT's viewer is not known to speak it.
//
// Where no listener can be reached, as in an inv32.xml that was written before
// DHCP gave the address, the report's source stands in: RemoteRecovery.exe
// listens with one port for each family, on all addresses.
func (i Invitation) endpoint(w where, from netip.Addr) netip.AddrPort {
	from = from.Unmap().WithZone("")
	for _, list := range [][]netip.AddrPort{i.Listeners, i.guesses(from), i.Websockets} {
		if ap, ok := w.endpoint(list, from); ok {
			return ap
		}
	}
	return netip.AddrPort{}
}

// guesses are the ports of the source's family, at the source.
func (i Invitation) guesses(from netip.Addr) (list []netip.AddrPort) {
	if !from.IsValid() {
		return nil
	}
	for _, ap := range i.Listeners {
		if ap.Addr().Is4() == from.Is4() {
			list = append(list, netip.AddrPortFrom(from, ap.Port()))
		}
	}
	for _, port := range i.Named {
		list = append(list, netip.AddrPortFrom(from, port))
	}
	return list
}
