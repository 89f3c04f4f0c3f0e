package modem

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pppd must start as root, and the daemon is not root. So it is run by ServePPP in a
// process of its own: rescuebox-ppp@.service, which systemd starts for each connection to
// rescuebox-ppp.socket, and which only the daemon's user may reach. The connection is the
// life of pppd: it ends when the connection does, so that no pppd outlives the daemon.
//
// The one who asks is not trusted with more than PPP: what he says becomes arguments that
// are checked one by one, never pppd's own options, for those can name programs to run.

// pppRequest is the first line on the connection. After it comes "go" where pppd is to wait
// for it; any other line, and the connection's end, end pppd.
type pppRequest struct {
	Device    string `json:"device"`    // the tty, where the modem said CONNECT
	Interface string `json:"interface"` // the network device's name
	User      string `json:"user,omitempty"`
	Password  string `json:"password,omitempty"`
	Auth      string `json:"auth,omitempty"` // "pap", "chap" or ""
	Wait      bool   `json:"wait,omitempty"` // get ready, say dialLine, and begin with "go"
	V4        bool   `json:"v4"`
	V6        bool   `json:"v6"`
}

// exitLine is the last line of the answer, with pppd's exit status; those before it are
// pppd's log.
const exitLine = "rescuebox: pppd exit "

// errorLine is said in place of exitLine where pppd could not be run.
const errorLine = "rescuebox: error "

// dialLine is said when pppd waits for the dial. It has opened the port by then: what the modem
// says right behind CONNECT would be lost while pppd starts, and it repeats that only after
// three seconds.
const dialLine = "rescuebox: dial"

const (
	pppdProgram = "/usr/sbin/pppd"
	maxRequest  = 4096
	maxSecret   = 255              // MAXSECRETLEN of pppd
	pppdEnds    = 10 * time.Second // it says goodbye to its peer first
)

// ServePPP runs pppd once, as the connection's first line says, and writes its log to out.
// It returns when pppd has ended: by itself, or because in or ctx did.
func ServePPP(ctx context.Context, in io.Reader, out io.Writer) error {
	return servePPP(ctx, in, out, pppdProgram)
}

func servePPP(ctx context.Context, in io.Reader, out io.Writer, program string) error {
	reader := bufio.NewReaderSize(in, maxRequest)
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the request for pppd: %w", err)
	}
	r, err := parsePPPRequest(line)
	if err != nil {
		fmt.Fprintf(out, "%s%v\n", errorLine, err)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := make(chan struct{})
	go func() { // ends with in, which is the caller's to close
		defer cancel()
		if line, _ := reader.ReadString('\n'); line == "go\n" {
			close(begin)
			_, _ = reader.ReadByte()
		}
	}()
	status, err := r.run(ctx, out, program, begin)
	if err != nil {
		fmt.Fprintf(out, "%s%v\n", errorLine, err)
		return err
	}
	fmt.Fprintf(out, "%s%d\n", exitLine, status)
	return nil
}

var (
	ttyPath       = regexp.MustCompile(`^/dev/[A-Za-z0-9:._-]+(/[A-Za-z0-9:._-]+)*$`)
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,15}$`)
)

// parsePPPRequest reads and checks a request.
func parsePPPRequest(line []byte) (pppRequest, error) {
	var r pppRequest
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	switch err := d.Decode(&r); {
	case err != nil:
		return pppRequest{}, errors.New("the request for pppd is none")
	case !ttyPath.MatchString(r.Device) || strings.Contains(r.Device, ".."):
		return pppRequest{}, errors.New("the request for pppd names no serial port under /dev")
	case !interfaceName.MatchString(r.Interface) || r.Interface[0] == '-':
		return pppRequest{}, errors.New("the request for pppd names no network device")
	case !plain(r.User) || !plain(r.Password):
		return pppRequest{}, errors.New("the user or the password of the APN is too long or has control characters")
	case r.Auth != "" && r.Auth != "pap" && r.Auth != "chap":
		return pppRequest{}, errors.New("the request for pppd names an unknown kind of authentication")
	case !r.V4 && !r.V6:
		return pppRequest{}, errors.New("the request for pppd wants neither IPv4 nor IPv6")
	}
	return r, nil
}

func plain(s string) bool {
	return len(s) <= maxSecret && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// args are pppd's. None of them is secret: all users of a machine see them.
func (r pppRequest) args() []string {
	list := []string{
		r.Device, "nodetach", "nolock", "noauth",
		"local",               // USB modems lie about carrier; pppd would wait for it for ever
		"ifname", r.Interface, // the name stays over redials, the index does not
		"nodefaultroute",            // routes are made in tables of our own
		"ip-up-script", "/bin/true", // Debian's would put the operator's servers into
		"ip-down-script", "/bin/true", // /etc/resolv.conf, for all of the box
		"lcp-echo-interval", "2", "lcp-echo-failure", "3", // end at the modem: no volume
		// What the modem said before pppd listened is lost, and what we say before it listens too: to ask
		// again after 1 s, for as long in all, costs nothing on a cable.
		"lcp-restart", "1", "lcp-max-configure", "30", "ipcp-restart", "1", "ipcp-max-configure", "30",
		"maxfail", "1", "noccp", "novj",
		"refuse-eap", "refuse-mschap", "refuse-mschap-v2",
	}
	if r.V4 {
		list = append(list, "noipdefault", "ipcp-accept-local", "ipcp-accept-remote", "usepeerdns")
	} else {
		list = append(list, "noip")
	}
	if r.V6 {
		list = append(list, "+ipv6")
	} else {
		list = append(list, "noipv6")
	}
	switch r.Auth {
	case "pap":
		list = append(list, "refuse-chap")
	case "chap":
		list = append(list, "refuse-pap")
	}
	if r.User != "" {
		list = append(list, "file", "/proc/self/fd/3")
	}
	if r.Wait {
		list = append(list, "connect", "echo "+dialLine+" >&2; read -r go <&4; exit 0", "connect-delay", "1")
	}
	return list
}

// secrets are the options that nobody else may see: pppd reads them from a pipe.
func (r pppRequest) secrets() string {
	return "user " + pppQuoted(r.User) + "\npassword " + pppQuoted(r.Password) + "\n"
}

// pppQuoted makes one word of an options file, as pppd(8) has it.
func pppQuoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// run runs pppd until it ends, or ctx does. pppd dies with this process too, however that
// ends: hence the thread, for whose death the kernel watches.
func (r pppRequest) run(ctx context.Context, out io.Writer, program string, begin <-chan struct{}) (status int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, r.args()...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = pppdEnds
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var pipes sync.WaitGroup
	defer pipes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	secrets, err := feed(&pipes, func(w io.Writer) { _, _ = io.WriteString(w, r.secrets()) })
	if err != nil {
		return 0, err
	}
	defer secrets.Close()
	signal, err := feed(&pipes, func(io.Writer) { // its end is the signal
		select {
		case <-begin:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return 0, err
	}
	defer signal.Close()
	cmd.ExtraFiles = []*os.File{secrets, signal}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil && ctx.Err() == nil {
		return 0, fmt.Errorf("run pppd (Debian package ppp): %w", err)
	}
	return 0, nil
}

// feed makes a pipe and writes into it what write writes: a pipe holds more than that.
func feed(wg *sync.WaitGroup, write func(io.Writer)) (*os.File, error) {
	read, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("hand pppd what it must know: %w", err)
	}
	wg.Go(func() {
		defer w.Close()
		write(w)
	})
	return read, nil
}

// pppExits are the exit statuses of pppd(8) that say something to a person.
var pppExits = map[int]*Refusal{
	1:  {Why: "pppd met an error"},
	2:  {Why: "pppd does not know our options: is it older than 2.4.9?", Lasting: true},
	3:  {Why: "pppd was not started as root", Hint: "rescuebox-ppp.socket must run, or the daemon as root", Lasting: true},
	4:  {Why: "the kernel has no PPP", Hint: "modprobe ppp_async", Lasting: true},
	6:  {Why: "another program holds the serial port"},
	7:  {Why: "pppd cannot open the serial port"},
	10: {Why: "PPP came to nothing: the network gave no address", Hint: hintAPN},
	11: {Why: "the network did not prove itself"},
	15: {Why: "the modem no longer answers PPP"},
	16: {Why: "the modem hung up"},
	17: {Why: "the modem sends back what it is told: it did not dial"},
	19: {Why: "the network refuses user or password", Hint: hintAPN, Lasting: true},
}

// pppLog is what pppd's log says.
type pppLog struct {
	link   Link
	six    bool // IPv6 has its link-local address
	status int  // -1 until it has ended
	why    *Refusal
}

// read takes in a line, and reports whether the link is another one now.
func (p *pppLog) read(line string) bool {
	line = strings.TrimSpace(line)
	if why, ok := strings.CutPrefix(line, errorLine); ok {
		p.why = &Refusal{Why: oneLine(why)}
		return false
	}
	if exit, ok := strings.CutPrefix(line, exitLine); ok {
		p.status, _ = strconv.Atoi(exit)
		return false
	}
	word, value := line, ""
	if i := strings.LastIndexByte(line, ' '); i >= 0 {
		word, value = strings.Join(strings.Fields(line[:i]), " "), line[i+1:]
	}
	a, ok := parseDotted(value)
	ok = ok && usable(a)
	switch {
	case word == "local IP address" && ok && a.Is4():
		p.link.Addresses = []netip.Prefix{netip.PrefixFrom(a, 32)}
	case (word == "primary DNS address" || word == "secondary DNS address") && ok && len(p.link.DNS) < 2 && !slices.Contains(p.link.DNS, a):
		p.link.DNS = append(p.link.DNS, a)
	case word == "local LL address":
		p.six = true
	default:
		p.complain(line)
		return false
	}
	return true
}

// The words of pppd that say more than its exit status does.
var pppWords = []struct {
	word    string
	refusal Refusal
}{
	{"authentication failed", Refusal{Why: "the network refuses user or password", Hint: hintAPN, Lasting: true}},
	{"peer refused to authenticate", Refusal{Why: "the network did not prove itself"}},
	{"timeout sending Config-Requests", Refusal{Why: "the modem took the dial and does not speak PPP", Hint: hintAPN}},
	{"Could not determine local IP address", Refusal{Why: "the network gave no address", Hint: hintAPN}},
	{"No response to ", Refusal{Why: "the modem no longer answers PPP"}},
	{"Modem hangup", Refusal{Why: "the modem hung up"}},
	{"no PPP line discipline", Refusal{Why: "the kernel has no PPP", Hint: "modprobe ppp_async", Lasting: true}},
	{"Couldn't set tty to PPP discipline", Refusal{Why: "the kernel has no PPP", Hint: "modprobe ppp_async", Lasting: true}},
}

// complain keeps the first complaint: those after it are its consequences.
func (p *pppLog) complain(line string) {
	if p.why != nil {
		return
	}
	for _, w := range pppWords {
		if strings.Contains(line, w.word) {
			p.why = &w.refusal
			return
		}
	}
}

// err is why pppd ended.
func (p *pppLog) err() error {
	why := p.why
	if why == nil {
		why = pppExits[p.status]
	}
	switch {
	case why != nil:
		return why
	case p.status > 0:
		return &Refusal{Why: fmt.Sprintf("pppd ended with status %d", p.status)}
	}
	return fmt.Errorf("%w: pppd ended", errLost)
}
