package images

import (
	"fmt"
	"strings"
	"text/template"
)

// Args fills a command line's template.
type Args struct {
	Machine string // machine's name
	MAC     string // with colons
	Order   string
	Token   string
	Server  string            // http://192.168.77.1:80
	URL     string            // http://192.168.77.1:80/boot/525400123456: where the image's files are
	SHA256  map[string]string // file name → hexadecimal
}

// maxCmdline is what an x86 kernel keeps of its command line: COMMAND_LINE_SIZE
// is 2048 with the terminating NUL, and what is longer is cut in silence.
const maxCmdline = 2047

// CommandLine fills the image's template. Errors name the field that does not exist.
func (i Image) CommandLine(a Args) (string, error) {
	line, err := i.commandLine(a)
	if err != nil {
		return "", fmt.Errorf("command line of image %s: %w", i.Name, err)
	}
	return line, nil
}

func (i Image) commandLine(a Args) (string, error) {
	if err := a.check(); err != nil {
		return "", err
	}
	t, err := template.New("cmdline").Option("missingkey=error").Funcs(template.FuncMap{"index": sumOf}).Parse(i.Cmdline)
	if err != nil {
		return "", err
	}
	var line limited
	if err := t.Execute(&line, a); err != nil {
		return "", err
	}
	return line.String(), checkText(line.String(), maxCmdline)
}

// sumOf takes the place of the template language's own index, which turns a
// file that does not exist into an empty string: a check that checks nothing.
func sumOf(sums map[string]string, file string) (string, error) {
	sum, ok := sums[file]
	if !ok {
		return "", fmt.Errorf("the image has no file %q", file)
	}
	return sum, nil
}

// check refuses values that would end an argument, or mean something to the
// loader's script in which the line is written. They come from the
// configuration and from requests.
func (a Args) check() error {
	values := map[string]string{"Machine": a.Machine, "MAC": a.MAC, "Order": a.Order, "Token": a.Token, "Server": a.Server, "URL": a.URL}
	for name, sum := range a.SHA256 {
		values["SHA256 of "+name] = sum
	}
	for field, value := range values {
		if strings.ContainsFunc(value, unsafe) {
			return fmt.Errorf("%s holds a character that a kernel argument cannot have", field)
		}
	}
	return nil
}

func unsafe(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune("\"'`$&|;\\#", r)
}

// limited is a strings.Builder that ends a template which writes too much.
type limited struct{ strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxCmdline {
		return 0, fmt.Errorf("longer than the %d bytes that a kernel keeps", maxCmdline)
	}
	return l.Builder.Write(b)
}

// sample is an order like any, to try a template with before it is needed.
func (i Image) sample() Args {
	sums := make(map[string]string, len(i.Files))
	for _, f := range i.Files {
		sums[f.Name] = f.SHA256
	}
	return Args{
		Machine: "srv01", MAC: "52:54:00:12:34:56", Order: "0011aabb", Token: strings.Repeat("0", 32),
		Server: "http://192.168.177.101:8080", URL: "http://192.168.177.101:8080/boot/525400123456", SHA256: sums,
	}
}
