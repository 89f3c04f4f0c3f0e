package bmc

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/bmc/bmctest"
)

// memory is a Memory in a map.
type memory struct {
	mu sync.Mutex
	m  map[string]Known
}

func (m *memory) Get(host string) (Known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.m[host]
	return k, ok
}

func (m *memory) Put(host string, k Known) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = map[string]Known{}
	}
	m.m[host] = k
	return nil
}

func (m *memory) only(t *testing.T) Known {
	t.Helper()
	if len(m.m) != 1 {
		t.Fatalf("remembered %v", m.m)
	}
	for _, k := range m.m {
		return k
	}
	return Known{}
}

// answering serves a service at a listener. renew gives it another certificate.
func answering(t *testing.T, l net.Listener, h http.Handler) (renew func()) {
	t.Helper()
	var current atomic.Pointer[tls.Certificate]
	renew = func() {
		certificate, err := bmctest.Certificate("bmc")
		if err != nil {
			t.Fatal(err)
		}
		current.Store(&certificate)
	}
	renew()
	server := &http.Server{Handler: h, ErrorLog: discardLog(), TLSConfig: &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}}
	var done sync.WaitGroup
	done.Go(func() { server.ServeTLS(l, "", "") })
	t.Cleanup(func() { server.Close(); done.Wait() })
	return renew
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The certificate that was seen first is the only one that gets the password, until somebody says
// that the new one is right.
func TestPin(t *testing.T) {
	service, err := bmctest.New("xcc")
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	address := l.Addr().(*net.TCPAddr)
	renew := answering(t, l, service)
	remembered := &memory{}
	config := Config{Protocol: "redfish", Host: "127.0.0.1", Port: address.Port, User: "rescue", Password: fixed("secret12"), Memory: remembered}
	if _, err := New(config).Power(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := remembered.only(t).CertSHA256
	if len(first) != 64 {
		t.Fatalf("pinned %q", first)
	}
	renew()
	_, before := service.Sessions()
	for _, protocol := range []string{"redfish", "auto"} {
		config.Protocol = protocol
		_, err := New(config).Power(t.Context())
		if !errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), "rescuebox bmc trust") || errors.Is(err, ErrSilent) {
			t.Errorf("%s: another certificate: %v", protocol, err)
		}
	}
	if _, ever := service.Sessions(); ever != before {
		t.Error("it got the password")
	}
	c := New(config)
	shown, err := c.Trust(t.Context())
	if err != nil || shown == first || remembered.only(t).CertSHA256 != shown {
		t.Errorf("trusted %q, %v", shown, err)
	}
	if _, err := c.Power(t.Context()); err != nil {
		t.Errorf("trusted: %v", err)
	}
}

// Redfish is asked first and remembered.
func TestAutoRedfish(t *testing.T) {
	service, err := bmctest.New("supermicro")
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	answering(t, l, service)
	remembered := &memory{}
	c := New(Config{Protocol: "auto", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "rescue", Password: fixed("secret12"), Memory: remembered})
	if _, err := c.Start(t.Context(), uefi); err != nil {
		t.Fatal(err)
	}
	if k := remembered.only(t); k.Protocol != "redfish" || k.CertSHA256 == "" {
		t.Errorf("remembered %+v", k)
	}
	var m Media = c
	if err := errors.Join(m.Insert(t.Context(), isoURL), m.Eject(t.Context())); err != nil {
		t.Error(err)
	}
	list, err := c.Services(t.Context())
	if err != nil || !slices.Contains(list, Service{"console", 5900}) || !slices.Contains(list, Service{"media", 623}) {
		t.Errorf("%v, %v", list, err)
	}
}

// A wrong password at Redfish is not tried once more over IPMI.
func TestAutoRefused(t *testing.T) {
	service, _ := bmctest.New("xcc")
	l := listen(t)
	answering(t, l, service)
	c := New(Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "rescue", Password: fixed("wrong"), Memory: &memory{}})
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "IPMI") {
		t.Errorf("got %v", err)
	}
}

// Where Redfish does not answer, IPMI does, to the same user, and is remembered; its console too.
func TestAutoIPMI(t *testing.T) {
	s := startSim(t, "")
	remembered := &memory{}
	c := New(Config{Host: s.host, Port: s.port, User: "rescue", Password: fixed("secret12"), Memory: remembered})
	if state, err := c.Power(t.Context()); err != nil || state != Off {
		t.Fatalf("%s, %v", state, err)
	}
	if k := remembered.only(t); k.Protocol != "ipmi" {
		t.Errorf("remembered %+v", k)
	}
	if err := c.Insert(t.Context(), isoURL); !errors.Is(err, ErrUnsupported) {
		t.Errorf("virtual media over IPMI: %v", err)
	}
	if list, err := c.Services(t.Context()); err != nil || !slices.Contains(list, Service{"https", 443}) {
		t.Errorf("%v, %v", list, err)
	}
}

// Redfish was remembered and is silent now, and IPMI answers: it is used at once.
func TestAutoTurns(t *testing.T) {
	s := startSim(t, "")
	key := net.JoinHostPort(s.host, strconv.Itoa(s.port))
	remembered := &memory{m: map[string]Known{key: {Protocol: "redfish"}}}
	c := New(Config{Host: s.host, Port: s.port, User: "rescue", Password: fixed("secret12"), Memory: remembered})
	c.redfish.pace = quick
	if state, err := c.Power(t.Context()); err != nil || state != Off {
		t.Fatalf("%s, %v", state, err)
	}
	if k := remembered.only(t); k.Protocol != "redfish" {
		t.Errorf("one silence is enough to remember %+v", k)
	}
}

// The service of a chassis that fails is not followed by IPMI, which does not know which of its systems is meant.
func TestAutoChassis(t *testing.T) {
	c := New(Config{Host: "bmc", Memory: &memory{}})
	for _, several := range []bool{false, true} {
		asked := 0
		c.redfish.several.Store(several)
		err := c.turn(t.Context(), "redfish", ErrSilent, func(speaks) error { asked++; return nil })
		if several != errors.Is(err, ErrSilent) || several != (asked == 0) {
			t.Errorf("several systems %t: IPMI was asked %d times, %v", several, asked, err)
		}
	}
}

// What was remembered is forgotten only when it has been silent for long while the other answers.
func TestAutoForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remembered := &memory{m: map[string]Known{"bmc": {Protocol: "redfish", CertSHA256: "ab"}}}
		c := New(Config{Host: "bmc", Memory: remembered})
		for _, at := range []struct {
			after   time.Duration
			forgets bool
		}{{0, false}, {silentFor / 2, false}, {silentFor, true}} {
			time.Sleep(at.after)
			err := c.turn(t.Context(), "redfish", ErrSilent, func(speaks) error { return nil })
			if k := remembered.only(t); err != nil || (k.Protocol == "ipmi") != at.forgets || k.CertSHA256 != "ab" {
				t.Errorf("after %s: %+v, %v", at.after, k, err)
			}
		}
		halfway := errors.Join(ErrSilent, ErrHalfway)
		asked := 0
		remembered.Put("bmc", Known{Protocol: "redfish"})
		err := c.do(t.Context(), func(speaks) error { asked++; return halfway })
		if !errors.Is(err, ErrHalfway) || asked != 1 {
			t.Errorf("what may have been done was tried %d times: %v", asked, err)
		}
	})
}

// broken is a Memory that keeps nothing.
type broken struct{}

func (broken) Get(string) (Known, bool) { return Known{}, false }
func (broken) Put(string, Known) error  { return errors.New("disk full") }

// Without a Memory what is known lasts as long as the client. One that fails costs no operation, but where
// the certificate cannot be pinned, nobody gets the password.
func TestAutoMemory(t *testing.T) {
	service, _ := bmctest.New("xcc")
	l := listen(t)
	answering(t, l, service)
	config := Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "rescue", Password: fixed("secret12")}
	c := New(config)
	if _, err := c.Power(t.Context()); err != nil || c.known().Protocol != "redfish" {
		t.Errorf("%+v, %v", c.known(), err)
	}
	config.Memory = broken{}
	_, before := service.Sessions()
	if _, err := New(config).Power(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("not pinned: %v", err)
	}
	if _, ever := service.Sessions(); ever != before {
		t.Error("it got the password")
	}
}

// A service that has only faults to answer is as good as none, where IPMI answers.
func TestAutoBroken(t *testing.T) {
	s := startSim(t, "")
	service, _ := bmctest.New("xcc")
	service.Hook = func(w http.ResponseWriter, r bmctest.Request) bool {
		if r.Path != "/redfish/v1/" {
			bmctest.Refuse(w, http.StatusInternalServerError, "Base.1.4.InternalError", "out of memory")
		}
		return r.Path != "/redfish/v1/"
	}
	l := listen(t)
	answering(t, l, service)
	c := New(Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "rescue", Password: fixed("secret12"), Memory: &memory{}})
	c.ipmi.Host, c.ipmi.Port = s.host, s.port
	if state, err := c.Power(t.Context()); err != nil || state != Off {
		t.Errorf("%s, %v", state, err)
	}
}

func TestServices(t *testing.T) {
	no := false
	for _, s := range []struct {
		maker maker
		said  []said
		want  []int
	}{
		{"", nil, []int{443, 80, 22}},
		{hpe, nil, []int{443, 80, 22, 17990, 17988}},
		{hpe, []said{{"console", nil, 17988}, {"media", nil, 17990}, {"ssh", &no, 22}}, []int{443, 80, 17990, 17988}},
		{lenovo, []said{{"https", nil, 8443}, {"http", &no, 80}, {"console", nil, 3900}, {"media", nil, 3900}}, []int{8443, 22, 3900}},
		{dell, []said{{"console", &no, 5900}}, []int{443, 22, 3668, 3669}},
		{supermicro, nil, []int{443, 80, 22, 5900, 623}},
	} {
		var got []int
		for _, one := range services(s.maker, s.said) {
			got = append(got, one.Port)
		}
		if !slices.Equal(got, s.want) {
			t.Errorf("%s, %v: %v", s.maker, s.said, got)
		}
	}
	for kind, want := range map[string][]Service{
		"ilo":   {{"https", 443}, {"http", 80}, {"ssh", 22}, {"console", 17990}, {"media", 17988}},
		"xcc":   {{"https", 443}, {"ssh", 22}, {"console", 3900}},
		"sushy": {{"https", 443}, {"http", 80}, {"ssh", 22}},
	} {
		_, c := startKind(t, kind)
		if got, err := c.Services(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
	}
	for name, want := range map[string]maker{"Hpe": hpe, "HP": hpe, "Hewlett Packard Enterprise": hpe, "Dell Inc.": dell, "Super Micro Computer Inc.": supermicro,
		"Ami": ami, "American Megatrends International": ami, "ASUSTeK COMPUTER INC.": ami, "Lenovo": lenovo, "IBM": lenovo, "Oracle Corporation": oracle, "Phoenix Pilot": "", "Dynamics": ""} {
		if got := makerOf(name); got != want {
			t.Errorf("%q is made by %q", name, got)
		}
	}
}
