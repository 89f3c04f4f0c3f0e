package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode"
)

func TestParseOrder(t *testing.T) {
	const sum = "4ab1bb0cc96435f9c8a4b8eaaa2ed500b0e9780d3ffb79290358247e4c4cdf47"
	tests := []struct {
		name, cmdline, want string // want is server|token|machine|url|sha256, or the error after "!"
	}{
		{"whole", "rescuebox.url=http://192.168.77.1/boot/525400123456/root.squashfs rescuebox.sha256=" + sum +
			" rescuebox.server=http://192.168.77.1 rescuebox.token=abc rescuebox.machine=srv01 console=tty0\n",
			"http://192.168.77.1|abc|srv01|http://192.168.77.1/boot/525400123456/root.squashfs|" + sum},
		{"nothing of ours", "root=/dev/sda1 ro quiet", "||||"},
		{"the last one counts", "rescuebox.machine=a rescuebox.machine=b", "||b||"},
		{"quoted", `rescuebox.machine="server room 1" x="a b"`, "||server room 1||"},
		{"capital digits", "rescuebox.sha256=" + strings.ToUpper(sum), "||||" + sum},
		{"escape sequence in the name", "rescuebox.machine=\x1b[2Jx", "||?[2Jx||"},
		{"no URL", "rescuebox.url=root.squashfs", `!rescuebox.url="root.squashfs" is no http URL`},
		{"other scheme", "rescuebox.server=ftp://x/", `!rescuebox.server="ftp://x/" is no http URL`},
		{"short hash", "rescuebox.sha256=abcd", `!rescuebox.sha256="abcd" is no SHA-256: want 64 hexadecimal digits`},
		{"token with a letter no header carries", "rescuebox.token=geheimniß", "!rescuebox.token holds characters that a header cannot carry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(parseOrder(tt.cmdline)); got != tt.want {
				t.Errorf("\ngot  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func describe(o order, err error) string {
	var bad *badCmdline
	if errors.As(err, &bad) {
		return "!" + bad.text
	}
	var server, url string
	if o.Server != nil {
		server = o.Server.String()
	}
	if o.URL != nil {
		url = o.URL.String()
	}
	return strings.Join([]string{server, o.Token, o.Machine, url, o.SHA256}, "|")
}

func FuzzParseOrder(f *testing.F) {
	f.Add("rescuebox.url=http://a/b rescuebox.token=x rescuebox.machine=\"a b\"")
	f.Add("rescuebox.sha256=00 \"")
	f.Fuzz(func(t *testing.T, cmdline string) {
		o, err := parseOrder(cmdline)
		if err != nil {
			if o != (order{}) {
				t.Errorf("an order beside the error %v", err)
			}
			return
		}
		for _, r := range o.Machine {
			if !unicode.IsPrint(r) {
				t.Errorf("machine %q would move the console's cursor", o.Machine)
			}
		}
		if strings.ContainsAny(o.Token, "\r\n ") || (o.SHA256 != "" && len(o.SHA256) != 64) {
			t.Errorf("token or hash cannot be: %+v", o)
		}
	})
}

func TestBigText(t *testing.T) {
	for r, glyph := range glyphs {
		rows := strings.Split(glyph, "|")
		for _, row := range rows {
			if len(rows) != 5 || len(row) != 5 {
				t.Errorf("letter %c is not five by five dots", r)
			}
		}
	}
	if got := strings.Join(bigText("a-1"), "\n"); got != " ###          #\n#   #        ##\n#####  ###    #\n#   #         #\n#   #       #####" {
		t.Errorf("a-1 in large letters:\n%s", got)
	}
	if got := bigText("a-very-long-name"); len(got) != 1 || got[0] != "a-very-long-name" {
		t.Errorf("a name too long for the screen became %q", got)
	}
}

// The fingerprint is what ssh shows an admin who connects.
func TestHostKeyAsSSHKeygen(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		missing(t, "ssh-keygen", "openssh-client")
	}
	file := t.TempDir() + "/key"
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "comment", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := exec.Command("ssh-keygen", "-lf", file+".pub").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	line, print, err := hostKey(string(text))
	if err != nil || !strings.Contains(string(want), " "+print+" ") {
		t.Errorf("fingerprint %s, %v, ssh-keygen says %s", print, err, want)
	}
	if line+" comment\n" != string(text) {
		t.Errorf("line %q, file %q", line, text)
	}
	if _, _, err := hostKey("ssh-ed25519"); err == nil {
		t.Error("half a key was taken")
	}
}

// missing skips where a person works, and fails where everything must be tested.
func missing(t *testing.T, program, pkg string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", program, pkg)
	}
	t.Skipf("%s is missing: apt-get install %s", program, pkg)
}
