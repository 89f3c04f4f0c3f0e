package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"
)

// TLSMode says how a mail server's connection becomes private.
type TLSMode string

// The modes.
const (
	StartTLS TLSMode = "starttls" // after the greeting; a server that does not offer it gets nothing
	TLS      TLSMode = "tls"      // from the first byte, port 465 as a rule
	NoTLS    TLSMode = "none"     // for a relay on the same wire; without credentials only
)

// Mail sends messages through a mail server. Each recipient gets a mail of its
// own: one that the server refuses costs the others nothing, and each is told exactly
// once in the books.
type Mail struct {
	Server       string // host:port
	From         mail.Address
	To           []string // addresses without names
	User         string   // "": no AUTH
	PasswordFile string
	TLS          TLSMode
	CAFile       string // PEM: trusted beside the system's own

	dial func(ctx context.Context, network, address string) (net.Conn, error) // tests may set it
}

// Limits of a mail server (times of RFC 5321, section 4.5.3.2).
const (
	smtpDial    = 30 * time.Second
	smtpCommand = 5 * time.Minute
	smtpLast    = 10 * time.Minute // the answer after the last byte: shorter ones make doubles (RFC 1047)
	maxSession  = 512 << 10        // that a server may say, its certificates included
)

// Addresses are the recipients.
func (m *Mail) Addresses() []string { return m.To }

// Show is the recipient.
func (m *Mail) Show(address string) string { return address }

// Send brings one letter to the mail server.
func (m *Mail) Send(ctx context.Context, l Letter, mark func()) error {
	s, err := m.open(ctx)
	if err != nil {
		return fmt.Errorf("mail server %s: %w", m.Server, err)
	}
	defer s.close()
	if err := s.deliver(m.From.Address, l.Address, mailOf(m.From, l), mark); err != nil {
		return fmt.Errorf("mail server %s: %w", m.Server, err)
	}
	return nil
}

// session is a connection with a mail server, until one letter is delivered.
type session struct {
	*smtp.Client
	conn *patient
	stop func() bool // of the guard that closes the connection with ctx
}

// open connects and does what comes before a letter. Its errors are the server's
// or the configuration's, not the letter's: they may all heal.
func (m *Mail) open(ctx context.Context) (s *session, err error) {
	host, _, err := net.SplitHostPort(m.Server)
	if err != nil {
		return nil, err
	}
	conf, err := tlsConfig(m.CAFile, host)
	if err != nil {
		return nil, err
	}
	dial := m.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: smtpDial}).DialContext
	}
	raw, err := dial(ctx, "tcp", m.Server)
	if err != nil {
		return nil, err
	}
	s = &session{conn: &patient{Conn: raw, left: maxSession, limit: smtpCommand}, stop: context.AfterFunc(ctx, func() { raw.Close() })}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	raw.SetDeadline(time.Now().Add(smtpCommand)) // for the greeting
	var conn net.Conn = s.conn
	if m.TLS == TLS {
		conn = tls.Client(conn, conf)
	}
	if s.Client, err = smtp.NewClient(conn, host); err != nil {
		return s, plainly(err)
	}
	if err := s.Hello(literal(raw.LocalAddr())); err != nil {
		return s, plainly(err)
	}
	if m.TLS == StartTLS || m.TLS == "" {
		if ok, _ := s.Extension("STARTTLS"); !ok {
			return s, errors.New("it offers no STARTTLS, and nothing goes to it in clear: take port 465 with tls = \"tls\", or another server")
		}
		if err := s.StartTLS(conf); err != nil {
			return s, fmt.Errorf("STARTTLS: %w", plainly(err))
		}
	}
	return s, m.login(s)
}

// login authenticates, over TLS only.
func (m *Mail) login(s *session) error {
	if m.User == "" {
		return nil
	}
	if _, private := s.TLSConnectionState(); !private {
		return errors.New("the password is not sent in clear: set tls to starttls or tls")
	}
	password, err := readSecret(m.PasswordFile)
	if err != nil {
		return err
	}
	_, offered := s.Extension("AUTH")
	auth, err := authFor(offered, m.User, password)
	if err != nil {
		return err
	}
	if err := s.Auth(auth); err != nil {
		return fmt.Errorf("it does not take user %s with the password in %s: %w", m.User, m.PasswordFile, plainly(err))
	}
	return nil
}

// authFor chooses among what the server offers.
func authFor(offered, user, password string) (smtp.Auth, error) {
	for _, mechanism := range strings.Fields(strings.ToUpper(offered)) {
		if mechanism == "PLAIN" || mechanism == "LOGIN" {
			return &auth{mechanism: mechanism, user: user, password: password}, nil
		}
	}
	return nil, fmt.Errorf("it offers neither AUTH PLAIN nor LOGIN, but %q", oneLine(offered, 100))
}

// auth is AUTH PLAIN (RFC 4616) and AUTH LOGIN (draft-murchison-sasl-login).
type auth struct{ mechanism, user, password string }

// Start sends all there is for PLAIN; for LOGIN the server asks.
func (a *auth) Start(s *smtp.ServerInfo) (string, []byte, error) {
	if !s.TLS {
		return "", nil, errors.New("the password is not sent in clear")
	}
	if a.mechanism == "PLAIN" {
		return "PLAIN", []byte("\x00" + a.user + "\x00" + a.password), nil
	}
	return "LOGIN", nil, nil
}

// Next answers the two questions of LOGIN.
func (a *auth) Next(question []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	q := strings.ToLower(string(question))
	switch {
	case a.mechanism != "LOGIN":
	case strings.HasPrefix(q, "user"):
		return []byte(a.user), nil
	case strings.HasPrefix(q, "pass"):
		return []byte(a.password), nil
	}
	return nil, errors.New("it asks for something unknown while one logs in")
}

// deliver sends one mail to one recipient.
func (s *session) deliver(from, to string, body []byte, mark func()) error {
	if err := s.Mail(from); err != nil {
		return fmt.Errorf("it does not take mail from %s: %w", from, plainly(err))
	}
	if err := s.Rcpt(to); err != nil {
		no := fmt.Errorf("it does not take mail to %s: %w", to, plainly(err))
		if policy(err) {
			return no
		}
		return answered(no, err)
	}
	w, err := s.Data()
	if err != nil {
		return answered(plainly(err), err)
	}
	if _, err := w.Write(body); err != nil {
		return plainly(err)
	}
	mark()
	s.conn.limit = smtpLast
	if err := w.Close(); err != nil { // the final dot, and what the server says to it
		if code(err) == 0 {
			return &Unsure{plainly(err)}
		}
		return answered(plainly(err), err)
	}
	s.conn.limit = smtpDial
	_ = s.Quit() // it has the mail
	return nil
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}

// answered makes an error final where the server says so (RFC 5321, section 4.2.1).
func answered(err, from error) error {
	if c := code(from); c >= 500 && c < 600 {
		return &Refused{err}
	}
	return err
}

// policy reports a "no" to the box and not to the recipient (RFC 3463, section 3.8): a relay
// that is open to the branch's own network knows nobody who comes over LTE, and
// is open again when the box does not.
func policy(err error) bool {
	var e *textproto.Error
	return errors.As(err, &e) && (e.Code == 530 || e.Code == 554 || strings.HasPrefix(e.Msg, "5.7."))
}

// code is the server's answer in an error, or 0 where it did not answer.
func code(err error) int {
	var e *textproto.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// plainly is an error whose text, the server's, steers nobody's terminal.
func plainly(err error) error {
	var e *textproto.Error
	var nonsense textproto.ProtocolError
	switch {
	case errors.As(err, &e):
		return fmt.Errorf("%d %s", e.Code, oneLine(e.Msg, 200))
	case errors.As(err, &nonsense):
		return errors.New(oneLine(nonsense.Error(), 200))
	case errors.Is(err, io.EOF):
		return errors.New("it hung up")
	}
	return err
}

// literal is an address as EHLO has it (RFC 5321, section 4.1.3): the box need
// not have a name in the DNS.
func literal(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return "localhost"
	}
	if t.IP.To4() != nil {
		return "[" + t.IP.String() + "]"
	}
	return "[IPv6:" + t.IP.String() + "]"
}

// patient is a connection on which whatever is written is answered within a limit, and
// through which a server cannot fill the memory.
type patient struct {
	net.Conn
	left  int           // bytes that it may still say
	limit time.Duration // for the answer to what is written next
}

func (p *patient) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, errors.New("it says too much")
	}
	n, err := p.Conn.Read(b[:min(len(b), p.left)])
	p.left -= n
	return n, err
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
