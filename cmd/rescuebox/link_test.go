//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// testLinks is a box with wan, lte and a modem.
type testLinks struct {
	failed  string
	mode    string
	allowed int64
	forgot  string
}

func (l *testLinks) Link() api.Link {
	handshake := time.Now().Add(-12*time.Minute - 30*time.Second)
	link := api.Link{Mode: "standby", Active: "wan", Why: "it is the first that works", Uplinks: []api.Uplink{
		{Name: "wan", Interface: "eth0", Addresses: []string{"192.168.1.2/24"}, State: "up", RTT: "12ms", Monthly: 11.2e9},
		{Name: "lte", Modem: "lte", Interface: "wwan0", Addresses: []string{"10.64.0.5/32"}, State: "up", Metered: true, Monthly: 1e6}},
		VPN: &api.VPN{Kind: "userspace", Interface: "rescuevpn", Address: "10.99.0.2/24", Up: true, Hub: "hub.example.org", Endpoint: "192.0.2.9:51820",
			Uplink: "wan", Handshake: &handshake, Received: 2e6, Sent: 1e6, PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", Peer: "[Peer]\nAllowedIPs = 10.99.0.2/32\n"}}
	if l.mode != "" {
		link.Mode = l.mode
	}
	if l.failed == "wan" {
		link.Active, link.Why, link.VPN.Uplink, link.Uplinks[0].State = "lte", "wan was failed by hand", "lte", "failed"
	}
	return link
}

func (l *testLinks) Change(a api.LinkAction, _ time.Duration) error {
	switch {
	case a.Uplink != "wan" && a.Uplink != "lte" && a.Uplink != "":
		return &boot.Refusal{Reason: "no uplink is called " + a.Uplink, Hint: "there are wan, lte"}
	case a.Action == "fail":
		l.failed = a.Uplink
	case a.Action == "restore":
		l.failed = ""
	default:
		l.mode = a.Mode
	}
	return nil
}

func (l *testLinks) Drill(_ context.Context, uplink string, _ time.Duration) (api.LinkReport, error) {
	if uplink == "lte" {
		return api.LinkReport{Uplink: uplink, Gap: "1m0s", Text: "nothing stood in for lte"}, nil
	}
	return api.LinkReport{OK: true, Uplink: "wan", By: "lte", Gap: "85ms", Lost: 1, Text: "lte stood in for wan after 85ms, 1 probe was lost"}, nil
}

func (l *testLinks) Modems() []api.Modem {
	signal, next := -71, time.Now().Add(time.Hour)
	return []api.Modem{{Name: "lte", Ready: true, Model: "EG25-G", Port: "/dev/ttyUSB2", Operator: "MegaFon", Technology: "LTE", Network: "home", Signal: &signal,
		Data:     &api.ModemData{Up: true, Interface: "wwan0", Addresses: []string{"10.64.0.5/32"}, Used: 4.1e9, Quota: 5e9 + l.allowed},
		Recovery: &api.Recovery{Fault: "no data", Last: "attach", Next: &next, Helped: "usb", Error: "ERROR"}}}
}

func (*testLinks) Reset(_, rung string) error {
	if rung == "hammer" {
		return &boot.Refusal{Reason: `modem lte cannot be reset by "hammer": there are attach, restart, usb`}
	}
	return nil
}

func (l *testLinks) Allow(_ string, bytes int64) error {
	l.allowed += bytes
	return nil
}

func (*testLinks) Texts(int) ([]api.TextMessage, error) {
	return []api.TextMessage{{ID: "2", Number: "+79161234567", Sent: true, Time: time.Now(), State: "unknown", Text: "srv01: ticket\x1b[2J", Why: "the modem did not answer in time"},
		{ID: "1", Number: "+79161234567", Time: time.Now(), State: "taken", Text: "status"}}, nil
}

func (*testLinks) Send(to, text string) (api.TextMessage, error) {
	return api.TextMessage{ID: "3", Number: to, Sent: true, Time: time.Now(), State: "waiting", Text: text}, nil
}

const testURI = "otpauth://hotp/rescuebox%20kazan-2:+79161234567?algorithm=SHA256&counter=0&digits=8&issuer=rescuebox&secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"

func (l *testLinks) Texting() api.Texting {
	on := l.forgot == ""
	return api.Texting{Budget: 50, Spent: 3, Senders: []api.Sender{{Number: "+79161234567", May: []string{"status", "boot srv01"}, Enrolled: on, Locked: on},
		{Number: "+79161234568", May: []string{"status"}}, {Number: "+79161234569", May: []string{}, Enrolled: true, Left: true}}}
}

func (l *testLinks) Forget(number string) error {
	if number != "+79161234567" {
		return &boot.Refusal{Reason: number + " has no secret", Hint: "rescuebox modem sms status"}
	}
	l.forgot = number
	return nil
}

func (*testLinks) Enroll(number string) (string, error) {
	if number != "+79161234567" {
		return "", &boot.Refusal{Reason: number + " may not command the box", Hint: "add [[text.sender]] to the file of the site"}
	}
	return testURI, nil
}

// What the terminal shows of a secret is read by another's reader.
func TestSecretScans(t *testing.T) {
	zbar, err := exec.LookPath("zbarimg")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("zbarimg is not here: apt-get install zbar-tools")
		}
		t.Skip("zbarimg is not here: apt-get install zbar-tools")
	}
	var screen bytes.Buffer
	if err := printSecret(&screen, api.Enrolled{URI: testURI}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), zbar, "--quiet", "--raw", "-")
	cmd.Stdin = strings.NewReader(pictureOf(screen.String()))
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != testURI {
		t.Errorf("zbarimg reads %q, %v from\n%s", out, err, screen.String())
	}
}

// pictureOf photographs half blocks: a plain portable bitmap (pbm(5)), a module 4 pixels wide.
func pictureOf(screen string) string {
	const zoom = 4
	var rows []string
	for line := range strings.Lines(screen) {
		line, drawn := strings.CutPrefix(strings.TrimSuffix(line, "\x1b[0m\n"), "\x1b[30;47m")
		if !drawn {
			continue
		}
		var upper, lower strings.Builder
		for _, r := range line {
			up, low := "0", "0"
			if r == '▀' || r == '█' {
				up = "1"
			}
			if r == '▄' || r == '█' {
				low = "1"
			}
			upper.WriteString(strings.Repeat(up, zoom))
			lower.WriteString(strings.Repeat(low, zoom))
		}
		for range zoom {
			rows = append(rows, upper.String())
		}
		for range zoom {
			rows = append(rows, lower.String())
		}
	}
	return "P1\n" + strconv.Itoa(len(rows[0])) + " " + strconv.Itoa(len(rows)) + "\n" + strings.Join(rows, "\n") + "\n"
}
