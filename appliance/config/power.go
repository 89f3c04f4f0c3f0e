package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// firmware is by what a machine boots.
func firmware(s string) (string, *fault) {
	switch s {
	case "", "auto":
		return "", nil
	case "uefi", "bios":
		return s, nil
	}
	return "", faultf(`leave it out for "auto": as its network card asks`, "%s is neither auto, uefi nor bios", quote(s))
}

func serialPort(s string) (string, *fault) {
	if !strings.HasPrefix(s, "/dev/") || strings.ContainsFunc(s, unicode.IsControl) {
		return "", faultf(`for example serial = "/dev/ttyUSB0"; /dev/serial/by-id has names that stay`, "%s is no serial port", quote(s))
	}
	return s, nil
}

// usualSpeed is that of servers' and most other consoles.
const usualSpeed = 115200

// speeds are those that serial consoles have.
var speeds = []int{1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600}

func (c *checker) speed(path string, raw rawMachine) int {
	switch {
	case raw.Serial == "" && raw.Speed != usualSpeed:
		c.wrong(path, *faultf("name the port: serial = \"/dev/ttyUSB0\"", "a speed without a port"))
	case raw.Serial == "":
		return 0
	case raw.Speed == 0:
		return usualSpeed
	case !slices.Contains(speeds, raw.Speed):
		c.wrong(path, *faultf("the default is 115200; routers often have 9600", "%d is no speed of a serial port", raw.Speed))
	}
	return raw.Speed
}

// powerKeys are the keys that each kind of switch has beside kind; the first of them it needs.
var powerKeys = map[string]struct{ needs, takes []string }{
	"pikvm":      {[]string{"url", "user", "password_file"}, nil},
	"pdu":        {[]string{"host", "model", "outlet"}, []string{"community_file", "user", "password_file"}},
	"wol":        {},
	"command":    {nil, []string{"on", "off", "cycle", "status"}},
	"gsm-socket": {[]string{"model", "number"}, []string{"password_file", "on_text", "off_text", "cycle_text", "status_text", "on_reply", "off_reply"}},
}

// GSMModels are the sockets with a SIM whose texts are known; "custom" knows none.
var GSMModels = []string{"simpal", "t40", "oem", "isocket", "custom"}

// examples of what is missing.
var powerExamples = map[string]string{
	"url": `url = "https://192.168.77.30"`, "user": `user = "admin"`, "password_file": `password_file = "/etc/rescuebox/secrets/pikvm"`,
	"host": `host = "192.168.77.40"`, "model": `model = "apc", "raritan" or "eaton"`, "outlet": "outlet = 3, as it is counted on the unit, from 1",
	"number": `number = "+79161234567"`,
}

// power checks a switch.
func (c *checker) power(path string, raw rawPower, macs int) *Power {
	keys, known := powerKeys[raw.Kind]
	if !known {
		c.wrong(path+".kind", *faultf(`want "pikvm", "pdu", "wol", "command" or "gsm-socket"`, "%s is no kind of switch", quote(raw.Kind)))
		return &Power{}
	}
	given := map[string]bool{
		"url": raw.URL != "", "user": raw.User != "", "password_file": raw.PasswordFile != "",
		"host": raw.Host != "", "model": raw.Model != "", "outlet": raw.Outlet != 0, "community_file": raw.CommunityFile != "",
		"number": raw.Number != "", "on_text": raw.OnText != "", "off_text": raw.OffText != "", "cycle_text": raw.CycleText != "",
		"status_text": raw.StatusText != "", "on_reply": raw.OnReply != "", "off_reply": raw.OffReply != "",
		"on": raw.On != nil, "off": raw.Off != nil, "cycle": raw.Cycle != nil, "status": raw.Status != nil,
	}
	c.onlyKeys(path, raw.Kind, given, keys.needs, keys.takes)
	p := &Power{
		Kind: raw.Kind, User: raw.User, Outlet: raw.Outlet,
		PasswordFile:  read(c, path+".password_file", raw.PasswordFile, optional(absolutePath)),
		CommunityFile: read(c, path+".community_file", raw.CommunityFile, optional(absolutePath)),
		URL:           read(c, path+".url", raw.URL, optional(httpsURL)),
		Host:          read(c, path+".host", raw.Host, optional(hostPort)),
		Model:         read(c, path+".model", raw.Model, optional(modelOf[raw.Kind])),
		On:            c.program(path+".on", raw.On), Off: c.program(path+".off", raw.Off),
		Cycle: c.program(path+".cycle", raw.Cycle), Status: c.program(path+".status", raw.Status),
		Number: read(c, path+".number", raw.Number, optional(phone)),
		OnText: read(c, path+".on_text", raw.OnText, optional(socketText)), OffText: read(c, path+".off_text", raw.OffText, optional(socketText)),
		CycleText: read(c, path+".cycle_text", raw.CycleText, optional(socketText)), StatusText: read(c, path+".status_text", raw.StatusText, optional(socketText)),
		OnReply: read(c, path+".on_reply", raw.OnReply, optional(pattern)), OffReply: read(c, path+".off_reply", raw.OffReply, optional(pattern)),
	}
	switch {
	case raw.Kind == "wol" && macs == 0:
		c.wrong(path+".kind", *faultf("name the machine's mac", "Wake-on-LAN needs a MAC to call"))
	case raw.Kind == "pdu" && (raw.CommunityFile == "") == (raw.User == ""):
		c.wrong(path+".community_file", *faultf("community_file is for SNMP 2c; user and password_file are for SNMPv3", "want one way to log in to the unit"))
	case raw.Kind == "pdu" && (raw.User == "") != (raw.PasswordFile == ""):
		c.wrong(path+".password_file", *faultf("the file with the password and nothing else", "user and password_file go together"))
	case raw.Kind == "pdu" && (raw.Outlet < 0 || raw.Outlet > 1024):
		c.wrong(path+".outlet", *faultf(powerExamples["outlet"], "%d is no outlet", raw.Outlet))
	case raw.Model == "custom" && raw.OnText == "" && raw.CycleText == "":
		c.wrong(path+".on_text", *faultf(`for example on_text = "ON"`, "missing: a socket that can neither switch on nor cycle helps nobody"))
	case raw.Kind == "command" && raw.On == nil && raw.Cycle == nil:
		c.wrong(path+".on", *faultf(`for example on = ["/usr/local/bin/outlet", "3", "on"]`, "missing: a switch that can neither switch on nor cycle helps nobody"))
	}
	return p
}

// onlyKeys notes what a kind needs and lacks, and what belongs to another kind.
func (c *checker) onlyKeys(path, kind string, given map[string]bool, needs, takes []string) {
	for _, k := range needs {
		if !given[k] {
			c.wrong(path+"."+k, *faultf("for example "+powerExamples[k], "missing: kind = %q needs it", kind))
		}
	}
	for k, is := range given {
		if is && !slices.Contains(needs, k) && !slices.Contains(takes, k) {
			c.wrong(path+"."+k, *faultf("leave it out, or look at kind", "kind = %q has no %s", kind, k))
		}
	}
}

// program is a command line as a list; a shell is never asked.
func (c *checker) program(path string, argv []string) []string {
	if argv == nil {
		return nil
	}
	if len(argv) == 0 || !strings.HasPrefix(argv[0], "/") || slices.ContainsFunc(argv, func(s string) bool { return strings.ContainsRune(s, 0) }) {
		c.wrong(path, *faultf(`for example ["/usr/local/bin/outlet", "3", "on"]`, "want a program by its whole path, and its arguments"))
	}
	return argv
}

// modelOf parses the models of the kinds that have some.
var modelOf = map[string]func(string) (string, *fault){"pdu": pduModel, "gsm-socket": oneOf(GSMModels...),
	"pikvm": noModel, "wol": noModel, "command": noModel}

func noModel(s string) (string, *fault) { return "", nil } // told by onlyKeys

// socketText is what goes into one text message as it stands.
func socketText(s string) (string, *fault) {
	if len(s) > 160 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", faultf("plain letters, digits and signs, at most 160", "this fits no text message")
	}
	return s, nil
}

func pattern(s string) (string, *fault) {
	if _, err := regexp.Compile(s); err != nil || len(s) > 200 {
		return "", faultf(`for example on_reply = "(?i)socket on"`, "%s is no regular expression", quote(s))
	}
	return s, nil
}

func pduModel(s string) (string, *fault) {
	switch s {
	case "apc", "raritan", "eaton":
		return s, nil
	}
	return "", faultf(`others: kind = "command" with snmpset`, "%s is no model that is known: want apc, raritan or eaton", quote(s))
}

// httpsURL is a server's, without a path. What is wrong with it is not repeated:
// people put passwords into URLs.
func httpsURL(s string) (string, *fault) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", faultf("for example "+powerExamples["url"], "this is no https address")
	case u.User != nil:
		return "", faultf("name them in user and password_file", "user and password do not belong into the URL")
	}
	return "https://" + u.Host, nil
}

// hostPort is an address or name, maybe with a port.
func hostPort(s string) (string, *fault) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, "1"
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/ @") || strings.ContainsFunc(host, notGraphic) {
		return "", faultf("an address or a name, and a port only if it is not the usual one", "%s is no host", quote(s))
	}
	return s, nil
}

// shutdown checks how a system is asked to go down.
func (c *checker) shutdown(path string, raw rawShutdown) *Shutdown {
	s := &Shutdown{
		Kind: raw.Kind, User: raw.User,
		Host:         read(c, path+".host", raw.Host, optional(hostPort)),
		PasswordFile: read(c, path+".password_file", raw.PasswordFile, optional(absolutePath)),
		KeyFile:      read(c, path+".key_file", raw.KeyFile, optional(absolutePath)),
		HostKey:      read(c, path+".host_key", raw.HostKey, optional(hostKey)),
		KDC:          raw.KDC,
	}
	if raw.KDC != nil {
		c.kerberos(path, raw)
	}
	for _, k := range []struct {
		key, value, example string
		of                  []string
	}{
		{"host", raw.Host, `host = "192.168.77.10"`, []string{"winrm", "ssh"}},
		{"user", raw.User, `user = "rescue"`, []string{"winrm", "ssh"}},
		{"password_file", raw.PasswordFile, `password_file = "/etc/rescuebox/secrets/srv01-windows"`, []string{"winrm"}},
		{"key_file", raw.KeyFile, `key_file = "/etc/rescuebox/secrets/srv01-ssh"`, []string{"ssh"}},
		{"host_key", raw.HostKey, "ssh-keyscan -t ed25519 HOST prints it", []string{"ssh"}},
	} {
		switch needs := slices.Contains(k.of, raw.Kind); {
		case raw.Kind != "winrm" && raw.Kind != "ssh":
			c.wrong(path+".kind", *faultf(`want "winrm" or "ssh"`, "%s is no way to shut a system down", quote(raw.Kind)))
			return s
		case needs && k.value == "":
			c.wrong(path+"."+k.key, *faultf("for example "+k.example, "missing: kind = %q needs it", raw.Kind))
		case !needs && k.value != "":
			c.wrong(path+"."+k.key, *faultf("leave it out", "kind = %q has no %s", raw.Kind, k.key))
		}
	}
	return s
}

// kerberos checks a login by Kerberos. A ticket is for a name, and HTTPS carries it.
func (c *checker) kerberos(path string, raw rawShutdown) {
	user, realm, _ := strings.Cut(raw.User, "@")
	host, port, err := net.SplitHostPort(raw.Host)
	if err != nil {
		host = raw.Host
	}
	switch {
	case raw.Kind != "winrm":
		c.wrong(path+".kdc", *faultf("leave it out", "kind = %q has no kdc", raw.Kind))
		return
	case len(raw.KDC) == 0:
		c.wrong(path+".kdc", *faultf(`for example kdc = ["dc01.example.org"]; without the key it is NTLM`, "no KDC in the list"))
	case user == "" || realm == "" || strings.ContainsAny(raw.User, `\/`):
		c.wrong(path+".user", *faultf(`for example user = "rescue@EXAMPLE.ORG"`, "Kerberos wants the user with the realm, which is mostly in capitals"))
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		c.wrong(path+".host", *faultf(`for example host = "dc06.example.org"`, "%s is an address: Kerberos has tickets for names only", quote(raw.Host)))
	}
	if port == "5985" || port == "80" {
		c.wrong(path+".host", *faultf("leave the port out: it is 5986", "Kerberos goes over HTTPS only"))
	}
	for _, kdc := range raw.KDC {
		read(c, path+".kdc", kdc, hostPort)
	}
}

// hostKey is a public key as ssh-keyscan prints it, with or without the host before it.
func hostKey(s string) (string, *fault) {
	for range 2 {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s)); err == nil {
			return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
		}
		_, s, _ = strings.Cut(s, " ") // the host that ssh-keyscan puts before it
	}
	return "", faultf("ssh-keyscan -t ed25519 HOST prints it", "this is no public key")
}
