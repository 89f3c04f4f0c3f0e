package config

import (
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Notify is [notify]: who is told, and how.
type Notify struct {
	Webhooks []Webhook // [[notify.webhook]]
	Mails    []Mail    // [[notify.mail]]
	Texts    []Texting // [[notify.text]]
}

// Webhook is [[notify.webhook]].
type Webhook struct {
	Name        string // no two targets have the same
	URL         string // or "": it is in URLFile
	URLFile     string
	SecretFile  string // "": not signed
	CAFile      string // trusted beside the system's own; or ""
	Kinds       []string
	Credentials bool
}

// Mail is [[notify.mail]].
type Mail struct {
	Name         string
	Server       string // host:port
	From         mail.Address
	To           []string // addresses alone
	User         string   // "": no AUTH; never with TLS "none"
	PasswordFile string
	TLS          string // "starttls", "tls" or "none"
	CAFile       string
	Kinds        []string
	Credentials  bool
}

// Kinds of messages, of package notify. UsualKinds is what a target takes that names none.
var (
	Kinds      = []string{"ticket", "done", "failed", "expired", "alarm"}
	UsualKinds = []string{"ticket", "failed", "expired", "alarm"}
)

// notify checks who is told.
func (c *checker) notify(raw rawNotify) Notify {
	var n Notify
	names := map[string]string{}
	for i, w := range raw.Webhook {
		path := fmt.Sprintf("notify.webhook[%d]", i)
		to := c.webhook(path, w)
		c.uniqueTarget(path, to.Name, names)
		n.Webhooks = append(n.Webhooks, to)
	}
	for i, m := range raw.Mail {
		path := fmt.Sprintf("notify.mail[%d]", i)
		to := c.mail(path, m)
		c.uniqueTarget(path, to.Name, names)
		n.Mails = append(n.Mails, to)
	}
	for i, t := range raw.Text {
		path := fmt.Sprintf("notify.text[%d]", i)
		to := c.texting(path, t)
		c.uniqueTarget(path, to.Name, names)
		n.Texts = append(n.Texts, to)
	}
	return n
}

// uniqueTarget notes two targets that people could not tell apart.
func (c *checker) uniqueTarget(path, name string, seen map[string]string) {
	if other, taken := seen[name]; taken && name != "" {
		c.wrong(path, *faultf(`give one of them a name: name = "on-call"`, "it is called %s, as the one on line %d", quote(name), c.shape.lineOf(other)))
	}
	seen[name] = path
}

func (c *checker) webhook(path string, raw rawWebhook) Webhook {
	w := Webhook{
		Name:        read(c, path+".name", raw.Name, optional(targetName)),
		URLFile:     read(c, path+".url_file", raw.URLFile, optional(absolutePath)),
		SecretFile:  read(c, path+".secret_file", raw.SecretFile, optional(absolutePath)),
		CAFile:      read(c, path+".ca_file", raw.CAFile, optional(absolutePath)),
		Kinds:       c.kinds(path+".kinds", raw.Kinds),
		Credentials: raw.Credentials,
	}
	switch {
	case raw.URL != "" && raw.URLFile != "":
		c.wrong(path+".url_file", *faultf("keep one of the two", "the address is in url already"))
	case raw.URL == "" && raw.URLFile == "":
		c.wrong(path+".url", *faultf(`for example url = "https://chat.example.org/hooks/rescue"; url_file where the address is a secret`, "missing: where to post"))
	case raw.URL != "":
		u := read(c, path+".url", raw.URL, webhookURL)
		if u == nil {
			break
		}
		w.URL = u.String()
		if w.Name == "" {
			w.Name = u.Hostname()
		}
		c.inClear(path, u.Scheme == "http" && !loopback(u.Hostname()), raw.Credentials, `take https://`)
	}
	if w.Name == "" {
		w.Name = "webhook"
	}
	return w
}

// inClear warns of news that anybody in between can read, and refuses credentials there.
func (c *checker) inClear(path string, clear, credentials bool, hint string) {
	switch {
	case clear && credentials:
		c.wrong(path+".credentials", *faultf(hint+", or credentials = false", "tickets would go over the wire in clear"))
	case clear:
		c.warn(path, "what it is told goes over the wire in clear, where others can read and change it", hint)
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

func (c *checker) mail(path string, raw rawMail) Mail {
	m := Mail{
		Name:         read(c, path+".name", raw.Name, optional(targetName)),
		Server:       read(c, path+".server", raw.Server, mailServer),
		From:         read(c, path+".from", raw.From, mailFrom),
		To:           c.recipients(path+".to", raw.To),
		User:         raw.User,
		PasswordFile: read(c, path+".password_file", raw.PasswordFile, optional(absolutePath)),
		TLS:          read(c, path+".tls", raw.TLS, tlsMode),
		CAFile:       read(c, path+".ca_file", raw.CAFile, optional(absolutePath)),
		Kinds:        c.kinds(path+".kinds", raw.Kinds),
		Credentials:  raw.Credentials,
	}
	if m.Name == "" {
		m.Name = "mail"
	}
	host, _, _ := net.SplitHostPort(m.Server)
	switch {
	case raw.User != "" && raw.PasswordFile == "":
		c.wrong(path+".password_file", *faultf("the file with the password and nothing else", "missing: user %s needs one", quote(raw.User)))
	case raw.User == "" && raw.PasswordFile != "":
		c.wrong(path+".user", *faultf("name the account, or leave password_file out", "missing: whose password is it?"))
	case raw.User != "" && m.TLS == "none":
		c.wrong(path+".tls", *faultf(`take "starttls" or "tls", or leave user out`, "the password would go over the wire in clear"))
	default:
		c.inClear(path, m.TLS == "none" && !loopback(host), raw.Credentials, `take tls = "starttls"`)
	}
	return m
}

// kinds reads what a target is told; nil is the usual ones.
func (c *checker) kinds(path string, raw []string) []string {
	if raw == nil {
		return UsualKinds
	}
	if len(raw) == 0 {
		c.wrong(path, *faultf("leave it out for the usual ones, or name some of "+strings.Join(Kinds, ", "), "empty: it would be told nothing"))
	}
	for i, k := range raw {
		if !slices.Contains(Kinds, k) {
			c.wrong(fmt.Sprintf("%s[%d]", path, i), *faultf("there are "+strings.Join(Kinds, ", "), "%s is no kind of message", quote(k)))
		}
	}
	return raw
}

// recipients reads the addresses that mail goes to.
func (c *checker) recipients(path string, raw []string) []string {
	if len(raw) == 0 {
		c.wrong(path, *faultf(`for example to = ["anna@example.org"]`, "missing: who is told?"))
	}
	var list []string
	for i, s := range raw {
		at := fmt.Sprintf("%s[%d]", path, i)
		a := read(c, at, s, mailAddress)
		switch {
		case a.Address == "": // told already
		case slices.ContainsFunc(list, func(other string) bool { return strings.EqualFold(other, a.Address) }):
			c.wrong(at, *faultf("keep one of the two", "%s is there twice", quote(s)))
		default:
			list = append(list, a.Address)
		}
	}
	return list
}

func targetName(s string) (string, *fault) {
	if !imageForm.MatchString(s) {
		return "", faultf(`small letters, digits, dots and dashes, at most 63: name = "on-call"`, "%s is no name for a target", quote(s))
	}
	return s, nil
}

// webhookURL is not repeated in the error: its path may be a secret.
func webhookURL(s string) (*url.URL, *fault) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Fragment != "":
		return nil, faultf(`for example url = "https://chat.example.org/hooks/rescue"`, "this is no web address")
	case u.User != nil:
		return nil, faultf("put the whole address into a file of its own and name that with url_file", "it holds a user or password")
	}
	return u, nil
}

func mailServer(s string) (string, *fault) {
	const hint = `for example server = "mail.example.org:587"`
	if s == "" {
		return "", faultf(hint, "missing: the mail server")
	}
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 1 || n > 65535 || host == "" || strings.ContainsFunc(host, notGraphic) {
		return "", faultf(hint, "%s is no server with its port", quote(s))
	}
	return s, nil
}

func mailFrom(s string) (mail.Address, *fault) {
	if s == "" {
		return mail.Address{}, faultf(`for example from = "rescuebox kazan-2 <rescue@example.org>"`, "missing: who mail is from")
	}
	return mailAddress(s)
}

// mailAddress takes what every mail server takes; names around it may have any letters.
func mailAddress(s string) (mail.Address, *fault) {
	const hint = `for example "anna@example.org" or "Anna <anna@example.org>"`
	a, err := mail.ParseAddress(s)
	if err != nil {
		return mail.Address{}, faultf(hint, "%s is no mail address", quote(s))
	}
	if strings.ContainsFunc(a.Address, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return mail.Address{}, faultf("write the domain as xn--…", "%s has other than plain letters around its @", quote(s))
	}
	return *a, nil
}

func tlsMode(s string) (string, *fault) {
	switch s {
	case "":
		return "starttls", nil
	case "starttls", "tls", "none":
		return s, nil
	}
	return "", faultf(`leave it out for "starttls"; "tls" is for port 465`, "%s is neither starttls, tls nor none", quote(s))
}
