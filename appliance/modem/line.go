package modem

import (
	"slices"
	"strings"
)

// isFinal says whether a line ends the answer to cmd (3GPP TS 27.007 section 4, ITU-T V.250 section 5.7). The
// results of a call end only a call: NO CARRIER in the middle of another answer is news of the data bearer.
func isFinal(line, cmd string) bool {
	switch {
	case line == "OK", line == "ERROR", strings.HasPrefix(line, "+CME ERROR:"), strings.HasPrefix(line, "+CMS ERROR:"):
		return true
	case line == "COMMAND NOT SUPPORT", line == "TOO MANY PARAMETERS": // Huawei; the library does not know them
		return false
	case !strings.HasPrefix(cmd, "ATD"):
		return false
	}
	return strings.HasPrefix(line, "CONNECT") || line == "BUSY" || line == "NO ANSWER" || line == "NO CARRIER" || line == "NO DIALTONE"
}

// linePrefix is what stands before the colon of "+CREG: 1"; "" where there is none.
func linePrefix(line string) string {
	i := strings.IndexByte(line, ':')
	if i < 2 || !strings.ContainsRune("+^*$!#%_", rune(line[0])) {
		return ""
	}
	for _, c := range line[1:i] {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != ' ' {
			return ""
		}
	}
	return line[:i]
}

// hasPrefix says whether a line answers the command with that prefix.
func hasPrefix(line, prefix string) bool {
	rest, ok := strings.CutPrefix(line, prefix)
	return ok && strings.HasPrefix(rest, ":")
}

// urcPrefixes are lines that no command of ours answers with; urcWords have no prefix.
var (
	urcPrefixes = []string{"+CMTI", "+CDSI", "+CBMI", "+CMT", "+CDS", "+CBM", "+CRING", "+CLIP", "+CGEV", "+CIEV", "+CTZV", "+CTZE", "+CTZEU",
		"+NITZ", "+QIND", "+QUSIM", "^RSSI", "^MODE", "^BOOT", "^SIMST", "^SRVST", "^STIN", "^DSFLOWRPT", "^NDISSTAT", "^ORIG", "^RSSILVL", "^HCSQ",
		"+CREG", "+CGREG", "+CEREG", "+C5GREG", "*EMRDY", "*PSUTTZ", "$QCSIMSTAT"}
	urcWords = []string{"RING", "NO CARRIER", "RDY", "SMS READY", "Call Ready", "SMS Ready", "SMS DONE", "PB DONE", "POWERED DOWN", "NORMAL POWER DOWN", "START", "MODEM:STARTUP"}
)

func knownURC(line string) bool {
	return slices.Contains(urcWords, line) || slices.Contains(urcPrefixes, linePrefix(line))
}

// isHex says whether a line is a PDU.
func isHex(line string) bool {
	if len(line) < 2 || len(line)%2 != 0 {
		return false
	}
	for _, c := range []byte(line) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// commandName is a command without its parameters, for errors: those may be a PIN.
func commandName(cmd string) string {
	name, _, _ := strings.Cut(cmd, "=")
	return "AT" + name
}
