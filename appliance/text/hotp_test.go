package text

import (
	"encoding/base32"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The codes are those of RFC 6238, appendix B, which are HOTP's with SHA-256 and the time as counter.
func TestCodes(t *testing.T) {
	secret := []byte("12345678901234567890123456789012")
	for counter, want := range map[uint64]string{0x1: "46119246", 0x23523EC: "68084774", 0x23523ED: "67062674",
		0x273EF07: "91819424", 0x3F940AA: "90698825", 0x27BC86AA: "77737706"} {
		if got := hotp(secret, counter); got != want {
			t.Errorf("the code of %x is %s, want %s", counter, got, want)
		}
	}
}

// oathtool is a phone's app: it makes the codes of a URI. Its HOTP knows only SHA-1; its TOTP with steps of one
// second is HOTP with the time as counter (RFC 6238, section 4.2).
func oathtool(t *testing.T, uri string, counter uint64) string {
	t.Helper()
	path, err := exec.LookPath("oathtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("oathtool is missing: apt-get install oathtool")
		}
		t.Skip("oathtool is missing: apt-get install oathtool")
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	out, err := exec.Command(path, "--base32", "--totp="+strings.ToLower(q.Get("algorithm")), "--digits="+q.Get("digits"),
		"--time-step-size=1s", fmt.Sprintf("--now=@%d", counter), q.Get("secret")).CombinedOutput()
	if err != nil {
		t.Fatalf("oathtool: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// What is enrolled is what another program makes of the URI.
func TestEnrolledInOathtool(t *testing.T) {
	w := newWorld(t, "all")
	u, err := url.Parse(w.uri)
	if err != nil || u.Scheme != "otpauth" || u.Host != "hotp" || u.Query().Get("issuer") != "rescuebox kazan-2" || u.Query().Get("counter") != "0" ||
		u.Path != "/rescuebox kazan-2:"+admin || strings.Contains(w.uri, "+issuer") || strings.Contains(w.uri, "x k+") {
		t.Errorf("the URI is %s, %v", w.uri, err)
	}
	for counter := range uint64(5) {
		w.text("status " + oathtool(t, w.uri, counter))
		w.answer(fmt.Sprintf("all is well %d", counter+1))
	}
}

func TestWindow(t *testing.T) {
	secret := make([]byte, secretSize)
	for _, c := range []struct {
		at    uint64
		ahead uint64
		codes []uint64
		next  uint64
	}{
		{at: 0, ahead: window, codes: []uint64{0}, next: 1},
		{at: 7, ahead: window, codes: []uint64{27}, next: 28},
		{at: 7, ahead: window, codes: []uint64{28}},
		{at: 7, ahead: window, codes: []uint64{6}},
		{at: 7, ahead: resync, codes: []uint64{207, 208}, next: 209},
		{at: 7, ahead: resync, codes: []uint64{208, 209}},
		{at: 7, ahead: resync, codes: []uint64{20, 22}},
	} {
		var codes []string
		for _, n := range c.codes {
			codes = append(codes, hotp(secret, n))
		}
		next, ok := match(secret, c.at, c.ahead, codes...)
		if ok != (c.next != 0) || next != c.next {
			t.Errorf("%+v: next %d, %v", c, next, ok)
		}
	}
	if used(secret, 0, hotp(secret, 0)) || !used(secret, 1, hotp(secret, 0)) || used(secret, 30, hotp(secret, 30)) || !used(secret, 30, hotp(secret, 10)) {
		t.Error("what was used is not told from what was not")
	}
}

func secretOf(t *testing.T, uri string) []byte {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}
