package modem

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/warthog618/modem/at"
)

// What is wrong with a bearer, where no network or program said more.
var (
	errDialling = errors.New("dialling")
	errLost     = errors.New("the bearer was lost")
	errNoAnswer = errors.New("no answer")
)

// Refusal is a network's or a modem's no to a data connection.
type Refusal struct {
	Code    int    // of +CME ERROR, 0 where it gave none
	Why     string // in words
	Hint    string // what to do
	Lasting bool   // the same question gets the same answer: a person must act
}

func (r *Refusal) Error() string {
	s := r.Why
	if r.Code != 0 {
		s += " (+CME ERROR " + strconv.Itoa(r.Code) + ")"
	}
	if r.Hint != "" {
		s += ": " + r.Hint
	}
	return s
}

// isLasting says that only a person ends it.
func isLasting(err error) bool {
	r := (*Refusal)(nil)
	return errors.As(err, &r) && r.Lasting
}

const (
	hintAPN  = "check apn, user and password of the modem"
	hintSIM  = "ask the operator whether this SIM has data, and money"
	hintType = "set the modem's ip_type to what the operator gives"
)

// The codes that matter to a dial, of 3GPP TS 27.007 9.2; those from 100 on are the causes
// of TS 24.008 (annexes G and I) in its clothes.
var refusals = map[int]Refusal{
	3:   {Why: "the modem does not allow that now"},
	4:   {Why: "the modem does not know the command", Hint: "another profile or driver of data may fit it", Lasting: true},
	5:   {Why: "the SIM wants its PIN", Lasting: true},
	10:  {Why: "no SIM in the modem", Lasting: true},
	11:  {Why: "the SIM wants its PIN", Lasting: true},
	12:  {Why: "the SIM is locked and wants its PUK", Lasting: true},
	13:  {Why: "the SIM does not work", Lasting: true},
	14:  {Why: "the SIM is busy"},
	30:  {Why: "no network service"},
	31:  {Why: "the network does not answer in time"},
	32:  {Why: "the network allows emergency calls only", Hint: hintSIM},
	100: {Why: "the modem says unknown error"},
	103: {Why: "the network refuses this SIM for good", Hint: hintSIM, Lasting: true},
	106: {Why: "the network refuses this modem for good", Hint: "its IMEI may be barred", Lasting: true},
	107: {Why: "the network gives this SIM no data", Hint: hintSIM, Lasting: true},
	111: {Why: "the operator is not allowed to this SIM", Hint: hintSIM, Lasting: true},
	112: {Why: "the network refuses this SIM here", Hint: hintSIM, Lasting: true},
	113: {Why: "the network refuses this SIM while it roams", Lasting: true},
	126: {Why: "the network is short of resources"},
	127: {Why: "the network knows no such APN", Hint: hintAPN, Lasting: true},
	128: {Why: "the network does not know this address or IP type", Hint: hintType, Lasting: true},
	129: {Why: "the network refuses user or password", Hint: hintAPN, Lasting: true},
	130: {Why: "the gateway of the APN refuses", Hint: hintAPN, Lasting: true},
	131: {Why: "the network refuses the bearer and does not say why"},
	132: {Why: "the network does not offer that", Hint: hintType, Lasting: true},
	133: {Why: "the SIM has not subscribed to this APN", Hint: hintAPN + "; " + hintSIM, Lasting: true},
	134: {Why: "the network is out of order for a moment"},
	148: {Why: "the network refuses the bearer and does not say why"},
	149: {Why: "the network refuses user or password", Hint: hintAPN, Lasting: true},
	150: {Why: "the modem does not allow that class of mobile"},
}

// causes are the network's own numbers (TS 24.008 10.5.6.6), as ^NDISSTAT has them, in
// those of +CME ERROR.
var causes = map[int]int{
	8: 107, 26: 126, 27: 127, 28: 128, 29: 149, 30: 130, 31: 131, 32: 132, 33: 133, 34: 134,
	50: 128, 51: 128,
}

// ofCode is a refusal by its code.
func ofCode(code int) *Refusal {
	r, ok := refusals[code]
	if !ok {
		r = Refusal{Why: "the modem refuses the bearer"}
	}
	r.Code = code
	return &r
}

// ofCause is a refusal by the network's cause.
func ofCause(cause int) *Refusal {
	if code, ok := causes[cause]; ok {
		r := ofCode(code)
		r.Code = 0
		r.Why += " (cause " + strconv.Itoa(cause) + ")"
		return r
	}
	return &Refusal{Why: "the network refuses the bearer (cause " + strconv.Itoa(cause) + ")"}
}

// The words that modems use with +CMEE=2, or that ModemManager passes on.
var refusalWords = []struct {
	word string
	code int
}{
	{"no network service", 30}, {"network timeout", 31}, {"sim not inserted", 10}, {"sim pin required", 11},
	{"sim puk required", 12}, {"sim failure", 13}, {"missing or unknown apn", 127}, {"unknown apn", 127},
	{"requested service option not subscribed", 133}, {"not subscribed", 133}, {"user authentication failed", 149},
	{"authentication failed", 149}, {"gprs services not allowed", 107}, {"roaming not allowed", 113},
	{"unspecified gprs error", 148}, {"insufficient resources", 126}, {"service option not supported", 132},
	{"unknown pdp", 128}, {"only ipv4 allowed", 128}, {"only ipv6 allowed", 128},
}

// reason puts the error of a dial into words.
func reason(err error) error {
	var cme at.CMEError
	var connect at.ConnectError
	var late timedOut
	switch {
	case err == nil:
		return nil
	case errors.As(err, &cme):
		return refusalOf(string(cme))
	case errors.As(err, &connect):
		return refusalOf(string(connect))
	case errors.Is(err, at.ErrError):
		return &Refusal{Why: "the modem says ERROR to the dial", Hint: hintAPN}
	case errors.As(err, &late), errors.Is(err, at.ErrDeadlineExceeded):
		return fmt.Errorf("%w: the modem says nothing to the dial", errNoAnswer)
	}
	return err
}

var digits = regexp.MustCompile(`\d+`)

// refusalOf reads what stands behind +CME ERROR:, or in a modem's last words.
func refusalOf(said string) *Refusal {
	said = strings.ToLower(strings.TrimSpace(said))
	if r := wordOf(said); r != nil {
		return r
	}
	if n, err := strconv.Atoi(digits.FindString(said)); err == nil {
		return ofCode(n)
	}
	switch {
	case strings.Contains(said, "no carrier"):
		return &Refusal{Why: "the modem says NO CARRIER to the dial", Hint: hintAPN}
	case strings.Contains(said, "busy"):
		return &Refusal{Why: "the modem says BUSY to the dial"}
	}
	return &Refusal{Why: "the modem refuses the bearer"}
}

// wordOf is the refusal whose words are in a text of small letters, or nil.
func wordOf(said string) *Refusal {
	for _, w := range refusalWords {
		if strings.Contains(said, w.word) {
			return ofCode(w.code)
		}
	}
	return nil
}
