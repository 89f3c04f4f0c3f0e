package boot

import (
	"bytes"
	"fmt"
	"strings"
	"text/template"

	"rescuebox/images"
)

// grubTemplate is the configuration of the chain "shim". Debian's signed GRUB
// has no HTTP and may load no module, so that only built-in commands are in it,
// and kernel and initrd come by TFTP. It retries what a real site lets fail at
// first, waits for no key, and when all was in vain restarts the machine: as
// long as the order stands that tries anew, and after it the machine's own disk comes.
var grubTemplate = template.Must(template.New(grubConfig).Parse(`set timeout=0
echo "rescuebox boots {{.Title}} on {{.Machine}}. You need not do anything."
for try in 1 2 3 4 5 6 7 8 9 10 11 12; do
	if linux {{.Kernel}} {{.Cmdline}}; then
{{- if .Initrd}}
		if initrd {{.Initrd}}; then
			boot
		fi
{{- else}}
		boot
{{- end}}
	fi
	echo "Attempt $try failed. Trying again in 5 seconds..."
	sleep 5
done
echo "{{.Machine}} could not load {{.Title}}. Restarting."
sleep 5
reboot
`))

// grubScript renders the configuration for one machine's order. host is the
// address of our TFTP: beside somebody else's DHCP server GRUB may take that for it.
func (t *Table) grubScript(d Decision, mac MAC) ([]byte, error) {
	line, err := t.commandLine(d, mac)
	if err != nil {
		return nil, err
	}
	folder := "(tftp," + t.tftpHost() + ")/boot/" + mac.Plain() + "/"
	var initrd []string
	for _, name := range d.Image.Initrd {
		initrd = append(initrd, grubQuote(folder+name))
	}
	kernel := d.Image.Loads(true)
	if len(kernel) == 0 {
		return nil, fmt.Errorf("image %s has no kernel", d.Image.Name)
	}
	var words []string
	for _, word := range strings.Fields(line) {
		words = append(words, grubQuote(word))
	}
	var script bytes.Buffer
	err = grubTemplate.Execute(&script, map[string]string{"Title": grubText(titleOf(d.Image)), "Machine": grubText(d.Machine.Name),
		"Kernel": grubQuote(folder + kernel[0]), "Cmdline": strings.Join(words, " "), "Initrd": strings.Join(initrd, " ")})
	if err != nil {
		return nil, fmt.Errorf("GRUB configuration of %s: %w", d.Image.Name, err)
	}
	return script.Bytes(), nil
}

// grubRedirect is what a machine gets that asks for "grub.cfg" from an address
// that nothing is known of: GRUB knows its MAC, and asks again by it.
func (t *Table) grubRedirect() *File {
	return textFile(grubConfig, "configfile (tftp,"+t.tftpHost()+")/boot/$net_default_mac/"+grubConfig+"\n")
}

// grubGoesOn is what GRUB gets where there is nothing to boot, or no more: an order
// can end between loader and configuration. A plain "no" would leave it at a
// prompt that waits for ever; by this the firmware goes on, to the machine's own disk.
func grubGoesOn(err error) *File {
	return textFile(grubConfig, "echo \""+grubText(err.Error())+"\"\nsleep 5\nexit\n")
}

// isoConfig is the text that goes over the place for it in the image's ISO.
func (t *Table) isoConfig(d Decision, mac MAC) ([]byte, error) {
	line, err := t.commandLine(d, mac)
	if err != nil {
		return nil, err
	}
	text := []byte("set rescuebox_args=\"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(line) + "\"\n")
	room := int(d.Image.ISO.ConfigSize)
	if len(text) > room {
		return nil, fmt.Errorf("the kernel arguments need %d bytes, and the ISO of %s has room for %d: build the image again", len(text), d.Image.Name, room)
	}
	return append(text, bytes.Repeat([]byte("\n"), room-len(text))...), nil
}

// grubQuote makes one word of what the image's own command line may hold.
func grubQuote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// grubText makes text safe within double quotes.
func grubText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("\"\\$`", r) {
			return ' '
		}
		return r
	}, text)
}

func titleOf(img images.Image) string {
	if img.Title == "" {
		return img.Name
	}
	return img.Title
}
