package modem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// dialect is how a maker's modems are dialled by AT commands with a network device (NCM,
// ECM) in place of PPP. In the commands, {p} is the number of the context, {type} the PDP
// type, {apn}, {user}, {password} and {auth} what the operator wants; [ ] is left out
// where what is named in it is empty. A command without its AT.
type dialect struct {
	before  []string // what it does not take is no obstacle, unless it names the APN
	connect string
	hangUp  string
	query   string // whether it is up, with
	prefix  string // the prefix of its answer and
	up      func(lines []string) (bool, error)
	// addresses asks for what DHCP would say, where the device has no DHCP server.
	addresses string
}

// The dialects. Sources: the commands of connect and hang-up are those of OpenWrt's comgt
// (package/network/utils/comgt/files/ncm.json), but Telit's, which are from its LE910 AT
// reference (#ECM) and were tried by nobody we know; the queries are of ModemManager's
// plugins and the makers' references.
var dialects = map[string]dialect{
	"huawei": {
		before:  []string{`+CGDCONT={p},"{type}"[,"{apn}"]`},
		connect: `^NDISDUP={p},1[,"{apn}"][,"{user}","{password}",{auth}]`,
		hangUp:  `^NDISDUP={p},0`,
		query:   `^NDISSTATQRY?`, prefix: "^NDISSTATQRY", up: ndisUp,
		addresses: `^DHCP?`,
	},
	"quectel": {
		before:  []string{`+QICSGP={p},{context},"{apn}","{user}","{password}",{auth}`},
		connect: `+QNETDEVCTL=1,{p},1`,
		hangUp:  `+QNETDEVCTL=0,{p},0`,
		query:   `+CGACT?`, prefix: "+CGACT", up: contextUp,
	},
	"sierra": {
		before:  []string{`+CGDCONT={p},"{type}"[,"{apn}"]`, `$QCPDPP={p},{auth}[,"{password}","{user}"]`},
		connect: `!SCACT=1,{p}`,
		hangUp:  `!SCACT=0,{p}`,
		query:   `!SCACT?`, prefix: "!SCACT", up: contextUp,
	},
	"zte": {
		before:  []string{`+ZGDCONT={p},"{type}","{apn}","",0,0`, `+ZGPCOAUTH={p},"{user}","{password}",{auth}`},
		connect: `+ZGACT=1,{p}`,
		hangUp:  `+ZGACT=0,{p}`,
		query:   `+ZGACT?`, prefix: "+ZGACT", up: zteUp,
	},
	"telit": {
		before:  []string{`+CGDCONT={p},"{type}"[,"{apn}"]`, `#PDPAUTH={p},{auth}[,"{user}","{password}"]`},
		connect: `#ECM={p},0`,
		hangUp:  `#ECMD=0`,
		query:   `#ECM?`, prefix: "#ECM", up: telitUp,
	},
	"generic": {
		before:  []string{`+CGDCONT={p},"{type}"[,"{apn}"]`, `+CGAUTH={p},{auth}[,"{user}","{password}"]`},
		connect: `+CGACT=1,{p}`,
		hangUp:  `+CGACT=0,{p}`,
		query:   `+CGACT?`, prefix: "+CGACT", up: contextUp,
	},
}

// The context that is used: the first one, as every tool does. Where LTE attaches with a
// context of its own, that is this one too.
const contextID = 1

// The bounds of the commands: a network may take two and a half minutes to refuse
// (3GPP TS 27.007 gives none; the makers' references say up to 150 s for +CGACT).
const (
	askTimeout  = 10 * time.Second
	dataTimeout = 150 * time.Second
)

// ncm dials by AT commands and has the device set up by DHCP, or by the addresses that the
// modem names.
type ncm struct {
	at      commander
	profile string
	status  func() Status
	dialect dialect // of the modem that is there
	device  string
	access  access
	v4, v6  bool
	news    func() <-chan struct{} // of the session: the bearer may be lost
}

// access is what the operator wants.
type access struct {
	apn, user, auth, ipType string
	password                func() (string, error)
}

func newNCM(c Config, at commander, status func() Status, news func() <-chan struct{}) (*ncm, error) {
	if c.NetDevice == "" {
		return nil, errors.New("data = \"ncm\" needs the modem's interface")
	}
	if _, ok := dialects[profile(c.Profile, "")]; !ok {
		return nil, fmt.Errorf("%q is no profile of a modem", c.Profile)
	}
	v4, v6 := families(c.IPType)
	return &ncm{at: at, profile: c.Profile, status: status, device: c.NetDevice, v4: v4, v6: v6, news: news,
		access: access{c.APN, c.User, c.Auth, c.IPType, c.Password}}, nil
}

// profile is the one of the file, or that of the maker (+CGMI).
func profile(configured, maker string) string {
	if configured != "" {
		return configured
	}
	maker = strings.ToLower(maker)
	for name := range dialects {
		if strings.Contains(maker, name) {
			return name
		}
	}
	return "generic"
}

// hold dials unless it is up, and keeps the device's addresses.
func (n *ncm) hold(ctx context.Context, changed func(Link)) error {
	if _, err := device(n.device).find(); err != nil {
		return err
	}
	n.choose()
	if up, err := n.isUp(ctx); err != nil || !up {
		if err := n.dial(ctx); err != nil {
			return err
		}
	}
	s := &setup{name: n.device, v4: n.v4, v6: n.v6, static: n.named, alive: n.alive, news: n.news}
	return s.keep(ctx, changed)
}

// down hangs up. A modem that was not up says ERROR to that.
func (n *ncm) down(ctx context.Context) error {
	n.choose()
	_, err := n.at.command(ctx, n.fill(n.dialect.hangUp, ""), "", dataTimeout)
	flushed := device(n.device).flush()
	if up, asked := n.isUp(ctx); asked == nil && !up {
		return flushed
	}
	return errors.Join(err, flushed)
}

// choose takes the dialect of the file, or of the modem that is there now.
func (n *ncm) choose() { n.dialect = dialects[profile(n.profile, n.status().Manufacturer)] }

// alive is an error once the modem says that the bearer is down. One that cannot say is
// believed: the uplink's probes will tell.
func (n *ncm) alive(ctx context.Context) error {
	up, err := n.isUp(ctx)
	if refused := (*Refusal)(nil); errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if err == nil && !up {
		return fmt.Errorf("%w: the network took it down", errLost)
	}
	return nil
}

func (n *ncm) isUp(ctx context.Context) (bool, error) {
	lines, err := n.at.command(ctx, n.dialect.query, n.dialect.prefix, askTimeout)
	if err != nil {
		return false, err
	}
	return n.dialect.up(lines)
}

// dial has the modem bring the bearer up.
func (n *ncm) dial(ctx context.Context) error {
	password, err := n.access.secret()
	if err != nil {
		return err
	}
	for _, cmd := range n.dialect.before {
		if strings.Contains(cmd, "AUTH") || strings.HasPrefix(cmd, "$QCPDPP") {
			if n.access.user == "" {
				continue
			}
		}
		if _, err := n.at.command(ctx, n.fill(cmd, password), "", askTimeout); err != nil {
			return fmt.Errorf("tell the modem the APN: %w", reason(err))
		}
	}
	if _, err := n.at.command(ctx, n.fill(n.dialect.connect, password), "", dataTimeout); err != nil {
		return fmt.Errorf("dial: %w", reason(err))
	}
	return n.settle(ctx)
}

// settle waits for what was dialled: Huawei's OK says only that it will try.
func (n *ncm) settle(ctx context.Context) error {
	for tries := 0; ; tries++ {
		up, err := n.isUp(ctx)
		refused := (*Refusal)(nil)
		switch {
		case errors.As(err, &refused) && refused.Code == 0:
			return fmt.Errorf("dial: %w", refused)
		case err != nil, up: // one that cannot say is believed
			return ctx.Err()
		case tries == 30:
			return fmt.Errorf("%w: the modem took the dial and brings no bearer up: %s", errNoAnswer, hintAPN)
		}
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
	}
}

// named asks the modem for the addresses of the bearer.
func (n *ncm) named(ctx context.Context) (Link, error) {
	if n.dialect.addresses != "" {
		lines, err := n.at.command(ctx, n.dialect.addresses, "^DHCP", askTimeout)
		if err == nil && len(lines) > 0 {
			if l, err := parseDHCP(lines[0]); err == nil {
				return l, nil
			}
		}
	}
	lines, err := n.at.command(ctx, fmt.Sprintf("+CGCONTRDP=%d", contextID), "+CGCONTRDP", askTimeout)
	if err == nil {
		if l, err := parseContext(lines); err == nil {
			return l, nil
		}
	}
	lines, err = n.at.command(ctx, fmt.Sprintf("+CGPADDR=%d", contextID), "+CGPADDR", askTimeout)
	if err != nil {
		return Link{}, fmt.Errorf("ask the modem for its address: %w", reason(err))
	}
	return parseAddress(lines)
}

func (a access) secret() (string, error) {
	if a.password == nil {
		return "", nil
	}
	s, err := a.password()
	if err != nil {
		return "", fmt.Errorf("read the password of the APN: %w", err)
	}
	return s, nil
}

// authNumber is PAP or CHAP as +CGAUTH and its like have it.
func (a access) authNumber() string {
	switch {
	case a.auth == "chap":
		return "2"
	case a.auth == "pap" || a.user != "" && a.auth != "none":
		return "1"
	}
	return "0"
}

// fill puts the operator's words into a command.
func (n *ncm) fill(cmd, password string) string {
	var out strings.Builder
	for cmd != "" {
		start := strings.IndexByte(cmd, '[')
		if start < 0 {
			break
		}
		end := start + strings.IndexByte(cmd[start:], ']')
		out.WriteString(cmd[:start])
		if part := cmd[start+1 : end]; !n.lacks(part) {
			out.WriteString(part)
		}
		cmd = cmd[end+1:]
	}
	out.WriteString(cmd)
	context := map[string]string{"IP": "1", "IPV6": "2", "IPV4V6": "3"}[pdpType(n.access.ipType)]
	return strings.NewReplacer("{p}", fmt.Sprint(contextID), "{type}", pdpType(n.access.ipType), "{context}", context,
		"{apn}", quoted(n.access.apn), "{user}", quoted(n.access.user), "{password}", quoted(password),
		"{auth}", n.access.authNumber()).Replace(out.String())
}

func (n *ncm) lacks(part string) bool {
	return strings.Contains(part, "{apn}") && n.access.apn == "" || strings.Contains(part, "{user}") && n.access.user == ""
}

// quoted makes a word fit between quotation marks: there is no way to write one inside
// (ITU-T V.250 5.4.2.2), and a line's end would begin another command.
func quoted(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '"' || r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}
