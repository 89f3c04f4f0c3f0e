package power

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// domain is a Kerberos realm of MIT's KDC, on a loopback address of our own.
type domain struct{ dir, kdc string }

var domains atomic.Int32 // in this process: each has another address

func newDomain(t *testing.T) *domain {
	t.Helper()
	create, kadmin, krb5kdc := tool(t, "kdb5_util", "krb5-kdc"), tool(t, "kadmin.local", "krb5-admin-server"), tool(t, "krb5kdc", "krb5-kdc")
	pid := os.Getpid()
	d := &domain{dir: t.TempDir(), kdc: fmt.Sprintf("127.%d.%d.%d:8088", 192+pid>>8&63, pid&255, domains.Add(1))}
	for name, text := range map[string]string{
		"krb5.conf": "[libdefaults]\ndefault_realm = EXAMPLE.ORG\ndns_lookup_kdc = false\nrdns = false\n[realms]\nEXAMPLE.ORG = {\nkdc = " + d.kdc + "\n}\n" +
			"[domain_realm]\nlocalhost = EXAMPLE.ORG\n[logging]\nkdc = FILE:" + d.dir + "/kdc.log\n",
		"kdc.conf": "[realms]\nEXAMPLE.ORG = {\ndatabase_name = " + d.dir + "/principal\nkey_stash_file = " + d.dir + "/stash\nacl_file = " + d.dir + "/acl\n" +
			"kdc_listen = \"\"\nkdc_tcp_listen = " + d.kdc + "\nmaster_key_type = aes256-cts\nsupported_enctypes = aes256-cts:normal aes128-cts:normal\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.run(t, create, "create", "-r", "EXAMPLE.ORG", "-s", "-P", "master")
	for _, query := range []string{
		"addprinc +requires_preauth -pw Geheim77 rescue",
		"addprinc -pw Geheim77 trusting", // needs no proof beforehand
		"addprinc +requires_preauth -pw Geheim77 -e aes128-cts:special lesser",
		"addprinc +requires_preauth -pw Geheim77 -e arcfour-hmac:normal ancient",
		"addprinc +requires_preauth -pw Geheim77 -pwexpire yesterday expired",
		"addprinc +requires_preauth -pw Geheim77 -expire yesterday gone",
		"addprinc +requires_preauth -pw Geheim77 -allow_tix locked",
		"addprinc -randkey HTTP/localhost", "ktadd -k " + d.dir + "/keytab HTTP/localhost",
	} {
		d.run(t, kadmin, "-r", "EXAMPLE.ORG", "-q", query)
	}
	said := &log{}
	cmd := exec.Command(krb5kdc, "-n", "-r", "EXAMPLE.ORG", "-P", filepath.Join(d.dir, "pid"))
	cmd.Env, cmd.Stdout, cmd.Stderr = d.env(), said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(d.dir, "kdc.log"))
			t.Logf("krb5kdc: %s%s", said, text)
		}
	})
	till(t, "the KDC", func() bool {
		conn, err := net.Dial("tcp", d.kdc)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return d
}

func (d *domain) env() []string {
	return append(os.Environ(), "KRB5_CONFIG="+d.dir+"/krb5.conf", "KRB5_KDC_PROFILE="+d.dir+"/kdc.conf", "KRB5RCACHEDIR="+d.dir)
}

func (d *domain) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = d.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// member is a Windows of the domain, called localhost there.
func (d *domain) member(t *testing.T, scheme string, results ...string) *windows {
	t.Helper()
	if err := exec.Command(debianPython(t), "-c", "import gssapi").Run(); err != nil {
		missing(t, "Python's gssapi", "python3-gssapi")
	}
	w := &windows{dir: t.TempDir()}
	for _, name := range []string{"krb5.conf", "keytab"} {
		text, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.start(t, "127.0.0.1", "0", scheme, results...)
	return w
}

// byKerberos shuts a member down.
func (w *windows) byKerberos(user, password string, kdcs ...string) Shutdown {
	return Shutdown{Kind: "winrm", Host: "localhost:" + w.port, User: user, Password: secret(password), Pins: &pins{}, KDCs: kdcs}
}

func TestShutdownKerberos(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for name, test := range map[string]struct {
		user, password string
		results        []string
		want           string
		err            error
		says           string
	}{
		"taken":           {"rescue", "Geheim77", []string{"Win32Shutdown=0"}, calledShutdown, nil, ""},
		"without a proof": {"trusting", "Geheim77", []string{"Win32Shutdown=0"}, calledShutdown, nil, ""},
		"AES 128, salted": {"lesser", "Geheim77", []string{"Win32Shutdown=0"}, calledShutdown, nil, ""},
		"no privilege":    {"rescue", "Geheim77", []string{"Win32Shutdown=1314", "Create=0"}, calledShutdown + "\n" + "login rescue@EXAMPLE.ORG\n" + calledExe, nil, ""},
		"may not":         {"rescue", "Geheim77", []string{"Win32Shutdown=AccessDenied"}, calledShutdown, ErrSystemRefused, "may not call"},
		"wrong password":  {"rescue", "Falsch88", nil, "", ErrSystemRefused, "password of rescue@EXAMPLE.ORG is wrong"},
		"wrong, trusting": {"trusting", "Falsch88", nil, "", ErrSystemRefused, "is wrong"},
		"nobody":          {"niemand", "Geheim77", nil, "", ErrSystemRefused, "no user niemand"},
		"expired":         {"expired", "Geheim77", nil, "", ErrSystemRefused, "has expired"},
		"gone":            {"gone", "Geheim77", nil, "", ErrSystemRefused, "has expired"},
		"locked":          {"locked", "Geheim77", nil, "", ErrSystemRefused, "locked"},
		"RC4 only":        {"ancient", "Geheim77", nil, "", ErrSystemUnable, "no AES key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := d.member(t, "tls", test.results...)
			err := w.byKerberos(test.user+"@EXAMPLE.ORG", test.password, d.kdc).Ask(t.Context())
			wantError(t, err, test.err, test.password)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want one with %q", err, test.says)
			}
			want := test.want
			if want != "" {
				want = "login " + test.user + "@EXAMPLE.ORG\n" + want
			}
			if got := w.called(t); got != want {
				t.Errorf("Windows saw\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The names of both sides must fit.
func TestShutdownKerberosNames(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	w := d.member(t, "tls", "Win32Shutdown=0")
	s := w.byKerberos("rescue@EXAMPLE.ORG", "Geheim77", d.kdc)
	s.Host = "127.0.0.1:" + w.port
	wantSaying(t, s.Ask(t.Context()), ErrSystemUnable, "no service HTTP/127.0.0.1", "Geheim77")
	wantSaying(t, w.byKerberos("rescue@ELSEWHERE.ORG", "Geheim77", d.kdc).Ask(t.Context()), ErrSystemRefused, "realm ELSEWHERE.ORG has no user rescue", "Geheim77")
	wantSaying(t, w.byKerberos("rescue", "Geheim77", d.kdc).Ask(t.Context()), ErrSystemUnable, "wants the user with the realm", "Geheim77")
	s.Host = "localhost:5985"
	wantSaying(t, s.Ask(t.Context()), ErrSystemUnable, "HTTPS only", "Geheim77")
	if got := w.called(t); got != "" {
		t.Errorf("Windows saw %s", got)
	}
	// The same name, and another account behind it.
	other := newDomain(t).member(t, "tls", "Win32Shutdown=0")
	wantSaying(t, other.byKerberos("rescue@EXAMPLE.ORG", "Geheim77", d.kdc).Ask(t.Context()), nil, "cannot open the ticket for HTTP/localhost", "Geheim77")
	if got := other.called(t); !strings.HasPrefix(got, "refused") || strings.Contains(got, "Win32") {
		t.Errorf("the other Windows saw %s", got)
	}
}

// wantSaying is an error with some words; of any kind where that is nil.
func wantSaying(t *testing.T, err, want error, says string, secrets ...string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v, want one with %q", err, says)
	}
	if want == nil {
		want = err
	}
	wantError(t, err, want, secrets...)
}

// A login that is passed on to Windows by somebody with a certificate of his own is worth
// nothing there, and neither is one that is shown again.
func TestShutdownKerberosRelayed(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	w, stranger := d.member(t, "tls", "Win32Shutdown=0"), d.member(t, "tls")
	ticket := func(w *windows) *remote {
		r := newRemote("https", "localhost:"+w.port, &pins{})
		k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", []string{d.kdc})
		if err != nil {
			t.Fatal(err)
		}
		if r.kerberos = k; r.ticket(t.Context()) != nil || r.binding == nil {
			t.Fatal("no ticket")
		}
		return r
	}
	r := ticket(w)
	own := r.binding
	r.binding = ticket(stranger).binding
	wantError(t, r.invoke(t.Context(), shutDown()), ErrSystemRefused, "Geheim77")
	if got := w.called(t); !strings.HasPrefix(got, "refused") || strings.Contains(got, "Win32") {
		t.Errorf("Windows saw %s", got)
	}
	l, err := r.kerberos.prove(own)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		if a, err := r.post(t.Context(), l.token); err != nil || a.code != want {
			t.Errorf("shown %d times: %d, %v; want %d", i+1, a.code, err, want)
		} else if err := l.accepted(a); (err == nil) != (i == 0) {
			t.Errorf("shown %d times: %v", i+1, err)
		}
	}
}

// Who cannot open the ticket may say what he likes.
func TestShutdownKerberosImpostor(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	w := d.member(t, "tls", "Win32Shutdown=0")
	var proof atomic.Value // of the real Windows to somebody else
	proof.Store("")
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("WWW-Authenticate", "Negotiate"+proof.Load().(string))
		if r.Header.Get("Authorization") == "" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked.Add(1)
		fmt.Fprint(rw, `<s:Envelope xmlns:s="x"><s:Body><p:Win32Shutdown_OUTPUT xmlns:p="y"><p:ReturnValue>0</p:ReturnValue></p:Win32Shutdown_OUTPUT></s:Body></s:Envelope>`)
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	s := (&windows{port: port}).byKerberos("rescue@EXAMPLE.ORG", "Geheim77", d.kdc)
	wantSaying(t, s.Ask(t.Context()), ErrSystemUnable, "does not prove that it is localhost", "Geheim77")

	r := newRemote("https", "localhost:"+w.port, &pins{})
	k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", []string{d.kdc})
	if err != nil {
		t.Fatal(err)
	}
	if r.kerberos = k; r.ticket(t.Context()) != nil {
		t.Fatal("no ticket")
	}
	l, err := k.prove(r.binding)
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.post(t.Context(), l.token)
	if err != nil || l.accepted(a) != nil {
		t.Fatal(err, l.accepted(a))
	}
	other, err := k.prove(r.binding) // with the same ticket: the time alone tells them apart
	if err != nil {
		t.Fatal(err)
	}
	wantSaying(t, other.accepted(a), ErrSystemUnable, "forged", "Geheim77")
	for _, text := range []string{" !!", " " + base64.StdEncoding.EncodeToString(make([]byte, 300)), strings.TrimPrefix(a.header.Get("WWW-Authenticate"), "Negotiate")} {
		proof.Store(text)
		r := newRemote("https", "localhost:"+port, &pins{})
		r.kerberos = k
		wantError(t, r.invoke(t.Context(), shutDown()), ErrSystemUnable, "Geheim77")
	}
	if asked.Load() != 5 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// falseKDC answers what it is told; nil: nothing.
func falseKDC(t *testing.T, answer func(request []byte) []byte) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var length [4]byte
				if _, err := io.ReadFull(conn, length[:]); err != nil {
					return
				}
				request := make([]byte, binary.BigEndian.Uint32(length[:])&0xffff)
				if _, err := io.ReadFull(conn, request); err != nil {
					return
				}
				if text := answer(request); text != nil {
					_, _ = conn.Write(text)
					return
				}
				_, _ = conn.Read(length[:]) // until the other side has enough
			}()
		}
	}()
	return listener.Addr().String()
}

func sized(text []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// marshalled is DER, by the library's own encoder, which knows GeneralString.
func marshalled(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refusal is a KRB-ERROR of a KDC whose clock is a day ahead.
func refusal(t testing.TB, code int32, data any) []byte {
	t.Helper()
	e := messages.NewKRBError(types.PrincipalName{NameType: 2, NameString: []string{"krbtgt", "EXAMPLE.ORG"}}, "EXAMPLE.ORG", code, "")
	e.STime = e.STime.AddDate(0, 0, 1)
	if hint, ok := data.(types.ETypeInfo2Entry); ok {
		e.EData = marshalled(t, types.PADataSequence{{PADataType: 19, PADataValue: marshalled(t, types.ETypeInfo2{hint})}})
	}
	text, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestShutdownKerberosBadKDCs(t *testing.T) {
	t.Parallel()
	always := func(text []byte) func([]byte) []byte { return func([]byte) []byte { return text } }
	rounds := func(n uint32) func([]byte) []byte {
		return always(sized(refusal(t, errorcode.KDC_ERR_PREAUTH_REQUIRED, types.ETypeInfo2Entry{EType: etypeID.AES256_CTS_HMAC_SHA1_96, Salt: "x", S2KParams: binary.BigEndian.AppendUint32(nil, n)})))
	}
	for name, test := range map[string]struct {
		answer func([]byte) []byte
		want   error
		says   string
	}{
		"silent":         {always(nil), ErrSystemSilent, "its KDC"},
		"hangs up":       {always([]byte{}), ErrSystemSilent, "its KDC"},
		"4 GiB":          {always([]byte("\xff\xff\xff\xff0123")), ErrSystemUnable, "announces 4294967295 bytes"},
		"nothing":        {always(make([]byte, 4)), ErrSystemUnable, "announces 0 bytes"},
		"cut short":      {always([]byte("\x00\x00\x00\x40abc")), ErrSystemSilent, "its KDC"},
		"garbage":        {always(sized(make([]byte, 3000))), ErrSystemUnable, "no Kerberos"},
		"our own words":  {func(request []byte) []byte { return sized(request) }, ErrSystemUnable, "no Kerberos"},
		"a day ahead":    {always(sized(refusal(t, errorcode.KRB_AP_ERR_SKEW, nil))), ErrSystemUnable, time.Now().UTC().AddDate(0, 0, 1).Format("2006-01-")},
		"no hints":       {always(sized(refusal(t, errorcode.KDC_ERR_PREAUTH_REQUIRED, nil))), ErrSystemUnable, "Kerberos"},
		"no rounds":      {rounds(1), ErrSystemUnable, "unusual effort"},
		"2³² rounds":     {rounds(0), ErrSystemUnable, "unusual effort"},
		"2³²-1 rounds":   {rounds(1<<32 - 1), ErrSystemUnable, "unusual effort"},
		"RC4":            {always(sized(refusal(t, errorcode.KDC_ERR_PREAUTH_REQUIRED, types.ETypeInfo2Entry{EType: etypeID.RC4_HMAC}))), ErrSystemUnable, "no AES key"},
		"empty ciphered": {always(sized(emptyTicket(t))), ErrSystemRefused, "is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", []string{falseKDC(t, test.answer)})
			if err != nil {
				t.Fatal(err)
			}
			wantSaying(t, k.login(patient(t, test.want)), test.want, test.says, "Geheim77")
		})
	}
}

// emptyTicket is a reply whose encrypted part is shorter than its checksum, and whose
// ticket is for nobody: the library panics at each.
func emptyTicket(t testing.TB) []byte {
	t.Helper()
	hints := types.PADataSequence{{PADataType: 19, PADataValue: marshalled(t, types.ETypeInfo2{{EType: etypeID.AES256_CTS_HMAC_SHA1_96, Salt: "x"}})}}
	r := messages.ASRep{KDCRepFields: messages.KDCRepFields{PVNO: 5, MsgType: 11, PAData: hints, CRealm: "EXAMPLE.ORG", CName: types.PrincipalName{NameType: 1, NameString: []string{"rescue"}},
		Ticket:  messages.Ticket{TktVNO: 5, Realm: "EXAMPLE.ORG", EncPart: types.EncryptedData{EType: 18, Cipher: []byte{1}}},
		EncPart: types.EncryptedData{EType: 18, Cipher: []byte{1}}}}
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A KDC that names no salt means the usual one: the realm, and the user (RFC 4120 §4).
func TestKerberosUsualSalt(t *testing.T) {
	t.Parallel()
	k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", nil)
	if err != nil {
		t.Fatal(err)
	}
	derive := func(salt string) string {
		hints := types.PADataSequence{{PADataType: 19, PADataValue: marshalled(t, types.ETypeInfo2{{EType: etypeID.AES256_CTS_HMAC_SHA1_96, Salt: salt}})}}
		key, err := k.derive(hints)
		if err != nil {
			t.Fatal(err)
		}
		return string(key.KeyValue)
	}
	if usual := derive(""); usual != derive("EXAMPLE.ORGrescue") || usual == derive("EXAMPLE.ORGother") {
		t.Errorf("the key %x is of another salt", usual)
	}
}

// What a KDC's reply says must be what was asked for, also where it is sealed with the right key: it may be
// another's, or an old one.
func TestKerberosOtherTicket(t *testing.T) {
	t.Parallel()
	k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", nil)
	if err != nil {
		t.Fatal(err)
	}
	key := types.EncryptionKey{KeyType: etypeID.AES256_CTS_HMAC_SHA1_96, KeyValue: make([]byte, 32)}
	for name, spoil := range map[string]func(r *messages.KDCRepFields, part *messages.EncKDCRepPart){
		"":                 func(*messages.KDCRepFields, *messages.EncKDCRepPart) {},
		"an old one":       func(_ *messages.KDCRepFields, part *messages.EncKDCRepPart) { part.Nonce++ },
		"of another realm": func(_ *messages.KDCRepFields, part *messages.EncKDCRepPart) { part.SRealm = "ELSEWHERE.ORG" },
		"for another service": func(_ *messages.KDCRepFields, part *messages.EncKDCRepPart) {
			part.SName.NameString = []string{"HTTP", "other"}
		},
		"with a key that is no AES": func(_ *messages.KDCRepFields, part *messages.EncKDCRepPart) { part.Key.KeyType = etypeID.RC4_HMAC },
		"outside of another service": func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) {
			r.Ticket.SName.NameString = []string{"HTTP", "other"}
		},
		"outside of another realm":    func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) { r.Ticket.Realm = "ELSEWHERE.ORG" },
		"for another user":            func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) { r.CName.NameString = []string{"other"} },
		"for a user of another realm": func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) { r.CRealm = "ELSEWHERE.ORG" },
		"sealed with another kind of key": func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) {
			r.EncPart.EType = etypeID.AES128_CTS_HMAC_SHA1_96
		},
		"sealed, and changed on the way": func(r *messages.KDCRepFields, _ *messages.EncKDCRepPart) { r.EncPart.Cipher = []byte{0} },
	} {
		service := types.PrincipalName{NameType: 2, NameString: []string{"HTTP", "localhost"}}
		part := messages.EncKDCRepPart{Key: key, Nonce: 77, SRealm: "EXAMPLE.ORG", SName: service, Flags: types.NewKrbFlags(),
			AuthTime: time.Now().UTC(), EndTime: time.Now().UTC().Add(time.Hour)}
		reply := messages.KDCRepFields{CRealm: "EXAMPLE.ORG", CName: types.PrincipalName{NameType: 1, NameString: []string{"rescue"}},
			Ticket: messages.Ticket{Realm: "EXAMPLE.ORG", SName: types.PrincipalName{NameType: 2, NameString: []string{"HTTP", "localhost"}}}}
		spoil(&reply, &part)
		text, err := part.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := crypto.GetEncryptedData(text, key, keyusage.TGS_REP_ENCPART_SESSION_KEY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if reply.EncPart.Cipher != nil {
			sealed.Cipher[len(sealed.Cipher)-1] ^= 1
		}
		if reply.EncPart.EType != 0 {
			sealed.EType = reply.EncPart.EType
		}
		reply.EncPart = sealed
		asked := messages.KDCReqFields{ReqBody: messages.KDCReqBody{Nonce: 77, SName: service}}
		asked.ReqBody.SName.NameString = []string{"HTTP", "localhost"}
		if _, err := k.unlocked(reply, key, keyusage.TGS_REP_ENCPART_SESSION_KEY, asked); (err == nil) != (name == "") {
			t.Errorf("a ticket %s: %v", name, err)
		}
	}
}

// A KDC that is silent or speaks nonsense has others after it; one that refuses has not:
// they would count the wrong password, too.
func TestShutdownKerberosOtherKDC(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	var asked, wrong atomic.Int32
	silent := falseKDC(t, func([]byte) []byte { asked.Add(1); return []byte{} })
	refusing := falseKDC(t, func([]byte) []byte { return sized(refusal(t, errorcode.KDC_ERR_PREAUTH_FAILED, nil)) })
	after := falseKDC(t, func([]byte) []byte { wrong.Add(1); return []byte{} })
	w := d.member(t, "tls", "Win32Shutdown=0")
	if err := w.byKerberos("rescue@EXAMPLE.ORG", "Geheim77", silent, d.kdc, after).Ask(t.Context()); err != nil {
		t.Error(err)
	}
	if got := w.called(t); got != "login rescue@EXAMPLE.ORG\n"+calledShutdown || asked.Load() != 1 {
		t.Errorf("Windows saw %s; the silent KDC was asked %d times, want once", got, asked.Load())
	}
	wantError(t, w.byKerberos("rescue@EXAMPLE.ORG", "Geheim77", refusing, after).Ask(t.Context()), ErrSystemRefused, "Geheim77")
	if wrong.Load() != 0 {
		t.Error("another KDC was asked after a refusal")
	}
}

// FuzzKDC has a KDC and Windows send any bytes.
func FuzzKDC(f *testing.F) {
	f.Add(emptyTicket(f))
	f.Add(refusal(f, errorcode.KDC_ERR_PREAUTH_REQUIRED, types.ETypeInfo2Entry{EType: etypeID.AES256_CTS_HMAC_SHA1_96, Salt: "x"}))
	f.Add(refusal(f, errorcode.KRB_AP_ERR_SKEW, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := newKerberos("rescue@EXAMPLE.ORG", "Geheim77", "localhost", nil)
		if err != nil {
			t.Fatal(err)
		}
		var as messages.ASRep
		if err := k.inWords(read(b, &as)); err != nil {
			if len(err.Error()) > 2000 {
				t.Error(err)
			}
		} else if _, err := k.unlocked(as.KDCRepFields, types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 32)}, 3, messages.KDCReqFields{}); err == nil {
			t.Error("a forged ticket is taken")
		}
		var tgs messages.TGSRep
		_ = read(b, &tgs)
		l := login{kerberos: k}
		for _, token := range [][]byte{b, append([]byte(tokenAPRep), b...)} {
			a := answer{code: 200, header: http.Header{"Www-Authenticate": {"Negotiate " + base64.StdEncoding.EncodeToString(token)}}}
			if l.accepted(a) == nil || l.verify(b) == nil {
				t.Error("a forged proof is taken")
			}
		}
	})
}
