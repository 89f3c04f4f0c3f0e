package config

import (
	"net/mail"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each thing that can be wrong with a target. The text stands after LEAST.
var notifyErrors = []struct{ name, toml, want string }{
	{"nothing named", "[[notify.webhook]]\n[[notify.mail]]\n",
		"site.toml:6: notify.webhook 1: url: missing: where to post (hint: for example url = \"https://chat.example.org/hooks/rescue\"; url_file where the address is a secret)\n" +
			"site.toml:7: notify.mail 1: server: missing: the mail server (hint: for example server = \"mail.example.org:587\")\n" +
			"site.toml:7: notify.mail 1: from: missing: who mail is from (hint: for example from = \"rescuebox kazan-2 <rescue@example.org>\")\n" +
			"site.toml:7: notify.mail 1: to: missing: who is told? (hint: for example to = [\"anna@example.org\"])"},
	{"user in an address, never shown", "[[notify.webhook]]\nurl = \"https://me:hunter2@example.org/\"\n",
		"site.toml:7: notify.webhook 1: url: it holds a user or password (hint: put the whole address into a file of its own and name that with url_file)"},
	{"no web address, never shown", "[[notify.webhook]]\nname = \"chat\"\nurl = \"chat.example.org/hooks/s3cret\"\n",
		"site.toml:8: notify.webhook \"chat\": url: this is no web address (hint: for example url = \"https://chat.example.org/hooks/rescue\")"},
	{"two addresses", "[[notify.webhook]]\nurl = \"https://a.example.org/\"\nurl_file = \"/etc/rescuebox/secrets/hook\"\n",
		"site.toml:8: notify.webhook 1: url_file: the address is in url already (hint: keep one of the two)"},
	{"a secret in the file", "[[notify.webhook]]\nurl = \"https://a.example.org/\"\nsecret = \"hunter2\"\n",
		"site.toml:8: notify.webhook 1: secret: unknown key (hint: secrets stay out of this file: put it into a file of its own and name that with secret_file)"},
	{"tickets in clear", "[[notify.webhook]]\nurl = \"http://a.example.org/\"\ncredentials = true\n",
		"site.toml:8: notify.webhook 1: credentials: tickets would go over the wire in clear (hint: take https://, or credentials = false)"},
	{"kinds", "[[notify.webhook]]\nurl = \"https://a.example.org/\"\nkinds = [\"tickets\"]\n[[notify.webhook]]\nurl = \"https://b.example.org/\"\nkinds = []\n",
		"site.toml:8: notify.webhook 1: kinds: \"tickets\" is no kind of message (hint: there are ticket, done, failed, expired, alarm)\n" +
			"site.toml:11: notify.webhook 2: kinds: empty: it would be told nothing (hint: leave it out for the usual ones, or name some of ticket, done, failed, expired, alarm)"},
	{"truth in quotes", "[[notify.webhook]]\nurl = \"https://a.example.org/\"\ncredentials = \"yes\"\n",
		"site.toml:8: notify.webhook 1: credentials: want true or false, got a text (hint: write it without quotes: credentials = true)"},
	{"one name twice", "[[notify.webhook]]\nurl = \"https://a.example.org/x\"\n[[notify.webhook]]\nurl = \"https://a.example.org/y\"\n",
		"site.toml:8: notify.webhook 2: it is called \"a.example.org\", as the one on line 6 (hint: give one of them a name: name = \"on-call\")"},
	{"password in clear", "MAIL\nuser = \"rescue\"\npassword_file = \"/etc/rescuebox/secrets/mail\"\ntls = \"none\"\n",
		"site.toml:12: notify.mail 1: tls: the password would go over the wire in clear (hint: take \"starttls\" or \"tls\", or leave user out)"},
	{"user without password", "MAIL\nuser = \"rescue\"\n",
		"site.toml:6: notify.mail 1: password_file: missing: user \"rescue\" needs one (hint: the file with the password and nothing else)"},
	{"password without user", "MAIL\npassword_file = \"/x\"\n",
		"site.toml:6: notify.mail 1: user: missing: whose password is it? (hint: name the account, or leave password_file out)"},
	{"mail", "[[notify.mail]]\nserver = \"mx\"\nfrom = \"rescue\"\nto = [\"anna@example.org\", \"Anna <ANNA@example.org>\", \"анна@example.org\", \"a@b>\\r\\nX: y\"]\ntls = \"ssl\"\n",
		"site.toml:7: notify.mail 1: server: \"mx\" is no server with its port (hint: for example server = \"mail.example.org:587\")\n" +
			"site.toml:8: notify.mail 1: from: \"rescue\" is no mail address (hint: for example \"anna@example.org\" or \"Anna <anna@example.org>\")\n" +
			"site.toml:9: notify.mail 1: to: \"Anna <ANNA@example.org>\" is there twice (hint: keep one of the two)\n" +
			"site.toml:9: notify.mail 1: to: \"анна@example.org\" has other than plain letters around its @ (hint: write the domain as xn--…)\n" +
			"site.toml:9: notify.mail 1: to: \"a@b>\\r\\nX: y\" is no mail address (hint: for example \"anna@example.org\" or \"Anna <anna@example.org>\")\n" +
			"site.toml:10: notify.mail 1: tls: \"ssl\" is neither starttls, tls nor none (hint: leave it out for \"starttls\"; \"tls\" is for port 465)"},
	{"name", "[[notify.webhook]]\nname = \"On call\"\nurl = \"https://a.example.org/\"\n",
		"site.toml:7: notify.webhook \"On call\": name: \"On call\" is no name for a target (hint: small letters, digits, dots and dashes, at most 63: name = \"on-call\")"},
}

const someMail = "[[notify.mail]]\nserver = \"mail.example.org:587\"\nfrom = \"rescue@example.org\"\nto = [\"anna@example.org\"]"

func TestNotifyErrors(t *testing.T) {
	for _, tt := range notifyErrors {
		t.Run(tt.name, func(t *testing.T) {
			text := least + strings.Replace(tt.toml, "MAIL", someMail, 1)
			_, err := Parse("site.toml", []byte(text))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error repeats a secret: %s", err)
			}
		})
	}
}

// What works and is most likely not meant is warned of; what is right is not.
func TestNotify(t *testing.T) {
	cfg, err := Parse("site.toml", []byte(least+`[[notify.webhook]]
url_file = "/etc/rescuebox/secrets/hook"
kinds = ["ticket", "done"]
credentials = true
[[notify.webhook]]
url = "http://10.0.0.5:8065/hooks/x?y=z"
[[notify.webhook]]
url = "http://127.0.0.1:9/"
credentials = true
[[notify.mail]]
server = "mx.example.org:25"
from = "Коробка <box@example.org>"
to = ["Анна <anna@example.org>", "boris@example.org"]
tls = "none"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Notify{
		Webhooks: []Webhook{
			{Name: "webhook", URLFile: "/etc/rescuebox/secrets/hook", Kinds: []string{"ticket", "done"}, Credentials: true},
			{Name: "10.0.0.5", URL: "http://10.0.0.5:8065/hooks/x?y=z", Kinds: UsualKinds},
			{Name: "127.0.0.1", URL: "http://127.0.0.1:9/", Kinds: UsualKinds, Credentials: true},
		},
		Mails: []Mail{{Name: "mail", Server: "mx.example.org:25", From: mail.Address{Name: "Коробка", Address: "box@example.org"},
			To: []string{"anna@example.org", "boris@example.org"}, TLS: "none", Kinds: UsualKinds}},
	}
	if d := cmp.Diff(want, cfg.Notify); d != "" {
		t.Error(d)
	}
	var warned []string
	for _, w := range cfg.Warnings {
		if strings.HasPrefix(w.Key, "notify") {
			warned = append(warned, w.Key)
		}
	}
	if d := cmp.Diff([]string{"notify.webhook 2", "notify.mail 1"}, warned); d != "" {
		t.Error(d)
	}
}
