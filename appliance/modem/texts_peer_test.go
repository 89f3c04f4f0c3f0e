package modem

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warthog618/sms"
	"github.com/warthog618/sms/encoding/pdumode"
	"github.com/warthog618/sms/encoding/tpdu"

	"rescuebox/appliance/modem/modemtest"
)

// gammu is a second program on the same kind of modem, with codecs of its own.
func gammu(t *testing.T, fake *modemtest.Modem, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("gammu")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("gammu is missing: apt-get install gammu")
		}
		t.Skip("gammu is missing: apt-get install gammu")
	}
	rc := filepath.Join(t.TempDir(), "gammurc")
	if err := os.WriteFile(rc, []byte("[gammu]\ndevice = "+fake.Path+"\nconnection = at\ngammucoding = utf8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-c", rc}, args...)...)
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("gammu %q: %v\n%s\nthe modem was sent %q", args, err, out, fake.Log())
	}
	return string(out)
}

// asDelivered is what the network makes of a message that was sent: the same text, from somebody.
func asDelivered(t *testing.T, o outgoing) tpdu.TPDU {
	t.Helper()
	pdu, err := pdumode.UnmarshalHexString(o.pdu)
	if err != nil {
		t.Fatal(err)
	}
	p, err := sms.Unmarshal(pdu.TPDU, sms.AsMO)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tpdu.NewDeliver(tpdu.WithOA(tpdu.NewAddress(tpdu.FromNumber(correspondent))))
	if err != nil {
		t.Fatal(err)
	}
	d.SCTS = tpdu.Timestamp{Time: time.Now()}
	d.SetDCS(byte(p.DCS))
	d.SetUDH(p.UDH)
	d.SetUD(p.UD)
	return *d
}

var wordings = []string{"hello", "€uro [brackets] {braces} @£$", "Сервер srv01 не отвечает", strings.Repeat("0123456789", 40), strings.Repeat("Сервер не отвечает. ", 10)}

// What we send, gammu reads.
func TestGammuReadsWhatWeSend(t *testing.T) {
	t.Parallel()
	for i, text := range wordings {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			fake := modemtest.Start(t)
			list, err := encode(correspondent, text, "", time.Hour, byte(i+1))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range list {
				if err := fake.DeliverTPDU(asDelivered(t, o)); err != nil {
					t.Fatal(err)
				}
			}
			if out := gammu(t, fake, "geteachsms"); !strings.Contains(strings.ReplaceAll(out, "\n", ""), strings.ReplaceAll(text, "\n", "")) {
				t.Errorf("gammu reads %s\nwant %q", out, text)
			}
		})
	}
}

// What gammu sends, we read.
func TestWeReadWhatGammuSends(t *testing.T) {
	t.Parallel()
	for i, text := range wordings {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			fake := modemtest.Start(t)
			args := []string{"sendsms", "TEXT", correspondent, "-autolen", fmt.Sprint(len([]rune(text))), "-text", text}
			if strings.ContainsFunc(text, func(r rune) bool { return r > 0x400 && r < 0x500 }) {
				args = append(args, "-unicode")
			}
			gammu(t, fake, args...)
			sent := fake.Sent()
			if len(sent) != 1 || sent[0].Text != text {
				t.Fatalf("the network has %+v, want %q", sent, text)
			}
			list, err := encode(correspondent, text, "", 0, 1)
			if err != nil || len(list) != sent[0].Parts {
				t.Errorf("gammu needs %d parts, we %d: %v", sent[0].Parts, len(list), err)
			}
		})
	}
}
