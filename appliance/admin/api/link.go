package api

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// Link is how the box reaches the Internet, and admins the box.
type Link struct {
	Mode     string     `json:"mode"`             // standby, dormant, lte-only
	Active   string     `json:"active,omitempty"` // the uplink that is used; none where nothing works
	Since    *time.Time `json:"since,omitempty"`  // of Active
	Why      string     `json:"why,omitempty"`    // one sentence: why this one
	Switches int        `json:"switches"`         // in the last hour
	Uplinks  []Uplink   `json:"uplinks"`          // in the order of preference
	VPN      *VPN       `json:"vpn,omitempty"`
}

// Uplink is a way to the Internet.
type Uplink struct {
	Name      string     `json:"name"`
	Interface string     `json:"interface,omitempty"`
	Modem     string     `json:"modem,omitempty"`
	Addresses []string   `json:"addresses,omitempty"` // with prefix length
	Gateway   string     `json:"gateway,omitempty"`
	Metered   bool       `json:"metered,omitempty"`
	State     string     `json:"state"`         // up, down, unproven, dormant, failed (by hand)
	Why       string     `json:"why,omitempty"` // one sentence
	Since     *time.Time `json:"since,omitempty"`
	RTT       string     `json:"rtt,omitempty"`     // of the last probe
	Monthly   int64      `json:"monthly,omitempty"` // bytes in 30 days that its probes cost
	Until     *time.Time `json:"until,omitempty"`   // of a failure by hand
}

// VPN is the way in.
type VPN struct {
	Kind      string     `json:"kind"` // userspace, kernel, external
	Interface string     `json:"interface"`
	Address   string     `json:"address,omitempty"`
	Up        bool       `json:"up"`
	Why       string     `json:"why,omitempty"` // one sentence where it is not up
	PublicKey string     `json:"public_key,omitempty"`
	Hub       string     `json:"hub,omitempty"`
	Endpoint  string     `json:"endpoint,omitempty"` // where the hub is
	Uplink    string     `json:"uplink,omitempty"`   // by which its packets leave
	Handshake *time.Time `json:"handshake,omitempty"`
	Received  int64      `json:"received"`
	Sent      int64      `json:"sent"`
	Peer      string     `json:"peer,omitempty"` // what the hub must know of the box, as a part of its configuration
}

// LinkAction asks to change the way the box goes.
type LinkAction struct {
	Action string `json:"action"`           // fail, restore, mode
	Uplink string `json:"uplink,omitempty"` // of fail and restore
	Mode   string `json:"mode,omitempty"`   // of mode
	For    string `json:"for,omitempty"`    // of fail; default until it is restored
}

// LinkDrill asks for a drill: an uplink fails for a while, and comes back by itself.
type LinkDrill struct {
	Uplink string `json:"uplink,omitempty"` // the active one; another one is refused
	For    string `json:"for,omitempty"`    // default 60s
}

// LinkReport is what a drill showed.
type LinkReport struct {
	OK     bool   `json:"ok"` // the box was reached all the time, or soon again
	Uplink string `json:"uplink"`
	By     string `json:"by,omitempty"` // the uplink that stood in
	Gap    string `json:"gap"`          // longest silence of the VPN's hub
	Lost   int    `json:"lost"`         // probes without an answer
	Text   string `json:"text"`         // one sentence
}

// Modem is a modem of the box.
type Modem struct {
	Name       string     `json:"name"`
	Ready      bool       `json:"ready"`
	Why        string     `json:"why,omitempty"` // one sentence where it is not ready
	Hint       string     `json:"hint,omitempty"`
	Port       string     `json:"port,omitempty"`
	Model      string     `json:"model,omitempty"`
	Firmware   string     `json:"firmware,omitempty"`
	IMEI       string     `json:"imei,omitempty"`
	ICCID      string     `json:"iccid,omitempty"`
	Operator   string     `json:"operator,omitempty"`
	Technology string     `json:"technology,omitempty"` // GSM, UMTS, LTE, …
	Network    string     `json:"network,omitempty"`    // home, roaming, searching, denied, none
	Signal     *int       `json:"signal,omitempty"`     // dBm
	Recovery   *Recovery  `json:"recovery,omitempty"`   // while something is wrong
	Rungs      []string   `json:"rungs,omitempty"`      // what can be done to it, the harmless ones first
	Texts      string     `json:"texts,omitempty"`      // why text messages do not come, or the last one did not go
	Data       *ModemData `json:"data,omitempty"`
}

// Recovery is what is done about a modem that does not work.
type Recovery struct {
	Fault  string     `json:"fault,omitempty"`  // what is being cured
	Doing  string     `json:"doing,omitempty"`  // the rung that is done just now
	Last   string     `json:"last,omitempty"`   // the rung done last
	Next   *time.Time `json:"next,omitempty"`   // no rung before
	Count  int        `json:"count,omitempty"`  // rungs since the fault began
	Helped string     `json:"helped,omitempty"` // what ended this fault the last time
	Error  string     `json:"error,omitempty"`  // why the last rung could not be done
}

// ModemReset asks for one rung of a modem's recovery.
type ModemReset struct {
	Rung string `json:"rung,omitempty"` // default the next one, or a restart of the modem
}

// ModemAllow lifts a modem's quota until its billing month ends.
type ModemAllow struct {
	Bytes int64 `json:"bytes,omitempty"` // so many more; default as much as it takes
}

// ModemData is a modem's way to the Internet.
type ModemData struct {
	Up        bool       `json:"up"`
	Why       string     `json:"why,omitempty"`
	Interface string     `json:"interface,omitempty"`
	Addresses []string   `json:"addresses,omitempty"`
	Used      int64      `json:"used"`            // bytes in the billing month
	Quota     int64      `json:"quota,omitempty"` // none: no limit
	Resets    *time.Time `json:"resets,omitempty"`
	Stopped   bool       `json:"stopped,omitempty"` // the quota is used up
}

// TextMessage is a text message that came or is sent.
type TextMessage struct {
	ID     string    `json:"id"`
	Number string    `json:"number"`
	Sent   bool      `json:"sent"` // by the box; else it came
	Time   time.Time `json:"time"`
	State  string    `json:"state"` // of those sent: waiting, sent, failed, unknown; else taken, refused, ignored
	Text   string    `json:"text"`  // without codes
	Why    string    `json:"why,omitempty"`
}

// Texting is how text messages go, and who commands the box by them.
type Texting struct {
	Budget  int      `json:"budget"`  // messages that are sent in 24 hours
	Spent   int      `json:"spent"`   // of it
	Waiting int      `json:"waiting"` // messages to be sent
	Senders []Sender `json:"senders"`
}

// Sender is a number that commands the box.
type Sender struct {
	Number   string   `json:"number"`
	May      []string `json:"may"`
	Enrolled bool     `json:"enrolled"` // it has a secret
	Locked   bool     `json:"locked"`   // wrong codes came: for an hour it takes two codes in a row
	Left     bool     `json:"left"`     // it is not in the file of the site any more, and its secret is still there
}

// NewTextMessage asks to send one.
type NewTextMessage struct {
	To   string `json:"to"`
	Text string `json:"text"`
}

// Enroll asks for a new secret with which a number commands the box.
type Enroll struct {
	Number string `json:"number"`
}

// Enrolled has that secret, shown this once.
type Enrolled struct {
	Number string `json:"number"`
	URI    string `json:"uri"` // otpauth://hotp/…, for an authenticator app
}

// Link asks how the box is connected.
func (c *Client) Link(ctx context.Context) (Link, error) { return get[Link](ctx, c, "/v1/link") }

// ChangeLink changes the way the box goes.
func (c *Client) ChangeLink(ctx context.Context, a LinkAction) (Link, error) {
	var l Link
	err := c.do(ctx, http.MethodPost, "/v1/link", a, &l)
	return l, err
}

// DrillLink fails an uplink for a while and tells what it did. It takes that long.
func (c *Client) DrillLink(ctx context.Context, d LinkDrill) (LinkReport, error) {
	var r LinkReport
	err := c.do(ctx, http.MethodPost, "/v1/link/drill", d, &r)
	return r, err
}

// Modems lists the modems.
func (c *Client) Modems(ctx context.Context) ([]Modem, error) {
	return get[[]Modem](ctx, c, "/v1/modems")
}

// ResetModem does a rung of a modem's recovery now; "" is the one that suits.
func (c *Client) ResetModem(ctx context.Context, name, rung string) (Modem, error) {
	var m Modem
	err := c.do(ctx, http.MethodPost, "/v1/modems/"+segment(name)+"/reset", ModemReset{Rung: rung}, &m)
	return m, err
}

// AllowData lifts a modem's quota until its billing month ends: by so many bytes, or with 0 altogether.
func (c *Client) AllowData(ctx context.Context, name string, bytes int64) (Modem, error) {
	var m Modem
	err := c.do(ctx, http.MethodPost, "/v1/modems/"+segment(name)+"/allow", ModemAllow{Bytes: bytes}, &m)
	return m, err
}

// TextMessages lists text messages, newest first.
func (c *Client) TextMessages(ctx context.Context, max int) ([]TextMessage, error) {
	return get[[]TextMessage](ctx, c, "/v1/texts"+query("max", strconv.Itoa(max)))
}

// Texting asks how text messages go, and who commands the box by them.
func (c *Client) Texting(ctx context.Context) (Texting, error) {
	return get[Texting](ctx, c, "/v1/texts/senders")
}

// SendText sends a text message; it is on disk when this returns, and goes out after.
func (c *Client) SendText(ctx context.Context, m NewTextMessage) (TextMessage, error) {
	var out TextMessage
	err := c.do(ctx, http.MethodPost, "/v1/texts", m, &out)
	return out, err
}

// Enroll makes a number's secret anew.
func (c *Client) Enroll(ctx context.Context, number string) (Enrolled, error) {
	var e Enrolled
	err := c.do(ctx, http.MethodPost, "/v1/texts/senders", Enroll{Number: number}, &e)
	return e, err
}

// Forget takes a number's secret away: it commands nothing any more.
func (c *Client) Forget(ctx context.Context, number string) error {
	return c.do(ctx, http.MethodDelete, "/v1/texts/senders/"+segment(number), nil, nil)
}
