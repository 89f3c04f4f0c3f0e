package modem

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"text/template"
	"time"
)

// fence is what holds a bearer whose quota is used up: on its device only what keeps the way in
// alive may leave, in the chains of a table of our own.
//
// Allowed are DHCP and neighbour discovery, WireGuard's messages that carry nothing
// (handshake 148, answer 92, cookie 64 and keepalive 32 bytes), few probes and
// questions for a hub's name, and a small budget per day of what goes through the tunnel, so that an
// admin can log in and lift the limit. What the hub sends cannot be held back here, but without our
// acknowledgements it sends little; it takes from the same budget.
type fence struct {
	modem   string
	program string // nft
	up      string // the device that it stands on
	day     string
}

const fenceTable = "rescuebox_quota"

// control is the budget per day of the tunnel's own packets. 1 MB is some hours of
// typing, and 30 MB in a month that nobody looks.
const control = "1 mbytes"

var fenceRules = template.Must(template.New("fence").Parse(`
{{- define "remove"}}
add table inet {{.Table}}
{{range .Chains}}add chain inet {{$.Table}} {{$.Modem}}_{{.}}
flush chain inet {{$.Table}} {{$.Modem}}_{{.}}
{{end}}{{range .Chains}}delete chain inet {{$.Table}} {{$.Modem}}_{{.}}
{{end}}add quota inet {{.Table}} {{.Modem}} { {{.Control}} }
delete quota inet {{.Table}} {{.Modem}}
{{end}}
{{- define "put"}}
table inet {{.Table}} {
	quota {{.Modem}} { {{.Control}} }
	chain {{.Modem}}_allow {
		udp sport 68 udp dport 67 accept
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
		udp length 156 @th,64,32 0x01000000 limit rate 1/second burst 10 packets accept
		udp length 100 @th,64,32 0x02000000 limit rate 1/second burst 10 packets accept
		udp length 72 @th,64,32 0x03000000 limit rate 1/second burst 10 packets accept
		udp length 40 @th,64,32 0x04000000 limit rate 2/second burst 20 packets accept
		udp length > 40 @th,64,32 0x04000000 quota name "{{.Modem}}" accept
		udp dport 53 udp length < 140 limit rate 6/minute burst 4 packets accept
		icmp type echo-request meta length < 100 limit rate 6/minute burst 4 packets accept
		icmpv6 type echo-request meta length < 120 limit rate 6/minute burst 4 packets accept
		counter drop
	}
	chain {{.Modem}}_out {
		type filter hook output priority filter - 1; policy accept;
		oifname "{{.Device}}" jump {{.Modem}}_allow
	}
	chain {{.Modem}}_in {
		type filter hook input priority filter - 1; policy accept;
		iifname "{{.Device}}" udp length > 40 @th,64,32 0x04000000 quota name "{{.Modem}}" accept
		iifname "{{.Device}}" udp length > 40 @th,64,32 0x04000000 drop
	}
	chain {{.Modem}}_forward {
		type filter hook forward priority filter - 1; policy accept;
		oifname "{{.Device}}" counter drop
		iifname "{{.Device}}" counter drop
	}
}
{{end}}`))

// fenceChains in the order in which they can be deleted: who jumps before where to.
var fenceChains = []string{"out", "in", "forward", "allow"}

// put has the fence stand on a device, with a new budget on a new day. It stands before
// the bearer is used, else the bearer must be down.
func (f *fence) put(ctx context.Context, device string, now time.Time) error {
	day := now.Format(time.DateOnly)
	if f.up == device && f.day == day && f.stands(ctx) {
		return nil
	}
	text, err := f.render(device, "remove", "put")
	if err != nil {
		return err
	}
	if err := f.nft(ctx, text); err != nil {
		return fmt.Errorf("keep the bearer within its quota: %w", err)
	}
	f.up, f.day = device, day
	return nil
}

// stands looks whether it is still there: who reloads the firewall of the box (nftables.service begins with "flush
// ruleset") takes away all tables.
func (f *fence) stands(ctx context.Context) bool {
	return f.run(ctx, "", "list", "chain", "inet", fenceTable, chainName(f.modem)+"_out") == nil
}

// remove takes it away, one of an earlier daemon too.
func (f *fence) remove(ctx context.Context) error {
	text, err := f.render("", "remove")
	if err != nil {
		return err
	}
	if err := f.nft(ctx, text); err != nil {
		return fmt.Errorf("let the bearer go again: %w", err)
	}
	f.up = ""
	return nil
}

func (f *fence) render(device string, parts ...string) (string, error) {
	var out bytes.Buffer
	for _, part := range parts {
		err := fenceRules.ExecuteTemplate(&out, part, map[string]any{
			"Table": fenceTable, "Modem": chainName(f.modem), "Device": device, "Chains": fenceChains, "Control": control,
		})
		if err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// chainName is a modem's name as nft takes it.
func chainName(modem string) string {
	return "m_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, modem)
}

func (f *fence) nft(ctx context.Context, text string) error { return f.run(ctx, text, "-f", "-") }

// run runs nft.
func (f *fence) run(ctx context.Context, text string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	program := f.program
	if program == "" {
		program = "nft"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("nft (Debian package nftables): %w: %s", err, said)
	}
	return nil
}
