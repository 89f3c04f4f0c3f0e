package modemtest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// plain answers need nothing of the modem's state. Taken from what ModemManager 1.20 and gammu ask of a generic modem.
var plain = map[string]string{
	"+GCAP": "+GCAP: +CGSM,+FCLASS,+DS", "+CMEE=?": "+CMEE: (0-2)", "+CSCS=?": `+CSCS: ("IRA","GSM","UCS2")`,
	"+CPMS=?": `+CPMS: ("SM","ME"),("SM","ME"),("SM","ME")`, "+CNMI=?": "+CNMI: (0-2),(0-3),(0,2),(0,1),(0,1)",
	"+CMGF=?": "+CMGF: (0)", "+CSMS=?": "+CSMS: (0,1)", "+CMGD=?": "+CMGD: (1-20),(0-4)",
	"+CGDCONT=?": `+CGDCONT: (1-8),"IP",,,(0),(0)` + "\n" + `+CGDCONT: (1-8),"IPV6",,,(0),(0)` + "\n" + `+CGDCONT: (1-8),"IPV4V6",,,(0),(0)`,
	"+CFUN=?":    "+CFUN: (0,1,4),(0,1)", "+CREG=?": "+CREG: (0-2)", "+CGREG=?": "+CGREG: (0-2)", "+CEREG=?": "+CEREG: (0-2)",
	"+CTZU=?": "+CTZU: (0,1)", "+CTZR=?": "+CTZR: (0,1)", "+CSMS?": "+CSMS: 0,1,1,1", "+CMER=?": "+CMER: (0,3),(0),(0),(0,1),(0)",
	"+CIND=?": `+CIND: ("signal",(0-5)),("service",(0,1)),("roam",(0,1))`, "+CLCK=?": `+CLCK: ("SC")`, "+CCLK=?": "+CCLK",
	"+WS46=?": "+WS46: (12,22,25,28)", "+WS46?": "+WS46: 28", "+CGACT=?": "+CGACT: (0,1)", "+CGATT=?": "+CGATT: (0,1)", "+IFC=?": "+IFC: (0-2),(0-2)",
	"+ICF=?": "+ICF: (3),(0)", "+IPR=?": "+IPR: (),(115200)", "+CPBS?": `+CPBS: "SM",0,100`, "+CPBS=?": `+CPBS: ("SM","ME")`, "+CRC=?": "+CRC: (0,1)",
	"+CUSD=?": "+CUSD: (0,1,2)", "+CCWA=?": "+CCWA: (0,1)", "+CSCA?": `+CSCA: "+79160000999",145`, "+CMGS=?": "", "+CGCLASS=?": `+CGCLASS: ("A","B")`,
}

// unknown are commands of other makers; a modem that says OK to all of them would be taken for one of theirs.
var unknown = []string{"^", "$", "!", "#", "*", "+Q", "+Z", "+GMI=", "+CSSN", "+CGPRCO", "+XACT", "+CLAC", "+CDU", "+SPIC"}

// answer is one command's lines and result.
func (m *Modem) answer(cmd string) ([]string, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, arg, isSet := strings.Cut(cmd, "=")
	name = strings.ToUpper(name)
	if text, ok := plain[name]; ok {
		return lines(text), "OK"
	}
	if text, ok := plain[strings.ToUpper(cmd)]; ok {
		return lines(text), "OK"
	}
	if own, result, ok := m.identityLocked(name); ok {
		return own, result
	}
	if isSet {
		return m.setLocked(name, arg)
	}
	return m.queryLocked(name)
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// identityLocked answers who the modem and its SIM are.
func (m *Modem) identityLocked(name string) ([]string, string, bool) {
	switch name {
	case "+CGMI", "+GMI":
		return []string{m.Manufacturer}, "OK", true
	case "+CGMM", "+GMM":
		return []string{m.Model}, "OK", true
	case "+CGMR", "+GMR":
		return []string{m.Firmware}, "OK", true
	case "+CGSN", "+GSN":
		return []string{m.IMEI}, "OK", true
	case "I", "I0":
		return []string{m.Manufacturer, m.Model, m.Firmware}, "OK", true
	case "+CIMI":
		if m.simLocked() != Ready {
			return nil, m.simErrorLocked(), true
		}
		return []string{m.IMSI}, "OK", true
	case "+CCID", "+ICCID", "+QCCID":
		if name == "+QCCID" && !strings.EqualFold(m.Manufacturer, "Quectel") {
			return nil, "ERROR", true
		}
		if m.simLocked() == Missing || m.simLocked() == Busy {
			return nil, m.simErrorLocked(), true
		}
		return []string{name + ": " + m.ICCID}, "OK", true
	case "+CNUM":
		return []string{fmt.Sprintf(`+CNUM: "","%s",145`, m.Number)}, "OK", true
	}
	return nil, "", false
}

// simLocked is the SIM's state of the moment.
func (m *Modem) simLocked() SIM {
	if m.sim != Missing && time.Since(m.booted) < m.BootTime {
		return Busy
	}
	return m.sim
}

func (m *Modem) simErrorLocked() string {
	switch m.simLocked() {
	case Missing:
		return "+CME ERROR: 10"
	case WantsPIN:
		return "+CME ERROR: 11"
	case WantsPUK:
		return "+CME ERROR: 12"
	case Busy:
		return "+CME ERROR: 14"
	}
	return "ERROR"
}

// registeredLocked says whether messages go.
func (m *Modem) registeredLocked() bool {
	return m.simLocked() == Ready && m.fun == 1 && (m.reg == Home || m.reg == Roaming)
}

// onlineLocked says whether data goes.
func (m *Modem) onlineLocked() bool { return m.registeredLocked() && m.attach }

// registration is the answer to +CREG? and its like, or the URC.
func (m *Modem) registration(name string, read bool) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.registrationLocked(name, read)
}

func (m *Modem) registrationLocked(name string, read bool) string {
	stat := m.reg
	if m.simLocked() != Ready || m.fun != 1 {
		stat = NotSearching
	}
	n := m.values[name]
	if n == "" {
		n = "0"
	}
	text := strconv.Itoa(int(stat))
	if n == "2" && (stat == Home || stat == Roaming) {
		text += fmt.Sprintf(`,"00C3","01A2B3C4",%d`, m.act)
	}
	if read {
		text = n + "," + text
	}
	return name + ": " + text
}

// queryLocked answers what has no "=".
func (m *Modem) queryLocked(name string) ([]string, string) {
	switch name {
	case "+CPIN?":
		return m.pinStateLocked()
	case "+CREG?", "+CGREG?", "+CEREG?":
		return []string{m.registrationLocked(strings.TrimSuffix(name, "?"), true)}, "OK"
	case "+CSQ":
		rssi := m.rssi
		if !m.registeredLocked() {
			rssi = 99
		}
		return []string{fmt.Sprintf("+CSQ: %d,99", rssi)}, "OK"
	case "+CESQ":
		return []string{fmt.Sprintf("+CESQ: 99,99,255,255,%d,%d", 20, 2*m.rssi)}, "OK"
	case "+CFUN?":
		return []string{fmt.Sprintf("+CFUN: %d", m.fun)}, "OK"
	case "+COPS?":
		return m.operatorLocked()
	case "+CGATT?":
		return []string{fmt.Sprintf("+CGATT: %d", one(m.onlineLocked()))}, "OK"
	case "+CGACT?":
		return []string{fmt.Sprintf("+CGACT: 1,%d", one(m.context[1]))}, "OK"
	case "+CPMS?":
		return []string{fmt.Sprintf(`+CPMS: "%s",%d,%d,"%[1]s",%[2]d,%[3]d,"%[4]s",%[5]d,%[3]d`, m.opened, m.usedLocked(m.opened), m.Capacity, m.filled, m.usedLocked(m.filled))}, "OK"
	case "+CCLK?":
		return []string{`+CCLK: "` + time.Now().UTC().Format("06/01/02,15:04:05") + `+00"`}, "OK"
	case "+CIND?":
		return []string{fmt.Sprintf("+CIND: %d,%d,%d", m.rssi/6, one(m.registeredLocked()), one(m.reg == Roaming))}, "OK"
	case "+CGDCONT?":
		return lines(m.values["+CGDCONT"]), "OK"
	case "+CMGF?":
		return []string{fmt.Sprintf("+CMGF: %d", m.mode)}, "OK"
	case "+CSCS?":
		return []string{`+CSCS: "` + or(m.values["+CSCS"], "IRA") + `"`}, "OK"
	}
	if base, ok := strings.CutSuffix(name, "?"); ok && m.values[base] != "" {
		return []string{base + ": " + m.values[base]}, "OK"
	}
	for _, foreign := range unknown {
		if strings.HasPrefix(name, foreign) {
			return nil, "ERROR"
		}
	}
	return nil, "OK"
}

func (m *Modem) pinStateLocked() ([]string, string) {
	switch m.simLocked() {
	case WantsPIN:
		return []string{"+CPIN: SIM PIN"}, "OK"
	case WantsPUK:
		return []string{"+CPIN: SIM PUK"}, "OK"
	case Missing, Busy:
		return nil, m.simErrorLocked()
	}
	return []string{"+CPIN: READY"}, "OK"
}

func (m *Modem) operatorLocked() ([]string, string) {
	if !m.registeredLocked() {
		return []string{"+COPS: 0"}, "OK"
	}
	if strings.HasSuffix(m.values["+COPS"], "2") {
		return []string{fmt.Sprintf(`+COPS: 0,2,"%s",%d`, m.PLMN, m.act)}, "OK"
	}
	return []string{fmt.Sprintf(`+COPS: 0,0,"%s",%d`, m.Operator, m.act)}, "OK"
}

// setLocked answers what has a "=".
func (m *Modem) setLocked(name, arg string) ([]string, string) {
	switch name {
	case "+CPIN":
		return m.enterLocked(arg)
	case "+CPINR":
		return []string{fmt.Sprintf("+CPINR: SIM PIN,%d,3", m.pinLeft)}, "OK"
	case "+CFUN":
		return m.functionLocked(arg)
	case "+CMGF":
		m.mode, _ = strconv.Atoi(arg)
		return nil, "OK"
	case "+CMGL":
		return m.listLocked(arg)
	case "+CMGR":
		return m.readLocked(arg)
	case "+CMGD":
		return m.deleteLocked(arg)
	case "+CPMS":
		return m.openLocked(arg)
	case "+CMSS":
		return m.sendStoredLocked(arg)
	case "+CGATT":
		m.attach = arg == "1"
		return nil, "OK"
	case "+CGACT":
		m.context[1] = strings.HasPrefix(arg, "1")
		return nil, "OK"
	case "+COPS":
		return m.selectLocked(arg)
	case "+CGDCONT":
		m.values[name] = name + ": " + arg
		return nil, "OK"
	case "+CRSM":
		return m.simFileLocked(arg)
	}
	for _, foreign := range unknown {
		if strings.HasPrefix(name, foreign) {
			return nil, "ERROR"
		}
	}
	m.values[name] = strings.ReplaceAll(arg, `"`, "")
	return nil, "OK"
}

// enterLocked takes a PIN, or PUK and new PIN.
func (m *Modem) enterLocked(arg string) ([]string, string) {
	pin := strings.ReplaceAll(arg, `"`, "")
	switch m.simLocked() {
	case WantsPIN:
		if pin == m.PIN {
			m.sim, m.pinLeft = Ready, 3
			return nil, "OK"
		}
		if m.pinLeft--; m.pinLeft == 0 {
			m.sim = WantsPUK
		}
		return nil, "+CME ERROR: 16"
	case WantsPUK:
		if puk, fresh, _ := strings.Cut(pin, ","); puk == m.PUK {
			m.sim, m.pinLeft, m.PIN = Ready, 3, fresh
			return nil, "OK"
		}
		return nil, "+CME ERROR: 16"
	}
	return nil, "+CME ERROR: 3" // operation not allowed
}

// functionLocked is +CFUN=<fun>[,<rst>]: a reset forgets the settings and locks the SIM again.
func (m *Modem) functionLocked(arg string) ([]string, string) {
	fun, rst, _ := strings.Cut(arg, ",")
	n, err := strconv.Atoi(fun)
	if err != nil {
		return nil, "+CME ERROR: 50"
	}
	m.fun = n
	if rst == "1" {
		m.resets++
		m.values, m.context, m.booted, m.attach = map[string]string{}, map[int]bool{}, time.Now(), true
	}
	return nil, "OK"
}

func (m *Modem) selectLocked(arg string) ([]string, string) {
	switch {
	case arg == "?":
		return []string{fmt.Sprintf(`+COPS: (2,"%s","Test","%s",%d),(3,"Other","Oth","25099",2),,(0-4),(0-2)`, m.Operator, m.PLMN, m.act)}, "OK"
	case strings.HasPrefix(arg, "3,"):
		m.values["+COPS"] = arg
	case strings.HasPrefix(arg, "0"):
		m.attach = true
	}
	return nil, "OK"
}

func (m *Modem) sendStoredLocked(arg string) ([]string, string) {
	index, _ := strconv.Atoi(strings.SplitN(arg, ",", 2)[0])
	i := m.findLocked(index, m.opened)
	if i < 0 {
		return nil, "+CMS ERROR: 321"
	}
	if !m.registeredLocked() {
		return nil, "+CMS ERROR: 331"
	}
	pdu := m.store[i].pdu
	said, result := m.sendLocked(pdu[1+int(pdu[0]):])
	for k := range said {
		said[k] = strings.Replace(said[k], "+CMGS", "+CMSS", 1)
	}
	return said, result
}

// simFileLocked reads EF_ICCID (3GPP TS 31.102 section 4.2 and TS 102 221 section 13.2: swapped digits); others are not there.
func (m *Modem) simFileLocked(arg string) ([]string, string) {
	if m.sim == Missing {
		return nil, m.simErrorLocked()
	}
	if !strings.HasPrefix(arg, "176,12258,") {
		return []string{"+CRSM: 106,130"}, "OK" // file not found
	}
	digits := m.ICCID
	if len(digits)%2 == 1 {
		digits += "F"
	}
	swapped := []byte(digits)
	for i := 0; i+1 < len(swapped); i += 2 {
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
	}
	return []string{`+CRSM: 144,0,"` + string(swapped) + `"`}, "OK"
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
