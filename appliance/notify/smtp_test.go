package notify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed testdata/smtpd.py
var smtpd string

// mailServer is Python's aiosmtpd, with a certificate of its own.
type mailServer struct {
	addr, ca string
	lines    *bufio.Reader // what it took: a line of JSON for each mail
}

// arrived is one mail as the server took it.
type arrived struct {
	From string
	To   []string
	TLS  bool
	User string
	Raw  string
}

func newMailServer(t *testing.T, options ...string) *mailServer {
	t.Helper()
	if err := exec.Command("/usr/bin/python3", "-c", "import aiosmtpd").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("aiosmtpd is missing: apt-get install python3-aiosmtpd")
		}
		t.Skip("aiosmtpd is missing: apt-get install python3-aiosmtpd")
	}
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	cmd := exec.Command("/usr/bin/python3", append([]string{"-c", smtpd, cert, key}, options...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("mail server: %s", log.String())
		}
	})
	s := &mailServer{ca: cert, lines: bufio.NewReader(out)}
	line, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the mail server does not come up: %v", err)
	}
	s.addr = "localhost:" + strings.TrimSpace(line)
	return s
}

// next is the next mail that arrived.
func (s *mailServer) next(t *testing.T) arrived {
	t.Helper()
	line, err := s.lines.ReadBytes('\n')
	var m arrived
	if err == nil {
		err = json.Unmarshal(line, &m)
	}
	if err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return m
}

// certificate makes one for localhost.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func to(address string, l Letter) Letter {
	l.Address = address
	return l
}

// A real mail server gets mail over TLS, with a login, and reads in it what we wrote.
func TestMail(t *testing.T) {
	for _, mode := range []TLSMode{StartTLS, TLS, "starttls with AUTH LOGIN"} {
		t.Run(string(mode), func(t *testing.T) {
			var options []string
			m := &Mail{From: mail.Address{Name: "Коробка", Address: "box@example.org"}, User: "rescue", PasswordFile: write(t, "s3cret pässword\n"), TLS: mode}
			switch mode {
			case TLS:
				options = []string{"--tls"}
			case "starttls with AUTH LOGIN":
				options, m.TLS = []string{"--login-only"}, StartTLS
			}
			s := newMailServer(t, options...)
			m.Server, m.CAFile = s.addr, s.ca
			marked := 0
			if err := m.Send(t.Context(), to("anna@example.org", letter(t)), func() { marked++ }); err != nil || marked != 1 {
				t.Fatalf("%v, marked %d times", err, marked)
			}
			got := s.next(t)
			if got.From != "box@example.org" || len(got.To) != 1 || got.To[0] != "anna@example.org" || !got.TLS || got.User != "rescue" {
				t.Errorf("envelope %+v", got)
			}
			readMail(t, got.Raw)
		})
	}
}

// readMail checks a mail as its reader sees it.
func readMail(t *testing.T, raw string) {
	t.Helper()
	msg, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	h := msg.Header
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || subject != "Казань-2: srv01 can be taken over" {
		t.Errorf("subject %q, %v", subject, err)
	}
	from, err := h.AddressList("From")
	if err != nil || from[0].Name != "Коробка" || from[0].Address != "box@example.org" {
		t.Errorf("from %v, %v", from, err)
	}
	if date, err := h.Date(); err != nil || !date.Equal(time.Unix(1e9, 0)) {
		t.Errorf("date %v, %v", date, err)
	}
	if h.Get("Message-ID") != "<0123456789abcdef@example.org>" || h.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("headers %v", h)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	if err != nil || !strings.HasPrefix(string(body), "srv01 in Казань-2 is up with dart") {
		t.Errorf("text %q, %v", body, err)
	}
}

// What a real server refuses: a recipient for good, and a login, which an admin can mend.
func TestMailRefused(t *testing.T) {
	s := newMailServer(t)
	m := &Mail{Server: s.addr, CAFile: s.ca, From: mail.Address{Address: "box@example.org"}, User: "rescue", PasswordFile: write(t, "s3cret pässword")}
	send := func(to string) error {
		l := letter(t)
		l.Address = to
		return m.Send(t.Context(), l, func() {})
	}
	if err := send("nobody@example.org"); verdictOf(err) != "refused" || !strings.Contains(err.Error(), "550 no such user") {
		t.Errorf("no such recipient: %v", err)
	}
	if err := send("later@example.org"); verdictOf(err) != "again" || !strings.Contains(err.Error(), "451") {
		t.Errorf("greylisted: %v", err)
	}
	m.PasswordFile = write(t, "wrong s3cret")
	if err := send("anna@example.org"); verdictOf(err) != "again" || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "does not take user rescue") {
		t.Errorf("wrong password: %v", err)
	}
	m.CAFile = ""
	if err := send("anna@example.org"); verdictOf(err) != "again" || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody trusts: %v", err)
	}
}

// transcript is what a server heard.
type transcript struct {
	mu   sync.Mutex
	text string
}

func (t *transcript) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text += s
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

// fakeServer says what the script says: a line for each that it reads, "" hangs up.
func fakeServer(t *testing.T, lines ...string) (*Mail, *transcript) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard := &transcript{}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		data := false
		for i, line := range lines {
			for i > 0 {
				got, err := r.ReadString('\n')
				heard.add(got)
				if err != nil {
					return
				}
				if !data || got == ".\r\n" {
					break
				}
			}
			data = strings.HasPrefix(line, "354")
			if line == "" {
				return
			}
			fmt.Fprintf(conn, "%s\r\n", line)
		}
		io.Copy(io.Discard, r)
	}()
	return &Mail{Server: l.Addr().String(), From: mail.Address{Address: "box@example.org"}, TLS: NoTLS}, heard
}

// Servers that fail in every way: what is in doubt, what is final, and that nothing goes out in clear
// that should not.
func TestMailServerFails(t *testing.T) {
	hello := []string{"220 hi", "250 fine"}
	for name, tt := range map[string]struct {
		lines  []string
		want   string
		marked bool
	}{
		"works":                  {append(hello, "250 ok", "250 ok", "354 go", "250 taken", "221 bye"), "sent", true},
		"hangs up after the dot": {append(hello, "250 ok", "250 ok", "354 go", ""), "unsure", true},
		"refuses after the dot":  {append(hello, "250 ok", "250 ok", "354 go", "554 spam"), "refused", true},
		"busy after the dot":     {append(hello, "250 ok", "250 ok", "354 go", "452 disk full"), "again", true},
		"refuses data":           {append(hello, "250 ok", "250 ok", "554 no"), "refused", false},
		"refuses the sender":     {append(hello, "550 who?"), "again", false}, // the configuration's fault
		"refuses the recipient":  {append(hello, "250 ok", "550 5.1.1 no such user"), "refused", false},
		"relays for others only": {append(hello, "250 ok", "554 5.7.1 <anna@example.org>: Relay access denied"), "again", false},
		"wants AUTH":             {append(hello, "250 ok", "530 5.7.0 Authentication required"), "again", false},
		"relays not, in short":   {append(hello, "250 ok", "550 5.7.1 Unable to relay"), "again", false},
		"closed":                 {[]string{"554 go away"}, "again", false},
		"hangs up":               {[]string{""}, "again", false},
		"nonsense":               {[]string{"HTTP/1.1 400 Bad Request"}, "again", false},
		"hangs up at QUIT":       {append(hello, "250 ok", "250 ok", "354 go", "250 taken", ""), "sent", true},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := fakeServer(t, tt.lines...)
			marked := false
			err := m.Send(t.Context(), to("anna@example.org", letter(t)), func() { marked = true })
			if got := verdictOf(err); got != tt.want || marked != tt.marked {
				t.Errorf("%s, marked %v (%v); want %s, %v", got, marked, err, tt.want, tt.marked)
			}
		})
	}
	t.Run("no STARTTLS", func(t *testing.T) {
		m, heard := fakeServer(t, "220 hi", "250-fine\r\n250 AUTH PLAIN")
		m.TLS, m.User, m.PasswordFile = StartTLS, "rescue", write(t, "s3cret")
		err := m.Send(t.Context(), to("anna@example.org", letter(t)), func() { t.Error("marked") })
		if verdictOf(err) != "again" || !strings.Contains(err.Error(), "no STARTTLS") || strings.Contains(heard.String(), "AUTH") || strings.Contains(heard.String(), "MAIL") {
			t.Errorf("%v; it heard %q", err, heard)
		}
	})
	t.Run("password without TLS", func(t *testing.T) {
		m, heard := fakeServer(t, "220 hi", "250 AUTH PLAIN", "235 welcome")
		m.User, m.PasswordFile = "rescue", write(t, "s3cret")
		err := m.Send(t.Context(), to("anna@example.org", letter(t)), func() { t.Error("marked") })
		if err == nil || strings.Contains(heard.String(), "AUTH") {
			t.Errorf("%v; it heard %q", err, heard)
		}
	})
	t.Run("says nothing", func(t *testing.T) {
		m, _ := fakeServer(t)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := m.Send(ctx, to("anna@example.org", letter(t)), func() {}); verdictOf(err) != "again" {
			t.Errorf("%v", err)
		}
	})
}

// Whatever a mail server says, we do not hang, keep little of it, and never take what it did not say for a yes.
func FuzzMailServer(f *testing.F) {
	f.Add("220 hi\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye\r\n")
	f.Add("220-hi\r\n220 hi\r\n250-x\r\n250 STARTTLS\r\n550 \x1b[2J\r\n")
	f.Add("220 " + strings.Repeat("x", 10000))
	f.Add("220 hi\r\n" + strings.Repeat("\x1b", 10000) + "\r\n")
	l := Letter{ID: "1", Address: "anna@example.org", Message: Message{Kind: Test}, Words: Words{Subject: "s", Text: "t\n"}}
	f.Fuzz(func(t *testing.T, says string) {
		m := &Mail{Server: "mx.example.org:25", From: mail.Address{Address: "box@example.org"}, TLS: NoTLS}
		m.dial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			go func() {
				io.WriteString(theirs, says)
				theirs.Close()
			}()
			return ours, nil
		}
		err := m.Send(t.Context(), l, func() {})
		if err == nil && strings.Count(says, "250") < 4 {
			t.Errorf("%q was taken for a yes", says)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		var p *net.OpError
		if errors.As(err, &p) && p.Timeout() {
			t.Errorf("%q took too long", says)
		}
	})
}
