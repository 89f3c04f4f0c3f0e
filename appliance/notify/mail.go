package notify

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
)

// mailOf is a letter as RFC 5322 and MIME have it.
func mailOf(from mail.Address, l Letter) []byte {
	_, domain, _ := strings.Cut(from.Address, "@")
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", from.String())
	header("To", "<"+l.Address+">")
	header("Subject", encoded(l.Subject))
	header("Date", l.Time.Format(time.RFC1123Z))
	// The same in every attempt: what was sent twice is one mail to whoever looks at it.
	header("Message-ID", "<"+l.ID+"@"+domain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: no answers of absent people, please
	header("X-Auto-Response-Suppress", "All")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	w.Write([]byte(strings.ReplaceAll(l.Words.Text, "\n", "\r\n"))) // into memory: cannot fail
	w.Close()
	return b.Bytes()
}

// encoded is a header's text (RFC 2047), folded between its words.
func encoded(s string) string {
	return strings.ReplaceAll(mime.BEncoding.Encode("utf-8", s), "?= =?", "?=\r\n =?")
}
