package boottest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"path"
	"strings"
	"time"
)

// originOf is where a URL leads. Firmware without a name server takes an address only.
func originOf(rawURL string) (origin, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return origin{}, fmt.Errorf("boot URL %q: %w", rawURL, err)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "tftp": "69"}[u.Scheme])
	}
	server, err := netip.ParseAddrPort(host)
	if err != nil {
		return origin{}, fmt.Errorf("boot URL %q: firmware cannot look up names: %w", rawURL, err)
	}
	return origin{u.Scheme, server, u.Path}, nil
}

// connection is one keep-alive connection to a server. net/http's client would
// forgive what firmware does not.
type connection struct {
	net.Conn
	r    *bufio.Reader
	host string
}

func (m *Machine) connect(server netip.AddrPort) (*connection, error) {
	conn, err := m.Card.dial(server)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), host: strings.TrimSuffix(server.String(), ":80")}, nil
}

// httpTimeout is how long a firmware waits for more bytes.
const httpTimeout = 30 * time.Second

// response is the head of an answer, checked as firmware does.
type response struct {
	status int
	length int64
	header textproto.MIMEHeader
}

// ask sends a request and reads the head of its answer.
func (m *Machine) ask(c *connection, method, path string, extra ...string) (response, error) {
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: " + c.host, "Accept: */*"}, extra...)
	c.SetDeadline(time.Now().Add(httpTimeout))
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return response{}, err
	}
	first, err := c.r.ReadString('\n')
	if err != nil {
		return response{}, fmt.Errorf("no answer over HTTP: %w", err)
	}
	r := response{header: textproto.MIMEHeader{}}
	if _, err := fmt.Sscanf(first, "HTTP/1.1 %d", &r.status); err != nil {
		return r, fmt.Errorf("HTTP status line %q", first)
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return r, err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return r, m.pedantic(&r, path)
		}
		m.headerLine(&r, line)
	}
}

// headerLine takes one header. An empty one hangs EDK2 (edk2#7443), GRUB knows
// "Content-Length" in no other spelling (rhboot/grub2 PR#216).
func (m *Machine) headerLine(r *response, line string) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	if value == "" {
		m.complain("HTTP header %s is empty", name)
	}
	if name != textproto.CanonicalMIMEHeaderKey(name) {
		m.complain("HTTP header %s is spelled unlike the standard", name)
	}
	r.header.Add(name, value)
}

// pedantic refuses what firmware refuses: redirects, chunks, no length.
func (m *Machine) pedantic(r *response, path string) error {
	if r.status >= 300 && r.status < 400 {
		m.complain("HTTP redirect from %s to %s", path, r.header.Get("Location"))
	}
	if r.header.Get("Transfer-Encoding") != "" {
		m.complain("HTTP answer in chunks, whose end firmware does not see (uefi-rs#1851)")
		return fmt.Errorf("%s: chunked", path)
	}
	if _, err := fmt.Sscanf(r.header.Get("Content-Length"), "%d", &r.length); err != nil {
		m.complain("HTTP answer without Content-Length")
		return fmt.Errorf("%s: no length", path)
	}
	if strings.EqualFold(r.header.Get("Connection"), "close") && r.status < 300 {
		m.complain("HTTP server closes the connection after one file (edk2#9920)")
	}
	return nil
}

// HTTPError is an answer that is no file.
type HTTPError struct {
	Status int
	Text   string
}

func (e *HTTPError) Error() string {
	return fmt.Sprintf("HTTP status %d: %s", e.Status, strings.TrimSpace(e.Text))
}

// httpGet loads a file with one GET, as iPXE does.
func (m *Machine) httpGet(from origin) (Loaded, error) {
	c, err := m.connect(from.server)
	if err != nil {
		return Loaded{}, err
	}
	defer c.Close()
	f := m.memory()
	err = m.body(c, f, from.path, http.StatusOK)
	m.asked("GET "+from.path, f, err, false)
	if err != nil {
		return Loaded{}, fmt.Errorf("%s: %w", from, err)
	}
	return m.arrived(from, f), nil
}

// body asks for a file or a part of it and loads it.
func (m *Machine) body(c *connection, into *memory, path string, status int, extra ...string) error {
	r, err := m.ask(c, http.MethodGet, path, extra...)
	if err != nil {
		return err
	}
	if r.status != status {
		text, err := io.ReadAll(io.LimitReader(c.r, min(r.length, 1000)))
		return errors.Join(&HTTPError{r.status, string(text)}, err)
	}
	if err := m.fits(r.length); err != nil {
		return err
	}
	return c.load(into, r.length)
}

// load reads n bytes; only silence ends it, however slow they come.
func (c *connection) load(into *memory, n int64) error {
	for n > 0 {
		c.SetDeadline(time.Now().Add(httpTimeout))
		got, err := io.CopyN(into, c.r, min(n, 1<<20))
		if n -= got; err != nil {
			return fmt.Errorf("%d bytes are missing: %w", n, err)
		}
	}
	return nil
}

// httpBoot loads a boot file as EDK2's HTTP Boot does: HEAD for size and type,
// then GET over the same connection. Where the connection breaks, newer ones go on
// with a Range (UEFI 2.10 section 24.7); breaks says to let that happen in the
// middle. The content type, or else the suffix, tells a disk image.
func (m *Machine) httpBoot(from origin, breaks bool) (file Loaded, disk bool, err error) {
	c, err := m.connect(from.server)
	if err != nil {
		return file, false, err
	}
	defer func() { c.Close() }()
	head, err := m.ask(c, http.MethodHead, from.path)
	if err == nil && head.status != http.StatusOK {
		err = &HTTPError{head.status, "on HEAD"}
	}
	if err != nil {
		return file, false, fmt.Errorf("%s: %w", from, err)
	}
	into := m.memory()
	if breaks {
		c, err = m.broken(c, into, from, head.length/2)
	} else {
		err = m.body(c, into, from.path, http.StatusOK)
	}
	m.asked("HEAD, GET "+from.path, into, err, false)
	if err != nil {
		return file, false, fmt.Errorf("%s: %w", from, err)
	}
	return m.arrived(from, into), m.isDisk(from, head.header.Get("Content-Type")), nil
}

// broken loads half of a file, loses the connection, and asks another for the rest.
func (m *Machine) broken(c *connection, into *memory, from origin, half int64) (*connection, error) {
	if _, err := m.ask(c, http.MethodGet, from.path); err != nil {
		return c, err
	}
	err := c.load(into, half)
	c.Close()
	if err != nil {
		return c, err
	}
	if c, err = m.connect(from.server); err != nil {
		return c, err
	}
	return c, m.body(c, into, from.path, http.StatusPartialContent, fmt.Sprintf("Range: bytes=%d-", half))
}

// isDisk reports that a file is a RAM disk for the firmware (UEFI 2.10 section 24.7.3).
func (m *Machine) isDisk(from origin, kind string) bool {
	if kind == "application/vnd.efi-iso" || kind == "application/vnd.efi-img" {
		return true
	}
	suffix := strings.ToLower(path.Ext(from.path))
	disk := suffix == ".iso" || suffix == ".img"
	if disk {
		m.complain("%s is served as %s: firmware that goes by the type takes it for a program", path.Base(from.path), kind)
	}
	return disk
}
