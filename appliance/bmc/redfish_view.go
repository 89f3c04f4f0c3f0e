package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// systemsPath is where every service has its systems.
const (
	systemsPath  = "/redfish/v1/Systems"
	managersPath = "/redfish/v1/Managers"
	maxMembers   = 32
)

// Of each resource only what is used is read: the library's types read all, and one field that
// a controller gets wrong would lose the rest.
type (
	link struct {
		ID string `json:"@odata.id"`
	}
	resource struct {
		link
		ETag string `json:"@odata.etag"`
	}
	collection struct{ Members []link }

	systemView struct {
		resource
		ID           string `json:"Id"`
		UUID         string
		SerialNumber string
		HostName     string
		Manufacturer string
		Model        string
		PowerState   string
		// LastResetTime is there since version 1.12 of the schema, with few.
		LastResetTime string
		Boot          bootView
		Actions       struct {
			Reset actionView `json:"#ComputerSystem.Reset"`
		}
		Settings struct {
			Object link `json:"SettingsObject"`
		} `json:"@Redfish.Settings"`
		Links              struct{ ManagedBy []link }
		VirtualMedia       link
		EthernetInterfaces link
		GraphicalConsole   struct {
			ServiceEnabled *bool
			Port           port
		}
		SerialConsole struct {
			SSH struct {
				ServiceEnabled *bool
				Port           port
			}
		}
		VirtualMediaConfig struct {
			ServiceEnabled *bool
			Port           port
		}
	}
	bootView struct {
		Enabled     string   `json:"BootSourceOverrideEnabled"`
		Target      string   `json:"BootSourceOverrideTarget"`
		Mode        string   `json:"BootSourceOverrideMode"`
		Targets     []string `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
		HTTPBootURI string   `json:"HttpBootUri"`
	}
	actionView struct {
		Target string   `json:"target"`
		Types  []string `json:"ResetType@Redfish.AllowableValues"`
		Info   string   `json:"@Redfish.ActionInfo"`
	}
	managerView struct {
		resource
		FirmwareVersion    string
		VirtualMedia       link
		NetworkProtocol    link
		EthernetInterfaces link
		Links              struct {
			Oem struct {
				Dell struct{ DellAttributes []link }
			}
		}
	}
	actionInfo struct {
		Parameters []struct {
			Name            string
			AllowableValues []string
		}
	}
)

// tag is a resource's ETag: the header's, else its own.
func (r resource) tag(header string) string {
	if header == "" {
		return r.ETag
	}
	if stem, ok := strings.CutSuffix(header, `-gzip"`); ok { // of the packed form, which does not match (sushy, Apache mod_deflate)
		return stem + `"`
	}
	return header
}

// members reads a collection's links.
func (s *session) members(ctx context.Context, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	var c collection
	if _, err := s.get(ctx, path, &c); err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range c.Members {
		if m.ID != "" && len(paths) < maxMembers {
			paths = append(paths, m.ID)
		}
	}
	return paths, nil
}

// system reads the machine's system, wherever it was found before.
func (s *session) system(ctx context.Context) (*systemView, error) {
	if s.path == "" {
		sys, err := s.find(ctx)
		if err != nil {
			return nil, err
		}
		s.path = sys.link.ID
		return sys, nil
	}
	sys, err := s.readSystem(ctx, s.path)
	if no := (*denial)(nil); errors.As(err, &no) && no.status == http.StatusNotFound {
		s.path = "" // a firmware's update may give it another name
		return s.system(ctx)
	}
	return sys, err
}

func (s *session) readSystem(ctx context.Context, path string) (*systemView, error) {
	sys := &systemView{}
	header, err := s.get(ctx, path, sys)
	if err != nil {
		return nil, err
	}
	sys.link.ID, sys.ETag = path, sys.tag(header)
	if s.maker == "" {
		s.maker = makerOf(sys.Manufacturer, sys.Model)
	}
	return sys, nil
}

// find finds the machine's system: the only one, or the one that is meant. In a chassis one that cannot
// be read is passed over: the empty place of a blade must not cost the others their power button.
func (s *session) find(ctx context.Context) (*systemView, error) {
	paths, err := s.members(ctx, systemsPath)
	if err != nil {
		return nil, err
	}
	s.several.Store(len(paths) > 1)
	var all, meant []*systemView
	var unread error
	for _, path := range paths {
		sys, err := s.readSystem(ctx, path)
		if err != nil {
			if unread = err; !refusedBy(err) {
				return nil, err
			}
			continue
		}
		all = append(all, sys)
		if s.means(ctx, sys, len(paths) > 1) {
			if meant = append(meant, sys); s.System == "" {
				break // by its network card, of which there is one in the world; each further system would be many questions
			}
		}
	}
	switch {
	case len(meant) == 1:
		return meant[0], nil
	case len(all) == 0 && unread != nil:
		return nil, unread
	case len(all) == 0:
		return nil, fmt.Errorf("%w: it names no system that it controls", ErrUnsupported)
	case len(paths) == 1 && s.System == "":
		return all[0], nil
	}
	return nil, s.unclear(all)
}

// unclear names the systems of a chassis.
func (s *session) unclear(all []*systemView) error {
	var names []string
	for _, sys := range all {
		names = append(names, fmt.Sprintf("%s (serial %s)", clean(sys.ID), clean(sys.SerialNumber)))
	}
	return fmt.Errorf("%w: it has %d systems, and which is meant is not clear; the machine's mac must be that of one of its network cards, or its system one of these: %s",
		ErrUnsupported, len(all), s.clip(strings.Join(names, ", ")))
}

// means reports whether a system is the one that was configured.
func (s *session) means(ctx context.Context, sys *systemView, several bool) bool {
	if s.System != "" {
		return slices.ContainsFunc([]string{sys.ID, sys.UUID, sys.SerialNumber, sys.HostName}, func(name string) bool { return strings.EqualFold(name, s.System) })
	}
	if !several || len(s.MACs) == 0 {
		return false
	}
	cards, err := s.members(ctx, sys.EthernetInterfaces.ID)
	if err != nil {
		return false
	}
	for _, path := range cards {
		var card struct{ MACAddress, PermanentMACAddress string }
		if _, err := s.get(ctx, path, &card); err != nil {
			continue
		}
		if slices.ContainsFunc(s.MACs, func(mac string) bool { return sameMAC(mac, card.MACAddress) || sameMAC(mac, card.PermanentMACAddress) }) {
			return true
		}
	}
	return false
}

// sameMAC compares two addresses in whatever punctuation.
func sameMAC(a, b string) bool {
	plain := strings.NewReplacer(":", "", "-", "", ".", "")
	return a != "" && strings.EqualFold(plain.Replace(a), plain.Replace(b))
}

// managers are the controllers of a system; those that cannot be read are passed over.
func (s *session) managers(ctx context.Context, sys *systemView) []managerView {
	var paths []string
	for _, l := range sys.Links.ManagedBy {
		paths = append(paths, l.ID)
	}
	if len(paths) == 0 {
		paths, _ = s.members(ctx, managersPath)
	}
	var list []managerView
	for _, path := range paths[:min(len(paths), maxMembers)] {
		var m managerView
		header, err := s.get(ctx, path, &m)
		if err != nil {
			continue
		}
		m.link.ID, m.ETag = path, m.tag(header)
		list = append(list, m)
	}
	return list
}

// dellAttributes are the resources in which an iDRAC has its attributes; older ones name none.
func (m managerView) dellAttributes() (paths []string) {
	for _, l := range m.Links.Oem.Dell.DellAttributes {
		paths = append(paths, l.ID)
	}
	return append(paths, m.link.ID+"/Attributes")
}

// maker is who made a controller, where that matters.
type maker string

const (
	hpe        maker = "hpe"
	dell       maker = "dell"
	lenovo     maker = "lenovo"
	supermicro maker = "supermicro"
	ami        maker = "ami"
	oracle     maker = "oracle"
)

// makers are words by which one tells them, the most special first: a Supermicro board may have
// AMI's firmware and then is Supermicro's in its ways.
var makers = []struct {
	maker maker
	words []string
}{
	{supermicro, []string{"supermicro", "super micro"}},
	{hpe, []string{"hpe", "hewlett", "hp ", "ilo"}},
	{dell, []string{"dell", "idrac"}},
	{lenovo, []string{"lenovo", "xclarity", "ibm"}},
	{oracle, []string{"oracle", "sun micro"}},
	{ami, []string{"ami", "american megatrends", "megarac", "asus", "asrock", "gigabyte"}},
}

// makerOf reads who made it out of what it says of itself.
func makerOf(said ...string) maker {
	for _, text := range said {
		words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r != ' ' && (r < 'a' || r > 'z') })
		text := " " + strings.Join(strings.Fields(strings.Join(words, " ")), " ") + " "
		for _, m := range makers {
			for _, word := range m.words {
				if strings.Contains(text, " "+word) {
					return m.maker
				}
			}
		}
	}
	return ""
}

// oemKeys are the names under which a resource has its maker's own part.
func oemKeys(raw []byte) string {
	var oem map[string]json.RawMessage
	if json.Unmarshal(raw, &oem) != nil {
		return ""
	}
	keys := make([]string, 0, len(oem))
	for k := range oem {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}
