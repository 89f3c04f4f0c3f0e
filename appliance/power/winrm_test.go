package power

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	//lint:ignore SA1019 NTLM is made of it
	"golang.org/x/crypto/md4"
)

// windows is a peer with somebody else's NTLM: gss-ntlmssp, by MIT's GSSAPI.
type windows struct{ dir, port string }

func newWindows(t *testing.T, scheme string, results ...string) *windows {
	t.Helper()
	return newWindowsAt(t, "127.0.0.1", "0", scheme, results...)
}

func newWindowsAt(t *testing.T, host, port, scheme string, results ...string) *windows {
	t.Helper()
	python := debianPython(t)
	if err := exec.Command(python, "-c", "import gssapi").Run(); err != nil {
		missing(t, "Python's gssapi", "python3-gssapi")
	}
	if found, _ := filepath.Glob("/etc/gss/mech.d/*ntlmssp*"); found == nil {
		missing(t, "the NTLM plugin of GSSAPI", "gss-ntlmssp")
	}
	w := &windows{dir: t.TempDir()}
	w.start(t, host, port, scheme, results...)
	return w
}

// start starts the peer with what is in its directory.
func (w *windows) start(t *testing.T, host, port, scheme string, results ...string) {
	t.Helper()
	for name, text := range map[string][]byte{"users": []byte("CORP:rescue:Geheim77\n"), "cert.pem": newCert(t), "called": nil} {
		if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := &log{}
	cmd := exec.Command(debianPython(t), append([]string{"testdata/windows.py", w.dir, scheme, host, port}, results...)...)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("windows.py: %s", said)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("windows.py: %v", err)
	}
	w.port = strings.TrimSpace(line)
}

// newCert is a certificate and its key, signed by itself.
func newCert(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

func (w *windows) called(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "called"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// ask shuts a system down at a port by one of the schemes; it is what Ask does once
// it knows them.
func (w *windows) ask(t *testing.T, scheme string, memory Pins, user, password string) error {
	t.Helper()
	s := Shutdown{Kind: "winrm", User: user, Password: secret(password), Pins: memory}
	return s.windows(soon(t, time.Minute), map[string]string{"plain": "http", "tls": "https"}[scheme], "127.0.0.1", w.port)
}

const (
	calledShutdown = "Win32_OperatingSystem.Win32Shutdown <p:Flags>12</p:Flags><p:Reserved>0</p:Reserved>"
	calledExe      = "Win32_Process.Create <p:CommandLine>shutdown.exe /s /f /t 0</p:CommandLine>"
)

func TestShutdownWinRM(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"plain", "tls"} {
		for name, test := range map[string]struct {
			results []string
			want    string
			err     error
		}{
			"taken":         {[]string{"Win32Shutdown=0"}, calledShutdown, nil},
			"already":       {[]string{"Win32Shutdown=1115"}, calledShutdown, nil},
			"no privilege":  {[]string{"Win32Shutdown=1314", "Create=0"}, calledShutdown + "\n" + calledExe, nil},
			"no such class": {[]string{"Win32Shutdown=DestinationUnreachable", "Create=0"}, calledShutdown + "\n" + calledExe, nil},
			"nothing helps": {[]string{"Win32Shutdown=1314", "Create=2"}, calledShutdown + "\n" + calledExe, ErrSystemUnable},
			"may not":       {[]string{"Win32Shutdown=AccessDenied"}, calledShutdown, ErrSystemRefused},
		} {
			t.Run(scheme+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newWindows(t, scheme, test.results...)
				err := w.ask(t, scheme, &pins{}, `CORP\rescue`, "Geheim77")
				wantError(t, err, test.err, "Geheim77")
				if got, want := w.called(t), "login CORP\\rescue\n"+test.want; got != want {
					t.Errorf("Windows saw\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}

func TestShutdownWinRMRefused(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"plain", "tls"} {
		w := newWindows(t, scheme, "Win32Shutdown=0")
		wantError(t, w.ask(t, scheme, &pins{}, `CORP\rescue`, "Falsch88"), ErrSystemRefused, "Falsch88")
		wantError(t, w.ask(t, scheme, &pins{}, `niemand`, "Geheim77"), ErrSystemRefused, "Geheim77")
		if got := w.called(t); strings.Contains(got, "Win32") || !strings.Contains(got, "refused") {
			t.Errorf("Windows saw %s", got)
		}
	}
}

// Where no port is given, the encrypted messages of plain HTTP are for systems that never
// had HTTPS.
func TestShutdownWinRMWithoutHTTPS(t *testing.T) {
	t.Parallel()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.1", 128+pid>>8&63, pid&255) // a loopback address of our own, for the port is given
	w, memory := newWindowsAt(t, host, portHTTP, "plain", "Win32Shutdown=0"), &pins{}
	s := Shutdown{Kind: "winrm", Host: host, User: `CORP\rescue`, Password: secret("Geheim77"), Pins: memory}
	if err := s.Ask(t.Context()); err != nil {
		t.Error(err)
	}
	before := w.called(t)
	if before != "login CORP\\rescue\n"+calledShutdown {
		t.Errorf("Windows saw %s", before)
	}
	memory.of = map[string]string{host + ":" + portHTTPS: strings.Repeat("ab", 32)}
	wantError(t, s.Ask(t.Context()), ErrSystemSilent, "Geheim77")
	if got := w.called(t); got != before {
		t.Errorf("Windows was asked without the HTTPS it had: %s", got)
	}
}

// Another certificate gets no login.
func TestShutdownWinRMPinned(t *testing.T) {
	t.Parallel()
	w, memory := newWindows(t, "tls", "Win32Shutdown=0"), &pins{}
	if err := w.ask(t, "tls", memory, `CORP\rescue`, "Geheim77"); err != nil || len(memory.of) != 1 {
		t.Fatalf("error %v, pinned %v", err, memory.of)
	}
	other := newWindows(t, "tls", "Win32Shutdown=0")
	memory.of["127.0.0.1:"+other.port] = memory.of["127.0.0.1:"+w.port]
	wantError(t, other.ask(t, "tls", memory, `CORP\rescue`, "Geheim77"), ErrCertificate, "Geheim77")
	if got := other.called(t); got != "" {
		t.Errorf("the other saw %s", got)
	}
}

// A login that is passed on to Windows by somebody with a certificate of his own is worth
// nothing there.
func TestShutdownWinRMRelayed(t *testing.T) {
	t.Parallel()
	w, seen := newWindows(t, "tls", "Win32Shutdown=0"), newWindows(t, "tls", "Win32Shutdown=0")
	// What is bound to the second's certificate is shown to the first.
	r := newRemote("https", "127.0.0.1:"+w.port, &pins{})
	stranger := newRemote("https", "127.0.0.1:"+seen.port, &pins{})
	if _, err := stranger.post(t.Context(), nil); err != nil || stranger.binding == nil {
		t.Fatal(err)
	}
	if _, err := r.post(t.Context(), nil); err != nil { // so that the connection stands, and with it the binding
		t.Fatal(err)
	}
	r.binding = stranger.binding
	err := r.login(t.Context(), `CORP\rescue`, "Geheim77")
	if err == nil {
		err = r.invoke(t.Context(), shutDown())
	}
	wantError(t, err, ErrSystemRefused)
	if got := w.called(t); strings.Contains(got, "Win32") {
		t.Errorf("Windows saw %s", got)
	}
}

func TestShutdownWinRMBadPeers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	challenge := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", "Negotiate "+text)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"no remoting":   {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, ErrSystemUnable},
		"no NTLM":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, ErrSystemUnable},
		"no base64":     {challenge("!!"), ErrSystemUnable},
		"garbage":       {challenge(base64.StdEncoding.EncodeToString(make([]byte, 3000))), ErrSystemUnable},
		"no encryption": {challenge(base64.StdEncoding.EncodeToString(weak())), ErrSystemUnable},
		"much": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write(make([]byte, 10<<20))
		}, ErrSystemUnable},
		"silent":   {func(http.ResponseWriter, *http.Request) { <-release }, ErrSystemSilent},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrSystemSilent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.handler)
			defer server.CloseClientConnections()
			_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
			s := Shutdown{Kind: "winrm", User: "rescue", Password: secret("Geheim77"), Pins: &pins{}}
			wantError(t, s.windows(patient(t, test.want), "http", "127.0.0.1", port), test.want, "Geheim77")
		})
	}
}

// goodChallenge is one as Windows sends them.
func goodChallenge() []byte {
	b := make([]byte, 56)
	copy(b, "NTLMSSP\x00\x02\x00\x00\x00")
	binary.LittleEndian.PutUint32(b[16:], 56)
	binary.LittleEndian.PutUint32(b[20:], needed|0x200)
	copy(b[24:], "\x01\x23\x45\x67\x89\xab\xcd\xef")
	info := []byte("\x02\x00\x08\x00C\x00O\x00R\x00P\x00\x07\x00\x08\x0012345678\x00\x00\x00\x00")
	binary.LittleEndian.PutUint16(b[40:], uint16(len(info)))
	binary.LittleEndian.PutUint16(b[42:], uint16(len(info)))
	binary.LittleEndian.PutUint32(b[44:], 56)
	return append(b, info...)
}

// weak would have the library send what shall be sealed as it is.
func weak() []byte {
	b := goodChallenge()
	binary.LittleEndian.PutUint32(b[20:], needed&^0x20)
	return b
}

func proven(t *testing.T, challenge []byte) (*ntlm, error) {
	t.Helper()
	n := &ntlm{user: "rescue", password: "Geheim77"}
	n.greet()
	_, err := n.prove(challenge, nil)
	return n, err
}

// The example of [MS-NLMP] 4.2.4: NTOWFv2, and the keys from its session key.
func TestNTLMKeys(t *testing.T) {
	hash := md4.New()
	hash.Write(wide("Password"))
	if got, want := mac(hash.Sum(nil), wide("USERDomain")), unhex(t, "0c868a403bfd7a93a3001ef22ef02e3f"); !bytes.Equal(got, want) {
		t.Errorf("NTOWFv2 %x, want %x", got, want)
	}
	d := newDirection(bytes.Repeat([]byte{0x55}, 16), "client-to-server")
	if want := unhex(t, "4788dc861b4782f35d43fd98fe1a2d39"); !bytes.Equal(d.signing, want) {
		t.Errorf("signing key %x, want %x", d.signing, want)
	}
	sealed, signature := d.crypt(wide("Plaintext"), true)
	if want := unhex(t, "54e50165bf1936dc996020c1811b0f06fb5f"); !bytes.Equal(sealed, want) {
		t.Errorf("sealed %x, want %x", sealed, want)
	}
	if want := unhex(t, "010000007fb38ec5c55d497600000000"); !bytes.Equal(signature, want) {
		t.Errorf("signature %x, want %x", signature, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChallenge(t *testing.T) {
	if _, err := proven(t, goodChallenge()); err != nil {
		t.Error(err)
	}
	if _, err := proven(t, weak()); err == nil {
		t.Error("a challenge without encryption is taken")
	}
	for name, spoil := range map[string]func(b []byte){
		"attributes beyond its end":       func(b []byte) { binary.LittleEndian.PutUint32(b[44:], uint32(len(b)-4)) },
		"far beyond":                      func(b []byte) { binary.LittleEndian.PutUint32(b[44:], 0xfffffff0) },
		"an attribute longer than all":    func(b []byte) { b[58] = 0xff },
		"one that ends with the last one": func(b []byte) { b[58] = byte(len(b) - 56) },
		"attributes without an end":       func(b []byte) { b[len(b)-4] = 2 },
		"a time of another length":        func(b []byte) { b[70] = 4 },
		"bound to a channel of its own":   func(b []byte) { b[56] = attributeBinding },
	} {
		b := goodChallenge()
		spoil(b)
		if _, err := proven(t, b); !errors.Is(err, errChallenge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever challenge is taken, what follows is sealed.
func FuzzChallenge(f *testing.F) {
	f.Add(goodChallenge())
	f.Add(weak())
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := proven(t, b)
		if err != nil {
			return
		}
		message := []byte("<p:Flags>12</p:Flags>")
		sealed := n.seal(message)
		if bytes.Contains(sealed, message) {
			t.Errorf("%q", sealed)
		}
		if _, text, err := unframe(sealed); err != nil || len(text) != len(message) {
			t.Errorf("its own frame: %v", err)
		}
	})
}

func FuzzUnframe(f *testing.F) {
	f.Add([]byte("--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=2\r\n" +
		"--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n\x10\x00\x00\x000123456789abcdefxy--Encrypted Boundary--\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		signature, sealed, err := unframe(body)
		if err == nil && (len(signature) != signatureLen || len(sealed) > len(body)) {
			t.Errorf("%q %q", signature, sealed)
		}
		n, err := proven(t, goodChallenge())
		if err != nil {
			t.Fatal(err)
		}
		if message, err := n.unseal(body); err == nil {
			t.Errorf("a forged message is taken: %q", message)
		}
	})
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`<s:Envelope xmlns:s="x"><s:Body><p:Win32Shutdown_OUTPUT xmlns:p="y"><p:ReturnValue>0</p:ReturnValue></p:Win32Shutdown_OUTPUT></s:Body></s:Envelope>`))
	f.Add([]byte(`<s:Envelope xmlns:s="x"><s:Body><s:Fault><s:Reason><s:Text>no</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := shutDown().result(body); err != nil && (len(err.Error()) > 2000 || !errors.Is(err, ErrSystemUnable) && !errors.Is(err, ErrSystemRefused)) {
			t.Error(err)
		}
	})
}
