package power

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// The ports of WinRM. Over HTTP the messages themselves are encrypted, with keys that
// only who knows the password has; it is all that Windows opens by itself.
const (
	portHTTPS = "5986"
	portHTTP  = "5985"
)

// winrm has Windows shut down over WS-Management ([MS-WSMV]).
func (s Shutdown) winrm(ctx context.Context) error {
	if s.User == "" || s.Password == nil {
		return errors.New("a shutdown over WinRM needs user and password")
	}
	name, port := address(s.Host, "")
	if s.KDCs != nil {
		return s.byKerberos(ctx, name, port)
	}
	switch port {
	case portHTTP, "80":
		return s.windows(ctx, "http", name, port)
	case "":
	default:
		return s.windows(ctx, "https", name, port)
	}
	err := s.windows(ctx, "https", name, portHTTPS)
	// Who had HTTPS once is not asked without: his HTTPS may be kept from us to get at less.
	if !errors.Is(err, errNoConnection) || s.Pins == nil || s.Pins.Get(joined(name, portHTTPS)) != "" {
		return err
	}
	if plain := s.windows(ctx, "http", name, portHTTP); plain != nil {
		return and(err, plain)
	}
	return nil
}

// byKerberos goes over HTTPS only: how messages are wrapped over plain HTTP was not
// to be tested here, without a Windows that takes them.
func (s Shutdown) byKerberos(ctx context.Context, name, port string) error {
	switch {
	case port == portHTTP || port == "80":
		return fmt.Errorf("%w: Kerberos goes over HTTPS only: leave port %s out, and have WinRM listen at %s", ErrSystemUnable, port, portHTTPS)
	case port == "":
		port = portHTTPS
	}
	return s.windows(ctx, "https", name, port)
}

// windows asks Windows at one of its ports, in the way of PowerShell's Restart-Computer
// first; then for shutdown.exe, which takes the privilege for it by itself.
func (s Shutdown) windows(ctx context.Context, scheme, name, port string) error {
	password, err := s.Password()
	if err != nil {
		return err
	}
	r := newRemote(scheme, joined(name, port), s.Pins)
	defer r.client.CloseIdleConnections()
	if s.KDCs == nil {
		err = r.login(ctx, s.User, password)
	} else if r.kerberos, err = newKerberos(s.User, password, name, s.KDCs); err == nil {
		err = r.ticket(ctx)
	}
	if err != nil {
		return err
	}
	first := r.invoke(ctx, shutDown())
	if first == nil || errors.Is(first, ErrSystemRefused) || errors.Is(first, ErrSystemSilent) {
		return first
	}
	if err := r.invoke(ctx, shutdownExe()); err != nil {
		return and(first, err)
	}
	return nil
}

// remote is one connection to Windows' remoting; NTLM authenticates connections.
type remote struct {
	url     string
	sealed  bool // messages are encrypted by us, TLS does not do it
	client  *http.Client
	ntlm    *ntlm
	binding []byte // to the channel; nil without TLS
	proof   string // of who we are, not sent yet

	kerberos *kerberos // in place of NTLM; each request has its own proof
}

func newRemote(scheme, host string, pins Pins) *remote {
	r := &remote{url: scheme + "://" + host + "/wsman", sealed: scheme == "http"}
	config := pinned(host, pins)
	check := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if err := check(s); err != nil {
			return err
		}
		r.binding = bindings(s.PeerCertificates[0])
		return nil
	}
	r.client = &http.Client{Transport: transport(config), CheckRedirect: stay}
	return r
}

// bindings tie the login to this very certificate (RFC 5929 §4), so that nobody in
// between can pass it on.
func bindings(c *x509.Certificate) []byte {
	var sum []byte
	switch c.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h := sha512.Sum384(c.Raw)
		sum = h[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h := sha512.Sum512(c.Raw)
		sum = h[:]
	default: // MD5 and SHA-1, too, count as SHA-256
		h := sha256.Sum256(c.Raw)
		sum = h[:]
	}
	return append([]byte("tls-server-end-point:"), sum...)
}

// login goes as far as the proof of who we are ([MS-NTHT]). Over HTTPS it is sent with the
// first message; over HTTP alone, as only after it there are keys.
func (r *remote) login(ctx context.Context, user, password string) error {
	domain, name, found := strings.Cut(user, `\`)
	if !found {
		domain, name = "", user // user@domain goes as it is
	}
	r.ntlm = &ntlm{domain: domain, user: name, password: password}
	answer, err := r.post(ctx, r.ntlm.greet())
	if err != nil {
		return err
	}
	challenge, err := negotiate(answer)
	if err != nil {
		return err
	}
	proof, err := r.ntlm.prove(challenge, r.binding)
	if err != nil {
		return fmt.Errorf("%w: NTLM: %w", ErrSystemUnable, err)
	}
	r.proof = "Negotiate " + base64.StdEncoding.EncodeToString(proof)
	if !r.sealed {
		return nil
	}
	answer, err = r.post(ctx, proof)
	if err != nil {
		return err
	}
	r.proof = ""
	return accepted(answer)
}

// ticket is Kerberos' login. Windows is greeted first: who is not there needs no ticket,
// and the connection is what the proof is bound to.
func (r *remote) ticket(ctx context.Context) error {
	a, err := r.send(ctx, "", soapType, nil)
	if err != nil {
		return err
	}
	if ways := a.header.Values("WWW-Authenticate"); a.code != http.StatusUnauthorized || !slices.Contains(ways, "Negotiate") {
		return fmt.Errorf("%w: it answers %d and takes no Kerberos (Negotiate): is this Windows' remoting?", ErrSystemUnable, a.code)
	}
	return r.kerberos.login(ctx)
}

// authorize is what the next request proves, and what its answer must.
func (r *remote) authorize() (proof string, check func(answer) error, err error) {
	if r.kerberos == nil {
		proof, r.proof = r.proof, ""
		return proof, accepted, nil
	}
	l, err := r.kerberos.prove(r.binding)
	if err != nil {
		return "", nil, fmt.Errorf("%w: Kerberos: %w", ErrSystemUnable, err)
	}
	return "Negotiate " + base64.StdEncoding.EncodeToString(l.token), l.accepted, nil
}

// negotiate takes the challenge out of the answer to our greeting.
func negotiate(a answer) ([]byte, error) {
	if a.code != http.StatusUnauthorized {
		return nil, fmt.Errorf("%w: it answers %d: is this Windows' remoting?", ErrSystemUnable, a.code)
	}
	for _, way := range a.header.Values("WWW-Authenticate") {
		text, found := strings.CutPrefix(way, "Negotiate ")
		if !found {
			continue
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%w: its NTLM challenge is no base64", ErrSystemUnable)
		}
		return challenge, nil
	}
	return nil, fmt.Errorf("%w: it takes no NTLM (Negotiate)", ErrSystemUnable)
}

func accepted(a answer) error {
	switch a.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: it answers %d: user or password is wrong, or may not log in remotely", ErrSystemRefused, a.code)
	case http.StatusOK, http.StatusInternalServerError: // 500 carries a fault, which says what is wrong
		return nil
	}
	return fmt.Errorf("%w: it answers %d", ErrSystemUnable, a.code)
}

// invoke calls a method of Windows.
func (r *remote) invoke(ctx context.Context, m method) error {
	message, kind := m.message(r.url), soapType
	if r.sealed {
		message, kind = r.ntlm.seal(message), sealedType
	}
	proof, check, err := r.authorize()
	if err != nil {
		return err
	}
	a, err := r.send(ctx, proof, kind, message)
	if err != nil {
		return err
	}
	if err := check(a); err != nil {
		return err
	}
	body := a.body
	if r.sealed {
		if body, err = r.ntlm.unseal(body); err != nil {
			return fmt.Errorf("%w: %w", ErrSystemUnable, err)
		}
	}
	return m.result(body)
}

// answer is what came of a request.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// post sends a token alone.
func (r *remote) post(ctx context.Context, token []byte) (answer, error) {
	return r.send(ctx, "Negotiate "+base64.StdEncoding.EncodeToString(token), soapType, nil)
}

// errNoConnection is nobody there at all.
var errNoConnection = errors.New("no connection")

func (r *remote) send(ctx context.Context, authorization, kind string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.GetBody = nil // never sent twice: on another connection it would prove nothing
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", "rescuebox")
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{}, unreachable(ctx, err)
	}
	defer resp.Body.Close()
	// One byte more shows what is too long; and what is read to its end leaves the
	// connection, which is who we are, for the next request.
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, silent(ctx, ErrSystemSilent, err)
	}
	if len(text) > maxAnswer {
		return answer{}, fmt.Errorf("%w: an answer of more than %d KiB", ErrSystemUnable, maxAnswer>>10)
	}
	return answer{resp.StatusCode, resp.Header, text}, nil
}
