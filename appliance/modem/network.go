package modem

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// registration is one <stat> of 3GPP TS 27.007 sections 7.2, 10.1.20 and 10.1.22.
type registration int

const (
	notSearching     registration = 0
	home             registration = 1
	searching        registration = 2
	denied           registration = 3
	unknownNetwork   registration = 4
	roaming          registration = 5
	homeSMSOnly      registration = 6
	roamingSMSOnly   registration = 7
	emergencyOnly    registration = 8
	homeNoCSFB       registration = 9
	roamingNoCSFB    registration = 10
	lastRegistration registration = 11
)

func (r registration) registered() bool {
	return r == home || r == roaming || r == homeSMSOnly || r == roamingSMSOnly || r == homeNoCSFB || r == roamingNoCSFB
}

func (r registration) roams() bool {
	return r == roaming || r == roamingSMSOnly || r == roamingNoCSFB
}

// data says whether it is one for data too; NoCSFB is a network of 4G that has it, and only prefers others for calls.
func (r registration) data() bool { return r.registered() && r != homeSMSOnly && r != roamingSMSOnly }

// parseRegistration reads the answer to +CREG? and its like: <n>,<stat>[,"lac","ci"[,<act>]]. The unsolicited form begins with
// <stat>, and may come in the middle of an answer; it is told apart by what follows, and not ok.
func parseRegistration(line string) (stat registration, act int, ok bool) {
	raw := strings.Split(line, ",")
	f := fields(line)
	if len(f) < 2 || strings.Contains(raw[1], `"`) {
		return 0, -1, false
	}
	n, okN := number(f, 0)
	st, okS := number(f, 1)
	// <stat>,<lac> without quotes has a second field of four digits; <n> is 5 at most.
	if !okN || !okS || n < 0 || n > 5 || st < 0 || st > int(lastRegistration) || len(f[1]) > 2 {
		return 0, -1, false
	}
	act = -1
	if a, okA := number(f, 4); okA && len(f[4]) <= 2 {
		act = a
	}
	return registration(st), act, true
}

// technologies are the <AcT> of 3GPP TS 27.007 section 7.3.
var technologies = map[int]string{
	0: "GSM", 1: "GSM", 2: "UMTS", 3: "EDGE", 4: "HSPA", 5: "HSPA", 6: "HSPA", 7: "LTE", 8: "GSM", 9: "NB-IoT", 10: "LTE", 11: "5G", 12: "5G", 13: "LTE+5G",
}

// network is what the modem says about where it is.
type network struct {
	circuit, packet, lte, five registration // +CREG, +CGREG, +CEREG, +C5GREG
	technology                 string
	name, plmn                 string
}

func (n network) registered() bool {
	return n.circuit.registered() || n.packet.registered() || n.lte.registered() || n.five.registered()
}

// roams if any of them does: a bill is worse than a WAN that stays dead.
func (n network) roams() bool {
	return n.circuit.roams() || n.packet.roams() || n.lte.roams() || n.five.roams()
}

func (n network) data() bool { return n.packet.data() || n.lte.data() || n.five.data() }

func (n network) is(r registration) bool {
	return n.circuit == r || n.packet == r || n.lte == r || n.five == r
}

// watchNetwork switches the news of the network on; what a modem does not know is left out by look.
func watchNetwork(ctx context.Context, s commander) {
	for _, cmd := range []string{"+CREG=2", "+CGREG=2", "+CEREG=2", "+CTZU=1", "+CTZR=0"} {
		if _, err := s.command(ctx, cmd, "", shortAnswer); err != nil && strings.HasSuffix(cmd, "REG=2") {
			_, _ = s.command(ctx, strings.TrimSuffix(cmd, "2")+"1", "", shortAnswer)
		}
	}
}

// askNetwork looks where the modem is. Its error is the session's; an ERROR is a modem that does not know the command.
func askNetwork(ctx context.Context, s commander) (network, error) {
	n := network{circuit: -1, packet: -1, lte: -1, five: -1}
	act := -1
	for _, q := range []struct {
		cmd  string
		stat *registration
	}{{"+CREG", &n.circuit}, {"+CGREG", &n.packet}, {"+CEREG", &n.lte}, {"+C5GREG", &n.five}} {
		lines, err := s.command(ctx, q.cmd+"?", q.cmd, shortAnswer)
		if err != nil && !isRefusal(err) {
			return n, err
		}
		for _, line := range lines {
			if stat, a, ok := parseRegistration(line); ok {
				*q.stat = stat
				if a >= 0 && stat.registered() {
					act = a
				}
			}
		}
	}
	n.technology = technologies[act]
	if !n.registered() {
		return n, nil
	}
	return n, askOperator(ctx, s, &n)
}

// askOperator asks for the operator's name and number.
func askOperator(ctx context.Context, s commander, n *network) error {
	for _, format := range []string{"2", "0"} {
		if _, err := s.command(ctx, "+COPS=3,"+format, "", shortAnswer); err != nil && !isRefusal(err) {
			return err
		}
		lines, err := s.command(ctx, "+COPS?", "+COPS", longAnswer)
		if err != nil && !isRefusal(err) {
			return err
		}
		for _, line := range lines {
			name, numeric, act := parseOperator(line)
			if numeric {
				n.plmn = name
			} else if name != "" {
				n.name = name
			}
			if n.technology == "" && act >= 0 {
				n.technology = technologies[act]
			}
		}
	}
	return nil
}

// parseOperator reads +COPS: <mode>,<format>,<oper>[,<AcT>].
func parseOperator(line string) (name string, numeric bool, act int) {
	f := fields(line)
	act = -1
	if len(f) < 3 {
		return "", false, act
	}
	if a, ok := number(f, 3); ok {
		act = a
	}
	name = brief(f[2])
	_, err := strconv.Atoi(name)
	return name, f[1] == "2" && err == nil, act
}

// radioState reads +CFUN?: whether the radio may speak (3GPP TS 27.007 section 8.2).
func radioState(ctx context.Context, s commander) (on, known bool, err error) {
	lines, err := s.command(ctx, "+CFUN?", "+CFUN", shortAnswer)
	if err != nil {
		if isRefusal(err) {
			err = nil
		}
		return false, false, err
	}
	for _, line := range lines {
		if n, ok := number(fields(line), 0); ok {
			return n != 0 && n != 4 && n != 7, true, nil // 0 minimum, 4 airplane, 7 offline (Qualcomm)
		}
	}
	return false, false, nil
}

// radioOn switches the radio on where it is off. Some modems come from the factory, or from a laptop, with a lock that
// the laptop's firmware takes off at each start (FCC lock); on this box nobody does, and the modem says OK and stays off.
func (m *Modem) radioOn(ctx context.Context, s *session) error {
	on, known, err := radioState(ctx, s)
	if err != nil || on || !known {
		return err
	}
	if _, err := s.command(ctx, "+CFUN=1", "", netAnswer); err != nil && !isRefusal(err) {
		return err
	}
	if err := s.pause(ctx, m.simLook); err != nil {
		return err
	}
	if on, known, err = radioState(ctx, s); err != nil || on || !known {
		return err
	}
	return &stuck{state: LowPower, sim: "", why: "the modem's radio stays off: " + lowPowerCause(ctx, s)}
}

// lowPowerCause asks Sierra's modems why; the others do not say.
func lowPowerCause(ctx context.Context, s commander) string {
	lines, _ := s.command(ctx, "!PCINFO?", "", shortAnswer)
	said := strings.ToUpper(strings.Join(lines, " "))
	switch {
	case strings.Contains(said, "W_DISABLE:1"):
		return "its pin W_DISABLE is held down: the slot's or the case's switch for airplane mode"
	case strings.Contains(said, "TEMP:1"):
		return "it is too hot or too cold"
	case strings.Contains(said, "VOLT:1"):
		return "its supply voltage is wrong: try another power supply or a hub with its own"
	case strings.Contains(said, "BIOS:1"):
		return "it has a FCC lock: unlock it once by the maker's command, or let ModemManager own it and link its unlock into /etc/ModemManager/fcc-unlock.d"
	}
	return "it may have a FCC lock (laptop modems: ModemManager's fcc-unlock.d knows how to open it) or be in airplane mode by a switch"
}

// why is one sentence about what keeps a modem from the network.
func (n network) why(data bool) (State, string) {
	switch {
	case n.registered() && data && !n.data():
		return Registered, orText(n.name, "the network") + " takes messages only: the SIM has no data here, or the operator limits it"
	case n.registered():
		return Registered, ""
	case n.is(denied):
		return Denied, "the network does not want this SIM: is it activated, paid for, and allowed in this modem?"
	case n.is(emergencyOnly):
		return Denied, "the network takes emergency calls only: the SIM is not allowed here"
	case n.is(searching):
		return Searching, "the modem looks for a network: is the antenna on, and is there any reception here?"
	}
	return Searching, "the modem is in no network and does not look for one"
}

// roamingWhy is why there is no data abroad.
func roamingWhy(operator string) string {
	return fmt.Sprintf("the modem roams in %s: messages go, data does not (roaming = true allows it)", orText(operator, "a foreign network"))
}
