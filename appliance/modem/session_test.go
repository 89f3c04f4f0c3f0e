package modem

import (
	"errors"
	"testing"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"

	"rescuebox/appliance/modem/modemtest"
)

// openFake is a session on the fake, without its initialisation.
func openFake(t *testing.T, fake *modemtest.Modem) *session {
	t.Helper()
	p, err := openTTY(fake.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(p, fake.Path, zap.NewNop(), nil)
	t.Cleanup(s.close)
	return s
}

func ask(t *testing.T, s *session, cmd, prefix string) []string {
	t.Helper()
	lines, err := s.command(t.Context(), cmd, prefix, 30*time.Second)
	if err != nil {
		t.Fatalf("AT%s: %v", cmd, err)
	}
	return lines
}

func TestCommand(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake)
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("+CSQ answers %q", got)
	}
	if got := ask(t, s, "+CGMI", ""); len(got) != 1 || got[0] != "Fake" {
		t.Errorf("+CGMI answers %q: is the echo left in?", got)
	}
	fake.Fault("+CIMI", modemtest.Answer{Lines: []string{}, Result: "+CME ERROR: 13"})
	_, err := s.command(t.Context(), "+CIMI", "", time.Second)
	var cme at.CMEError
	if !errors.As(err, &cme) || cme != "13" || isUnknown(err) {
		t.Errorf("an error of the modem comes as %v", err)
	}
}

func TestTextRoundTrip(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake)
	if err := fake.Deliver("+79160000000", "Привет"); err != nil {
		t.Fatal(err)
	}
	list, err := s.entries(t.Context(), "+CMGL=4", "+CMGL", time.Second*30)
	if err != nil || len(list) != 1 || list[0].pdu == "" {
		t.Fatalf("+CMGL lists %+v, %v", list, err)
	}
	lines, err := s.prompt(t.Context(), "+CMGS=14", "0001000B919761000000F00000"+"024F29"[:0]+"", "+CMGS", 30*time.Second)
	if err == nil {
		t.Errorf("a PDU of the wrong length was taken: %q", lines)
	}
}
