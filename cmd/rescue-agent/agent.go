package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// report is the body of POST /agent/up: the SSH ticket of this machine.
type report struct {
	Kind         string   `json:"kind"` // "ssh"
	User         string   `json:"user"`
	Port         int      `json:"port"`
	Addresses    []string `json:"addresses"`     // the one that reaches the box first
	HostKeys     []string `json:"hostkeys"`      // fingerprints, SHA256:…
	HostKeyLines []string `json:"hostkey_lines"` // as known_hosts has them, without the host
	Serial       string   `json:"serial"`        // of the machine, from DMI
	UUID         string   `json:"uuid"`
	Hostname     string   `json:"hostname"`
	System       string   `json:"system"`
	Kernel       string   `json:"kernel"`
	SecureBoot   string   `json:"secure_boot"` // "enabled", "disabled"; "" is not known, or a machine without UEFI
}

// agent reports this machine to the box until it is told to stop.
//
//	waiting --sshd listens, an address is there--> reporting --accepted--> reported
//	reported --addresses changed--> reporting;  reporting --error--> reporting, later
type agent struct {
	boxClient
	keep    func(keys []byte) error // takes the admins' authorized_keys
	system  system
	out     io.Writer // the journal
	console io.Writer // what a person on site reads
	local   string    // what an administrator at the console is told

	poll     time.Duration // how often addresses are looked at
	minDelay time.Duration // between two tries at first
	maxDelay time.Duration // and after many

	keysDone bool
	reported string // the addresses the box knows
	told     string // the last error the console was told
}

// system is what the agent must know of the machine it runs on.
type system interface {
	// Addresses lists the addresses others can use, the one that reaches the box first.
	Addresses() []string
	// Ready says whether sshd answers.
	Ready() bool
	// Facts fills in all but the addresses.
	Facts() (report, error)
}

// run reports for ever: the machine may be moved to another port of the
// switch, the box may be restarted; neither has a person at hand to ask.
func (a *agent) run(ctx context.Context) error {
	soon, delay := firstLook, a.minDelay
	for {
		wait := a.poll
		switch err := a.step(ctx); {
		case err == nil:
			soon, delay, a.told = firstLook, a.minDelay, ""
		case errors.Is(err, errNotYet):
			wait, soon = soon, grow(soon, a.poll)
		default:
			a.complain(err)
			wait, delay = delay, grow(delay, a.maxDelay)
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// firstLook is how soon an agent that waits for sshd or an address looks again.
const firstLook = 100 * time.Millisecond

// errNotYet is the error of a step that waits for sshd or an address.
var errNotYet = errors.New("not ready yet")

// step does what is due now: nothing, or the keys, or the report, or both.
func (a *agent) step(ctx context.Context) error {
	addresses := a.system.Addresses()
	known := strings.Join(addresses, " ")
	if len(addresses) == 0 {
		return errNotYet
	}
	if a.keysDone && known == a.reported {
		return nil
	}
	if !a.system.Ready() {
		return errNotYet
	}
	if err := a.fetchKeys(ctx); err != nil {
		return err
	}
	if known == a.reported {
		return a.keysMissing()
	}
	r, err := a.system.Facts()
	if err != nil {
		return err
	}
	r.Addresses = addresses
	if err := a.report(ctx, r); err != nil {
		return err
	}
	a.reported = known
	a.announce(r)
	return a.keysMissing()
}

func (a *agent) keysMissing() error {
	if a.keysDone {
		return nil
	}
	return errors.New("the box gives no SSH keys of admins")
}

// complain tells each new error once; the console need not scroll for ever.
func (a *agent) complain(err error) {
	if err.Error() == a.told {
		return
	}
	a.told = err.Error()
	fmt.Fprintf(a.out, "rescuebox: %v; trying again\n", err)
	fmt.Fprintf(a.console, "\r\nrescuebox: %v; trying again, you need not do anything\r\n", err)
}

// fetchKeys gets the admins' authorized_keys. A box that refuses them is no
// reason not to report: the admin sees the ticket, and the refusal in the box's log.
func (a *agent) fetchKeys(ctx context.Context) error {
	res, err := a.do(ctx, http.MethodGet, "/agent/keys", "", nil)
	if err != nil {
		return fmt.Errorf("fetch the admins' SSH keys: %w", short(err))
	}
	defer res.Body.Close()
	a.keysDone = false
	if res.StatusCode != http.StatusOK {
		return nil
	}
	keys, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("fetch the admins' SSH keys: %w", err)
	}
	if len(bytes.TrimSpace(keys)) == 0 {
		return nil
	}
	if err := a.keep(keys); err != nil {
		return fmt.Errorf("keep the admins' SSH keys: %w", err)
	}
	a.keysDone = true
	return nil
}

// report posts the report.
func (a *agent) report(ctx context.Context, r report) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.send(ctx, http.MethodPost, "/agent/up", "application/json", "the report", body)
}

// announce tells the person on site, and the admin on a serial console, how things stand.
func (a *agent) announce(r report) {
	name := a.order.Machine
	if name == "" {
		name = r.Hostname
	}
	lines := append(bigText(name), "",
		"This is the rescue system of "+name+". It is up, and the administrator",
		"has been told. You need not do anything. Please leave the machine on.", "")
	for _, addr := range r.Addresses {
		lines = append(lines, "ssh "+r.User+"@"+addr)
	}
	for _, key := range r.HostKeys {
		lines = append(lines, "host key "+key)
	}
	if a.keysMissing() != nil {
		lines = append(lines, "", "The box has no SSH key of an administrator: nobody can log in by SSH yet.")
	}
	banner(a.console, append(lines, "", a.local)...)
	// Whole-site tests and people searching a console log look for this line.
	up := fmt.Sprintf("rescuebox: rescue system of %s is up, ticket sent", name)
	fmt.Fprintf(a.console, "%s\r\n", up)
	fmt.Fprintln(a.out, up)
}
