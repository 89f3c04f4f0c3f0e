package modem

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ppp dials with ATD on a tty, and has pppd speak on it from CONNECT on. The network
// device is pppd's: it comes and goes with it.
type ppp struct {
	// lend calls use with the tty, and has it back when use returns.
	lend     func(ctx context.Context, use func(tty string) error) error
	access   access
	name     string // of the network device
	v4, v6   bool
	connect  func(ctx context.Context) (net.Conn, error) // to who runs pppd
	goodbye  time.Duration                               // how long pppd may take to end
	prepared []string                                    // said before the dial, with or without success
}

// newPPP makes the driver. socket leads to rescuebox-ppp@.service; a daemon that is root
// needs none.
func newPPP(c Config, lend func(context.Context, func(string) error) error, socket string) *ppp {
	v4, v6 := families(c.IPType)
	return &ppp{
		lend: lend, access: access{c.APN, c.User, c.Auth, c.IPType, c.Password},
		name: pppName(c.Name), v4: v4, v6: v6, connect: pppConnector(socket), goodbye: pppdEnds + 5*time.Second,
		// SIM7600: +CMER=3, as ModemManager sets it, keeps ATD from ever answering (ModemManager#144).
		prepared: []string{"+CMER=0,0,0,0"},
	}
}

// pppName is the network device's name: of 15 characters at most, that is the kernel's limit.
func pppName(modem string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, "ppp-"+modem)
	return name[:min(len(name), 15)]
}

// pppConnector reaches who runs pppd: this process where it is root, else the unit.
func pppConnector(socket string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if os.Geteuid() == 0 {
			return inProcess(ctx, pppdProgram), nil
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("ask rescuebox-ppp.socket for pppd; is it enabled? %w", err)
		}
		return conn, nil
	}
}

// inProcess runs pppd under this process. ctx does not end it: the connection does, so
// that its last words are heard.
func inProcess(ctx context.Context, program string) net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		_ = servePPP(context.WithoutCancel(ctx), theirs, theirs, program)
		theirs.Close()
	}()
	return ours
}

// hold dials and keeps pppd.
func (p *ppp) hold(ctx context.Context, changed func(Link)) error {
	return p.lend(ctx, func(path string) error {
		// The name that stays leads to the device's own, which is what pppd is let have.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		port, err := openTTY(path, 0)
		if err != nil {
			return err
		}
		defer port.Close()
		// The port stays open here as well: to dial, and because a pty whose last user goes away hangs up. pppd opens it too.
		if err := release(port); err != nil {
			return err
		}
		defer hangUp(port)
		return p.speak(ctx, path, func() error { return (&dialler{tty: port, ctx: ctx}).dial(p) }, changed)
	})
}

// down has nothing to do: hold leaves no pppd behind, and nor does a daemon that died.
func (p *ppp) down(context.Context) error { return nil }

// speak has pppd speak on the tty until ctx is done or it ends; first, where there is one, dial dials on
// it, while pppd waits.
func (p *ppp) speak(ctx context.Context, path string, dial func() error, changed func(Link)) error {
	password, err := p.access.secret()
	if err != nil {
		return err
	}
	auth := p.access.auth
	if auth == "none" {
		auth = ""
	}
	request, err := json.Marshal(pppRequest{Device: path, Interface: p.name, User: p.access.user, Password: password, Auth: auth, Wait: dial != nil, V4: p.v4, V6: p.v6})
	if err != nil {
		return err
	}
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("ask for pppd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Now().Add(p.goodbye))
		_, _ = conn.Write([]byte("end\n"))
	})
	defer stop()
	lines := bufio.NewScanner(conn)
	log := &pppLog{status: -1, link: Link{Device: p.name}}
	if dial != nil {
		if err := p.dialled(conn, lines, log, dial); err != nil {
			return err
		}
	}
	err = p.listen(ctx, lines, log, changed)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// dialled dials when pppd is ready for it, and lets pppd begin; one whose dial failed is ended.
func (p *ppp) dialled(conn net.Conn, lines *bufio.Scanner, log *pppLog, dial func() error) error {
	for lines.Scan() && lines.Text() != dialLine {
		log.read(lines.Text())
	}
	if lines.Text() != dialLine {
		return log.err()
	}
	err := dial()
	say := "go\n"
	if err != nil {
		_ = conn.SetDeadline(time.Now().Add(p.goodbye))
		say = "end\n"
	}
	if _, failed := conn.Write([]byte(say)); err == nil && failed != nil {
		return fmt.Errorf("%w: pppd: %w", errLost, failed)
	}
	for err != nil && lines.Scan() { // until it has let go of the port
		continue
	}
	return err
}

// listen reads pppd's log to its end.
func (p *ppp) listen(ctx context.Context, lines *bufio.Scanner, log *pppLog, changed func(Link)) error {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var six Link
	tell := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
		changed(p.both(log.link, six))
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for began := false; lines.Scan(); {
		news := false
		mu.Lock()
		news = log.read(lines.Text())
		mu.Unlock()
		if news && len(log.link.Addresses) > 0 {
			tell(func() {})
		}
		if log.six && !began {
			began = true
			wg.Go(func() { p.adverts(ctx, func(l Link) { tell(func() { six = l }) }) })
		}
	}
	return log.err()
}

// both is the link of both families. PPP leads to one peer: no gateway is needed.
func (p *ppp) both(four, six Link) Link {
	l := Link{Device: p.name, MTU: six.MTU,
		Addresses: slices.Concat(four.Addresses, six.Addresses), DNS: slices.Concat(four.DNS, six.DNS)}
	if link, err := device(p.name).find(); err == nil && l.MTU == 0 {
		l.MTU = link.Attrs().MTU
	}
	return l
}

// adverts sets the IPv6 addresses on pppd's device: IPv6CP gives the half that is ours, the
// network's comes by router advertisement (RFC 5072, RFC 6459 section 5.2).
func (p *ppp) adverts(ctx context.Context, changed func(Link)) {
	link, err := device(p.name).raise()
	if err != nil {
		return
	}
	s := &setup{name: p.name, link: link}
	got := make(chan Link)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		_ = s.keepSix(ctx, got)
		cancel()
	})
	for {
		select {
		case l := <-got:
			device(p.name).noDefault(link)
			changed(l)
		case <-ctx.Done():
			return
		}
	}
}

// dialler speaks AT on the tty that pppd gets afterwards: one byte at a time, for what
// stands behind CONNECT is pppd's.
type dialler struct {
	tty *tty
	ctx context.Context
}

// dial ends at CONNECT.
func (d *dialler) dial(p *ppp) error {
	stop := context.AfterFunc(d.ctx, func() { _ = d.tty.SetDeadline(time.Now()) })
	defer stop()
	if err := d.wake(); err != nil {
		return err
	}
	for _, cmd := range append([]string{"E0"}, p.prepared...) {
		if err := d.say(cmd, askTimeout); errors.Is(err, errNoAnswer) {
			return err
		}
	}
	define := fmt.Sprintf(`+CGDCONT=%d,"%s"`, contextID, pdpType(p.access.ipType))
	if p.access.apn != "" {
		define += `,"` + quoted(p.access.apn) + `"`
	}
	if err := d.say(define, askTimeout); err != nil {
		return fmt.Errorf("tell the modem the APN: %w", err)
	}
	if err := d.say(fmt.Sprintf("D*99***%d#", contextID), dataTimeout); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	return d.tty.SetDeadline(time.Time{})
}

// wake finds the modem listening to commands, and no longer in a call.
func (d *dialler) wake() error {
	for try := range wakeTries {
		err := d.say("", wakeAnswer)
		if err == nil || !errors.Is(err, errNoAnswer) || d.ctx.Err() != nil {
			return d.ctx.Err()
		}
		if try%2 == 0 { // twice: a busy system may have spoiled the first silence
			err := leaveCall(d.ctx, d.tty, func(cmd string) error { return d.say(cmd, wakeAnswer) })
			if err != nil && d.ctx.Err() != nil {
				return d.ctx.Err()
			}
		}
	}
	return fmt.Errorf("%w: the modem says nothing on its port for data", errNoAnswer)
}

// say sends a command and reads to its result. What came before is the answer to something else.
func (d *dialler) say(cmd string, timeout time.Duration) error {
	unread(d.tty)
	if err := d.tty.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	if d.ctx.Err() != nil { // its deadline was overwritten
		return d.ctx.Err()
	}
	if _, err := d.tty.Write([]byte("AT" + cmd + "\r")); err != nil {
		return d.fault(err)
	}
	for lines := 0; lines < 64; lines++ {
		line, err := d.line()
		if err != nil {
			return d.fault(err)
		}
		if done, err := result(line); done {
			return err
		}
	}
	return fmt.Errorf("%w: the modem babbles on its port for data", errNoAnswer)
}

// result reports whether the line ends an answer, and how (V.250 5.7.1, TS 27.007 9.2).
func result(line string) (bool, error) {
	switch {
	case line == "OK", line == "CONNECT", strings.HasPrefix(line, "CONNECT "):
		return true, nil
	case line == "ERROR", line == "NO CARRIER", line == "BUSY", line == "NO DIALTONE", line == "NO DIAL TONE", line == "NO ANSWER":
		return true, refusalOf(line)
	case strings.HasPrefix(line, "+CME ERROR:"):
		return true, refusalOf(strings.TrimPrefix(line, "+CME ERROR:"))
	}
	return false, nil
}

func (d *dialler) fault(err error) error {
	switch {
	case d.ctx.Err() != nil:
		return d.ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: the modem says nothing on its port for data", errNoAnswer)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
		return errGone
	}
	return fmt.Errorf("the modem's port for data: %w", err)
}

// line is the next line that is not empty.
func (d *dialler) line() (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < 1024; {
		if _, err := d.tty.Read(one); err != nil {
			return "", err
		}
		if one[0] != '\r' && one[0] != '\n' {
			line = append(line, one[0])
			continue
		}
		if s := strings.TrimSpace(string(line)); s != "" {
			return s, nil
		}
		line = line[:0]
	}
	return string(line), nil
}
