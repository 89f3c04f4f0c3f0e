package bmc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Level says what a finding means.
type Level string

// The levels, the worst first.
const (
	Bad  Level = "bad"  // somebody gets in who should not
	Note Level = "note" // worth knowing; often nothing can be done
	Good Level = "good"
)

// Finding is one result of an audit.
type Finding struct {
	Machine string // "" for a controller that no machine names
	Host    string
	Check   string // what was looked at: a stable name
	Level   Level
	Text    string
	Hint    string // what to do, or ""
}

// The checks.
const (
	checkIPMI      = "ipmi"
	checkVersion   = "ipmi-version"
	checkNone      = "no-authentication"
	checkAnonymous = "anonymous"
	checkCipher0   = "cipher-0"
	checkRAKP      = "rakp-hash"
	checkAccounts  = "default-accounts"
	checkOpen      = "redfish-open"
	checkTLS       = "tls"
	checkNetwork   = "network"
	checkFirmware  = "firmware"
)

// Target is a controller that the file of the site names.
type Target struct {
	Machine string
	Config  Config
	// Controller is asked for its firmware: with the configured account, by whoever
	// else uses it, so that a wrong password costs no second try.
	Controller interface {
		Info(ctx context.Context) (Info, error)
	}
}

// Bounds of an audit.
const (
	auditTime     = 2 * time.Minute  // for all
	auditOne      = 75 * time.Second // for one controller
	auditAtOnce   = 8
	maxStrangers  = 64
	triedFor      = time.Hour // an account that was refused is not tried again before
	strangersName = ""        // a controller that no machine names
)

// ErrBusy is an audit that was asked for while another one runs.
var ErrBusy = errors.New("an audit is running already")

// Auditor looks for what lets strangers into controllers. It changes nothing, and tries
// no account twice within an hour: repeated, that would lock it.
type Auditor struct {
	Targets []Target
	LAN     netip.Prefix // the rescue LAN, the only network that is swept
	Own     netip.Addr   // the box in it

	// Ports of controllers that the sweep finds; 0 is 623 and 443.
	IPMIPort, TLSPort int

	late time.Duration // how late the sweep's last answers may be; 0 is sweepAfter

	running sync.Mutex
	mu      sync.Mutex
	tried   map[attempt]time.Time // and refused
}

// Audit is what was found.
type Audit struct {
	Findings []Finding
	Swept    int // addresses of the LAN that were asked
}

// Run looks at the controllers of the file, or that of one machine, and with lan at all that answer on
// the rescue LAN. It ends in bounded time; what there was no time for is in the findings.
func (a *Auditor) Run(ctx context.Context, machine string, lan bool) (Audit, error) {
	if !a.running.TryLock() {
		return Audit{}, ErrBusy
	}
	defer a.running.Unlock()
	ctx, cancel := context.WithTimeout(ctx, auditTime)
	defer cancel()
	var list []*subject
	for _, t := range a.Targets {
		if machine == "" || t.Machine == machine {
			list = append(list, a.subjectOf(ctx, t))
		}
	}
	out := Audit{}
	if lan {
		strangers, notes := a.strangers(ctx, &out)
		list = append(list, strangers...)
		out.Findings = append(out.Findings, notes...)
	}
	a.lookAtAll(ctx, list)
	for _, s := range list {
		s.misplaced(list, a.LAN)
		out.Findings = append(out.Findings, s.findings...)
	}
	slices.SortStableFunc(out.Findings, func(x, y Finding) int {
		return cmp.Or(strings.Compare(x.Machine, y.Machine), compareHosts(x.Host, y.Host))
	})
	return out, ctx.Err()
}

// compareHosts puts addresses in their order.
func compareHosts(x, y string) int {
	a, errA := netip.ParseAddr(x)
	b, errB := netip.ParseAddr(y)
	if errA != nil || errB != nil {
		return strings.Compare(x, y)
	}
	return a.Compare(b)
}

// lookAtAll looks at several at once.
func (a *Auditor) lookAtAll(ctx context.Context, list []*subject) {
	places := make(chan struct{}, auditAtOnce)
	var wg sync.WaitGroup
	for _, s := range list {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			one, cancel := context.WithTimeout(ctx, auditOne)
			defer cancel()
			a.look(one, s)
		})
	}
	wg.Wait()
}

// subject is one controller while it is audited.
type subject struct {
	Target
	host      string // as configured, or the address
	addr      netip.Addr
	ipmi, tls int // ports

	caps     capabilities
	speaks   bool // IPMI over LAN
	guid     string
	info     Info
	findings []Finding
}

func (s *subject) found(check string, level Level, hint, format string, args ...any) {
	s.findings = append(s.findings, Finding{s.Machine, s.host, check, level, fmt.Sprintf(format, args...), hint})
}

// subjectOf resolves a target's address. One without stays, and says so.
func (a *Auditor) subjectOf(ctx context.Context, t Target) *subject {
	c := t.Config
	s := &subject{Target: t, host: c.Host}
	s.tls, s.ipmi = c.ports()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", c.Host)
	if err != nil || len(addrs) == 0 {
		s.found(checkIPMI, Note, "write the address into the machine's bmc url", "the name %s leads to no address: not looked at", c.Host)
		return s
	}
	s.addr = addrs[0].Unmap()
	return s
}

// strangers are the controllers of the LAN that no machine names.
func (a *Auditor) strangers(ctx context.Context, out *Audit) (list []*subject, notes []Finding) {
	named := map[netip.Addr]bool{a.Own: true}
	for _, t := range a.Targets {
		if s := a.subjectOf(ctx, t); s.addr.IsValid() {
			named[s.addr] = true
		}
	}
	port := cmp.Or(a.IPMIPort, ipmiPort)
	found, asked, err := sweep(ctx, a.LAN, port, cmp.Or(a.late, sweepAfter), func(addr netip.Addr) bool { return named[addr] })
	out.Swept = asked
	note := func(hint, format string, args ...any) {
		notes = append(notes, Finding{Host: a.LAN.Masked().String(), Check: checkNetwork, Level: Note, Text: fmt.Sprintf(format, args...), Hint: hint})
	}
	switch {
	case err != nil:
		note("", "the LAN was not asked to its end: %v", err)
	case a.LAN.Bits() < 32-10: // more than 1024
		note("look at the others from elsewhere", "only the first %d addresses were asked", asked)
	}
	if len(found) > maxStrangers {
		note("name some of them in the file of the site", "%d controllers answer, the first %d are looked at", len(found), maxStrangers)
		found = found[:maxStrangers]
	}
	for _, addr := range found {
		list = append(list, &subject{host: addr.String(), addr: addr, ipmi: port, tls: cmp.Or(a.TLSPort, redfishPort)})
	}
	return list, notes
}

// look makes all checks of one controller.
func (a *Auditor) look(ctx context.Context, s *subject) {
	if !s.addr.IsValid() {
		return
	}
	s.lookAtFirmware(ctx)
	a.lookAtIPMI(ctx, s)
	secure := s.lookAtTLS(ctx)
	a.lookAtAccounts(ctx, s, secure)
	s.lookAtPort(ctx, a.LAN)
	if ctx.Err() != nil {
		s.found(checkIPMI, Note, "ask for this machine alone", "there was no time to look at all of it")
	}
}

// lookAtFirmware asks with the configured account.
func (s *subject) lookAtFirmware(ctx context.Context) {
	if s.Controller == nil {
		return
	}
	info, err := s.Controller.Info(ctx)
	if err != nil {
		s.found(checkFirmware, Note, "rescuebox power "+s.Machine+" status", "it does not say: %v", err)
		return
	}
	s.info = info
	s.found(checkFirmware, Note, "compare it with what its maker offers", "%s", strings.Join(strings.Fields(info.Vendor+" "+info.Model+", firmware "+info.Firmware), " "))
}

// lookAtIPMI looks at what IPMI offers to whoever asks.
func (a *Auditor) lookAtIPMI(ctx context.Context, s *subject) {
	p, err := newProber(ctx, netip.AddrPortFrom(s.addr, uint16(s.ipmi)))
	if err != nil {
		s.found(checkIPMI, Note, "", "it cannot be reached: %v", err)
		return
	}
	defer p.conn.Close()
	if s.caps, s.speaks = p.capabilities(ctx); !s.speaks {
		s.found(checkIPMI, Good, "", "IPMI over LAN does not answer")
		return
	}
	s.found(checkIPMI, Note, "let only the box reach this port; where Redfish does, switch IPMI over LAN off", "IPMI over LAN is on")
	s.guid = p.guid(ctx)
	s.lookAtCapabilities()
	if s.caps.V20 {
		s.lookAtCipher0(ctx, p)
		s.found(checkRAKP, Note, "at most 20 random characters as password, and let only the box reach it",
			"whoever reaches it gets a hash of any user's password to try words on: IPMI 2.0 is made so (CVE-2013-4786)")
	}
}

func (s *subject) lookAtCapabilities() {
	c := s.caps
	if c.V20 {
		s.found(checkVersion, Good, "", "it speaks IPMI 2.0")
	} else {
		s.found(checkVersion, Bad, "update its firmware, or switch IPMI over LAN off", "it speaks IPMI 1.5 only: nothing is encrypted")
	}
	if c.V15 && c.None {
		s.found(checkNone, Bad, `take "none" out of its authentication types: ipmitool lan set 1 auth OPERATOR MD5`, "IPMI 1.5 takes commands without any authentication")
	} else {
		s.found(checkNone, Good, "", "no session without authentication in IPMI 1.5")
	}
	if c.V15 && c.Straight {
		s.found(checkNone, Note, "ipmitool lan set 1 auth OPERATOR MD5", "IPMI 1.5 takes passwords in clear text")
	}
	switch {
	case c.Anonymous:
		s.found(checkAnonymous, Bad, "give every account a name and a password, and switch user 1 off", "it says that users without name and password may log in")
	case c.NullUser:
		s.found(checkAnonymous, Note, "switch user 1 off: ipmitool user disable 1", "a user without a name may log in")
	default:
		s.found(checkAnonymous, Good, "", "no users without a name")
	}
}

const cipher0Hint = "switch cipher suite 0 off: ipmitool lan set 1 cipher_privs XaaaaaaaaaaaaaX, or in its web pages"

// lookAtCipher0 tries a command with cipher suite 0, which has no password.
func (s *subject) lookAtCipher0(ctx context.Context, p *prober) {
	if _, agreed := p.openUnprotected(ctx); !agreed {
		s.found(checkCipher0, Good, "", "cipher suite 0 is refused")
		return
	}
	users := []string{s.Config.User}
	if s.Machine == strangersName {
		users = []string{"ADMIN", "root", "admin", "Administrator", "USERID"}
	}
	for _, user := range users {
		if state, err := p.withoutPassword(ctx, user); err == nil {
			s.found(checkCipher0, Bad, cipher0Hint, "whoever knows the user name %s needs no password (cipher suite 0): it took a command, and says that power is %s", quoted(user), state)
			return
		}
	}
	s.found(checkCipher0, Bad, cipher0Hint, "it agrees to sessions without a password (cipher suite 0); no command was taken")
}

// misplaced looks for one controller under two addresses, which is a port that is shared with the
// server's own network, or fails over to it.
func (s *subject) misplaced(all []*subject, lan netip.Prefix) {
	if s.Machine != strangersName {
		return
	}
	for _, other := range all {
		if other.Machine != strangersName && s.guid != "" && s.guid == other.guid && s.addr != other.addr {
			s.found(checkNetwork, Bad, "set its network port to dedicated, without failover",
				"this is the BMC of %s, which belongs to %s: its port is shared with the server's, and it appears on the rescue LAN", other.Machine, other.host)
			return
		}
	}
	if lan.Contains(s.addr) {
		s.found(checkNetwork, Note, "name it in the file of the site, or give it a network that only the box reaches", "a BMC that no machine names answers on the rescue LAN")
	}
}
