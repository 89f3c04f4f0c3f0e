package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Modem is [[modem]].
type Modem struct {
	Name         string
	Port         string   // of AT commands; "" of a router of its own (data = "netdev")
	PINFile      string   // or ""
	APN          string   // "": the operator's own choice
	User         string   // of the APN
	PasswordFile string   // of the APN
	Auth         string   // "none", "pap" or "chap"
	IP           string   // "v4", "v6" or "v4v6"
	Data         string   // "netdev", "ncm", "ppp", "modemmanager" or "none"
	Profile      string   // which AT commands dial: "generic", "huawei", "quectel", "sierra", "zte" or "telit"
	Interface    string   // network device, of netdev and ncm
	PPPPort      string   // tty of its own for data; "" is Port
	Roaming      bool     // data while roaming
	Quota        int64    // bytes per billing month; 0: none
	BillingDay   int      // 1…31; in shorter months the last day
	Power        []string // program that takes its power for some seconds; nil: none
	Reboot       bool     // the box reboots as the very last rung
}

// Text is [text]: text messages.
type Text struct {
	Budget  int      // messages sent per day
	Senders []Sender // [[text.sender]]
}

// Sender is [[text.sender]]: who may command the box by text message.
type Sender struct {
	Number string   // +79161234567
	Name   string   // of the person, or ""
	May    []string // Commands, maybe with a machine: "boot srv01"
}

// Texting is [[notify.text]].
type Texting struct {
	Name        string
	To          []string // numbers
	Kinds       []string
	Credentials bool
}

// Commands are those of text messages by their first words, and the rights to them.
var Commands = []string{"status", "ticket", "boot", "power", "link", "vpn", "reset"}

func (c *checker) modems(raw []rawModem) []Modem {
	var list []Modem
	taken := owners{}
	for i, r := range raw {
		path := fmt.Sprintf("modem[%d]", i)
		m := c.modem(path, r)
		c.unique(taken, "name", path, ".name", m.Name)
		c.unique(taken, "port", path, ".port", m.Port)
		list = append(list, m)
	}
	return list
}

func (c *checker) modem(path string, raw rawModem) Modem {
	m := Modem{
		Name:         read(c, path+".name", raw.Name, uplinkName),
		Port:         read(c, path+".port", raw.Port, optional(modemPort)),
		PINFile:      read(c, path+".pin_file", raw.PINFile, optional(absolutePath)),
		APN:          read(c, path+".apn", raw.APN, optional(apn)),
		User:         read(c, path+".user", raw.User, optional(apn)),
		PasswordFile: read(c, path+".password_file", raw.PasswordFile, optional(absolutePath)),
		Auth:         read(c, path+".auth", orUsual(raw.Auth, "none"), oneOf("none", "pap", "chap")),
		IP:           read(c, path+".ip", orUsual(raw.IP, "v4v6"), oneOf("v4v6", "v4", "v6")),
		Data:         read(c, path+".data", orUsual(raw.Data, "ppp"), oneOf("netdev", "ncm", "ppp", "modemmanager", "none")),
		Profile:      read(c, path+".profile", orUsual(raw.Profile, "generic"), oneOf("generic", "huawei", "quectel", "sierra", "zte", "telit")),
		Interface:    read(c, path+".interface", raw.Interface, optional(interfaceName)),
		PPPPort:      read(c, path+".ppp_port", raw.PPPPort, optional(modemPort)),
		Roaming:      raw.Roaming,
		BillingDay:   c.readInt(path+".billing_day", orUsual(raw.BillingDay, 1), 1, 31, 1),
		Reboot:       raw.Reboot,
	}
	if len(raw.Power) > 0 {
		m.Power = c.program(path+".power", raw.Power)
	}
	if raw.Quota != "" && raw.Quota != "none" {
		m.Quota = read(c, path+".quota", raw.Quota, size)
	}
	c.modemKeys(path, raw, m)
	return m
}

// modemKeys notes keys that its way of data needs, or has no use for.
func (c *checker) modemKeys(path string, raw rawModem, m Modem) {
	device := m.Data == "netdev" || m.Data == "ncm"
	switch {
	case device && raw.Interface == "":
		c.wrong(path+".interface", *faultf(`the modem's network device: interface = "usb0"`, "missing: data = %q needs it", m.Data))
	case !device && raw.Interface != "":
		c.wrong(path+".interface", *faultf("leave it out", "data = %q finds its interface itself", m.Data))
	}
	if raw.Port == "" && (m.Data == "ncm" || m.Data == "ppp" || m.Data == "none") {
		c.wrong(path+".port", *faultf(`for example port = "/dev/serial/by-id/usb-Quectel_EG25-G-if02-port0"`, "missing: data = %q goes by AT commands", m.Data))
	}
	if m.Data == "modemmanager" && raw.Port != "" {
		c.wrong(path+".port", *faultf("leave it out", "ModemManager has the port"))
	}
	if raw.PPPPort != "" && m.Data != "ppp" {
		c.wrong(path+".ppp_port", *faultf("leave it out", "data = %q dials no PPP", m.Data))
	}
	if (m.Auth != "none") != (raw.User != "") || (raw.User != "") != (raw.PasswordFile != "") {
		c.wrong(path+".auth", *faultf(`auth = "pap" or "chap", user and password_file go together`, "the APN's login is not whole"))
	}
}

// text checks who may command by text messages.
func (c *checker) text(raw rawText, modems []Modem, machines []Machine) Text {
	t := Text{Budget: c.readInt("text.budget", raw.Budget, 1, 10000, defaults().Text.Budget)}
	taken := owners{}
	for i, r := range raw.Sender {
		path := fmt.Sprintf("text.sender[%d]", i)
		s := Sender{Number: read(c, path+".number", r.Number, phone), Name: r.Name, May: Commands}
		if r.May != nil {
			s.May = r.May
		}
		for j, right := range r.May {
			if f := textRight(right, machines); f != nil {
				c.wrong(fmt.Sprintf("%s.may[%d]", path, j), *f)
			}
		}
		c.unique(taken, "number", path, ".number", s.Number)
		t.Senders = append(t.Senders, s)
	}
	if len(raw.Sender) > 0 && len(modems) == 0 {
		c.wrong("text.sender[0]", *faultf("write a [[modem]]", "no modem gets text messages"))
	}
	return t
}

// textRight checks a right: a command, and for what is about machines maybe which one.
func textRight(s string, machines []Machine) *fault {
	command, machine, one := strings.Cut(s, " ")
	switch {
	case !slices.Contains(Commands, command):
		return faultf("there are "+strings.Join(Commands, ", "), "%s is no right", quote(s))
	case one && !slices.Contains([]string{"ticket", "boot", "power"}, command):
		return faultf("write "+quote(command), "%s is about no machine", quote(command))
	case one && !slices.ContainsFunc(machines, func(m Machine) bool { return m.Name == machine }):
		return faultf("it must be one of this file", "no machine is called %s", quote(machine))
	}
	return nil
}

// texting checks [[notify.text]].
func (c *checker) texting(path string, raw rawTexting) Texting {
	t := Texting{Name: read(c, path+".name", orUsual(raw.Name, "text"), targetName), Kinds: c.kinds(path+".kinds", raw.Kinds), Credentials: raw.Credentials}
	for i, n := range raw.To {
		t.To = append(t.To, read(c, fmt.Sprintf("%s.to[%d]", path, i), n, phone))
	}
	if len(raw.To) == 0 {
		c.wrong(path+".to", *faultf(`for example to = ["+79161234567"]`, "missing: who is told?"))
	}
	return t
}

// phone is a number as the network reports senders: +, country and the rest (ITU-T E.164).
var phoneForm = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`)

func phone(s string) (string, *fault) {
	plainly := strings.NewReplacer(" ", "", "-", "", "(", "", ")", "").Replace(s)
	if !phoneForm.MatchString(plainly) {
		return "", faultf(`with the country: "+79161234567"`, "%s is no phone number", quote(s))
	}
	return plainly, nil
}

// usbForm is a USB device by vendor and product, and maybe which of its interfaces.
var usbForm = regexp.MustCompile(`^usb:[0-9a-f]{4}:[0-9a-f]{4}(\.[0-9a-f]{2})?$`)

func modemPort(s string) (string, *fault) {
	if !filepath.IsAbs(s) && !usbForm.MatchString(s) || strings.ContainsFunc(s, notGraphic) {
		return "", faultf(`/dev/serial/by-id has names that stay; "usb:2c7c:0125.02" is interface 02 of such a USB device`, "%s is no modem's port", quote(s))
	}
	return s, nil
}

// apn is a text that goes into an AT command: no quotes and nothing that ends a line.
func apn(s string) (string, *fault) {
	if len(s) > 100 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == ';' || r == ',' }) {
		return "", faultf("letters, digits, dots, dashes and @", "%s has characters that no AT command can carry", quote(s))
	}
	return s, nil
}

func oneOf(words ...string) func(string) (string, *fault) {
	return func(s string) (string, *fault) {
		if !slices.Contains(words, s) {
			return "", faultf("want "+strings.Join(words, ", "), "%s is none of those", quote(s))
		}
		return s, nil
	}
}

// textNeedsModem notes who would be told, or switched, by text message where nothing sends any.
func (c *checker) textNeedsModem(cfg *Config) {
	if len(cfg.Modems) > 0 {
		return
	}
	if len(cfg.Notify.Texts) > 0 {
		c.wrong("notify.text[0]", *faultf("write a [[modem]]", "no modem sends text messages"))
	}
	for i, m := range cfg.Machines {
		if m.Power != nil && m.Power.Kind == "gsm-socket" {
			c.wrong(fmt.Sprintf("machine[%d].power.kind", i), *faultf("write a [[modem]]", "a GSM socket is switched by text messages, and no modem sends any"))
		}
	}
}

// textsBesideData warns where text messages have no way while data has the modem's only port.
func (c *checker) textsBesideData(cfg *Config) {
	socket := func(m Machine) bool { return m.Power != nil && m.Power.Kind == "gsm-socket" }
	if len(cfg.Text.Senders)+len(cfg.Notify.Texts) == 0 && !slices.ContainsFunc(cfg.Machines, socket) {
		return
	}
	taken := func(m Modem) bool {
		return m.Data == "ppp" && (m.PPPPort == "" || m.PPPPort == m.Port) &&
			slices.ContainsFunc(cfg.Uplinks, func(u Uplink) bool { return u.Modem == m.Name })
	}
	for i, m := range cfg.Modems {
		if !taken(m) {
			continue
		}
		text := "missing: no text message comes or goes by this modem while its only port carries data"
		if cfg.Link.Mode != "dormant" {
			text += `: always, with mode = "` + cfg.Link.Mode + `"`
		}
		c.warn(fmt.Sprintf("modem[%d].ppp_port", i), text,
			`name its second port, as the Quectel's: ppp_port = "/dev/serial/by-id/usb-Quectel_EG25-G-if03-port0"`)
	}
}
