package notify

import (
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed templates/*.txt
var templates embed.FS

// Words are a message as people read it.
type Words struct {
	Subject string
	Text    string
	Short   string // fits one text message
}

// Words renders a message with the template of its kind.
func (m Message) Words() (Words, error) {
	t, err := template.ParseFS(templates, "templates/"+string(m.Kind)+".txt")
	if err != nil {
		return Words{}, fmt.Errorf("a message of kind %q has no template: %w", m.Kind, err)
	}
	part := func(name string) (text string) {
		var b strings.Builder
		if e := t.ExecuteTemplate(&b, name, m); e != nil && err == nil {
			err = fmt.Errorf("template of kind %q: %w", m.Kind, e)
		}
		return strings.TrimSpace(b.String())
	}
	w := Words{Subject: oneLine(part("subject"), 200), Text: part("text") + "\n", Short: gsm(part("short"))}
	return w, err
}
