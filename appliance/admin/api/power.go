package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"time"
)

// By what a machine's power is switched.
const (
	ByBMC    Power = "bmc"
	BySwitch Power = "switch" // a PDU, PiKVM, Wake-on-LAN, a command
)

// BySystem is how a machine is shut down: its own system does it.
const BySystem Power = "system"

// PowerState is whether a machine has power.
type PowerState struct {
	Machine string  `json:"machine"`
	By      Power   `json:"by"`    // who says so
	State   string  `json:"state"` // on, off, unknown
	Ways    []Power `json:"ways"`  // by what it can be switched
}

// PowerAction asks to switch a machine's power.
type PowerAction struct {
	Action string `json:"action"`       // on, off, cycle, reset, soft
	By     Power  `json:"by,omitempty"` // default the BMC, and the switch where there is none
}

// PowerDone says what was done.
type PowerDone struct {
	Machine string    `json:"machine"`
	Action  string    `json:"action"`
	By      Power     `json:"by"`  // bmc, switch; of soft system
	Who     string    `json:"who"` // the caller
	Time    time.Time `json:"time"`
}

// BMCAudit is what was found about the controllers of servers.
type BMCAudit struct {
	OK       bool         `json:"ok"`    // nothing is bad
	Swept    int          `json:"swept"` // addresses of the rescue LAN that were asked
	Findings []BMCFinding `json:"findings"`
}

// BMCFinding is one result about one controller.
type BMCFinding struct {
	Machine string `json:"machine,omitempty"` // none: a controller that no machine names
	Host    string `json:"host"`
	Check   string `json:"check"` // stable name of what was looked at
	Level   string `json:"level"` // bad, note, good
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty"`
}

// BMCTrust is the certificate of a controller that is pinned now, or whose certificates are pinned no
// more.
type BMCTrust struct {
	Machine   string   `json:"machine"`
	SHA256    string   `json:"sha256,omitempty"`
	Forgotten []string `json:"forgotten,omitempty"`
}

// Relays is several ways through the box that stand and end together.
type Relays struct {
	Ways []Relay `json:"ways"`
}

// Power asks whether a machine has power; by is "" for the daemon's choice. A switch that is asked by text message is asked
// only where that is confirmed: else the error has the code Unconfirmed.
func (c *Client) Power(ctx context.Context, machine string, by Power, confirmed bool) (PowerState, error) {
	meant := ""
	if confirmed {
		meant = "true"
	}
	return get[PowerState](ctx, c, "/v1/machines/"+segment(machine)+"/power"+query("by", string(by), "confirmed", meant))
}

// SwitchPower switches a machine's power.
func (c *Client) SwitchPower(ctx context.Context, machine string, a PowerAction) (PowerDone, error) {
	var done PowerDone
	err := c.do(ctx, http.MethodPost, "/v1/machines/"+segment(machine)+"/power", a, &done)
	return done, err
}

// AuditBMCs looks at the controllers of the site, or of one machine, and with lan at all
// that answer on the rescue LAN. It takes up to minutes.
func (c *Client) AuditBMCs(ctx context.Context, machine string, lan bool) (BMCAudit, error) {
	sweep := ""
	if lan {
		sweep = "true"
	}
	return get[BMCAudit](ctx, c, "/v1/bmc/audit"+query("machine", machine, "lan", sweep))
}

// TrustBMC pins the certificate that a machine's controller shows now. For other, and where there is no
// controller, it has those of its PiKVM and its WinRM forgotten instead.
func (c *Client) TrustBMC(ctx context.Context, machine string, other bool) (BMCTrust, error) {
	text := ""
	if other {
		text = "true"
	}
	var t BMCTrust
	err := c.do(ctx, http.MethodPost, "/v1/machines/"+segment(machine)+"/bmc/trust"+query("switch", text), nil, &t)
	return t, err
}

// ConnectBMC opens ways to all services of a machine's controller. They stand and end
// together: to close one closes all.
func (c *Client) ConnectBMC(ctx context.Context, machine string, span time.Duration) ([]*Way, error) {
	text := ""
	if span > 0 {
		text = span.String()
	}
	conn, err := c.upgrade(ctx, "/v1/machines/"+segment(machine)+"/connect"+query("service", "bmc", "for", text))
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReaderSize(conn, maxLine)
	watchdog := time.AfterFunc(silence, func() { conn.Close() })
	var opened Relays
	if err := readLine(lines, &opened); err != nil || len(opened.Ways) == 0 {
		watchdog.Stop()
		conn.Close()
		return nil, fmt.Errorf("read the answer of %s: %w", c.where, err)
	}
	h := &held{conn: conn, done: make(chan struct{})}
	var ways []*Way
	for _, r := range opened.Ways {
		ways = append(ways, &Way{Relay: r, client: c, held: h})
	}
	go h.listen(lines, watchdog)
	return ways, nil
}
