package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/notify"
	"rescuebox/appliance/ticket"
)

// targetsOf are the ways to tell people that the file of the site names.
func (b *box) targetsOf(c config.Notify) (list []notify.Target) {
	for _, w := range c.Webhooks {
		list = append(list, notify.Target{Name: w.Name, Kinds: kindsOf(w.Kinds), Credentials: w.Credentials,
			Sender: &notify.Webhook{URL: w.URL, URLFile: w.URLFile, SecretFile: w.SecretFile, CAFile: w.CAFile}})
	}
	for _, m := range c.Mails {
		list = append(list, notify.Target{Name: m.Name, Kinds: kindsOf(m.Kinds), Credentials: m.Credentials,
			Sender: &notify.Mail{Server: m.Server, From: m.From, To: m.To, User: m.User, PasswordFile: m.PasswordFile,
				TLS: notify.TLSMode(m.TLS), CAFile: m.CAFile}})
	}
	for _, t := range c.Texts {
		list = append(list, notify.Target{Name: t.Name, Kinds: kindsOf(t.Kinds), Credentials: t.Credentials,
			Sender: &notify.Text{To: t.To, Out: func(ctx context.Context, number, body string, urgent bool, mark func()) error {
				return b.in.tell(ctx, number, body, urgent, mark)
			}}})
	}
	return list
}

func kindsOf(names []string) (list []notify.Kind) {
	for _, n := range names {
		list = append(list, notify.Kind(n))
	}
	return list
}

// ticketMessage tells of a ticket. Its id covers what opens the machine: a ticket
// that comes again with the same is no news, one with a new code is.
func (b *box) ticketMessage(t ticket.Ticket) notify.Message {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %v %d %q %q", t.ID, t.Kind, t.Address, t.Port, t.Code, t.HostKeyLines)
	m := notify.Message{ID: "ticket-" + t.ID + "-" + hex.EncodeToString(h.Sum(nil)[:6]), Kind: notify.Ticket, Site: b.Config.Site,
		Machine: t.Machine, Order: t.Order, Image: b.imageOf(t.Order), Time: time.Now(), Weak: !t.Verified}
	command := ticket.Command(t)
	switch {
	case t.Problem != "":
		m.Text = "its ticket cannot be read: " + t.Problem
	case command == "":
		m.Text = "its ticket names no address at which it can be reached: the machine had none when it wrote it"
	case t.Machine == "": // the box leads to machines that it knows
		m.Secret = fmt.Sprintf("In its own network\n\n  %s\n\ntakes it over. Ticket %s does not say whose it is.\n", command, t.ID)
	default:
		m.Secret = fmt.Sprintf("  rescuebox connect %s\n\ndoes it through the box; from its own network\n\n  %s\n", t.Machine, command)
	}
	if t.Code != "" && m.Secret != "" {
		m.SecretShort = fmt.Sprintf("%s %s", t.Code, t.Endpoint())
	}
	return m
}

// imageOf is the image of an order, or "".
func (b *box) imageOf(order string) string {
	for _, o := range b.table.AllOrders(orderSearch) {
		if o.ID == order && order != "" {
			return o.Image
		}
	}
	return ""
}

// orderSearch is how many orders back one that ended just now is looked for.
const orderSearch = 1000

// notices turns the ends of orders into messages. It looks for ended orders that nobody
// was told of, not at events: orders are on disk when they end, events a second later. What ended
// while the outbox could not store, or just before a power cut, is told later; nothing twice.
type notices struct{ *box }

const (
	lookAgain = time.Minute    // after a disk that failed, or an event that was missed
	oldNews   = 24 * time.Hour // orders that ended before are told no more; the outbox remembers for longer
)

// Run tells of tickets that an earlier life of the daemon did not come to tell of, and of
// orders' ends until ctx is done.
func (n notices) Run(ctx context.Context, ready func()) error {
	watch, stop := n.table.Watch()
	defer stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	ready()
	n.tickets.Resume()
	for {
		if err := n.tell(time.Now()); err != nil {
			n.Log.Error("the end of an order is not in the outbox yet", zap.NamedError("err", err))
		}
		if !awaitEnd(ctx, watch, tick.C) {
			return nil
		}
	}
}

// awaitEnd waits for the end of an order, or until it is time to look; false is the end of ctx.
func awaitEnd(ctx context.Context, watch <-chan boot.Event, tick <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case e := <-watch:
			if e.Step == boot.StepDone || e.Step == boot.StepFailed || e.Step == boot.StepExpired {
				return true
			}
		}
	}
}

// kindOf says which states of an order are news.
var kindOf = map[boot.State]notify.Kind{boot.Done: notify.Done, boot.Failed: notify.Failed, boot.Expired: notify.Expired}

// tell puts what ended into the outbox, which knows what it has.
func (n notices) tell(now time.Time) (failed error) {
	for _, o := range n.table.AllOrders(orderSearch) {
		id := fmt.Sprintf("order-%s-%s", o.ID, o.State)
		if kindOf[o.State] == "" || o.Quiet || now.Sub(o.Ended) > oldNews || n.outbox.Has(id) {
			continue
		}
		m := notify.Message{ID: id, Kind: kindOf[o.State], Site: n.Config.Site, Machine: o.Machine, Order: o.ID, Image: o.Image, Time: o.Ended}
		m.Text, m.Hint = n.why(o)
		failed = errors.Join(failed, n.outbox.Put(m))
	}
	return failed
}

// why is what the timeline says of an order's end: the reason, with the likely cause of it.
func (n notices) why(o boot.Order) (text, hint string) {
	text = o.Reason
	events, _ := n.table.Timeline(o.ID) // without it the reason must do
	for _, e := range events {
		if e.Step == boot.StepCause && o.State != boot.Done {
			text, hint = strings.TrimSuffix(o.Reason, ".")+". "+e.Text, e.Hint
		}
	}
	return text, hint
}

// notifier shows the outbox to the API; it is admin's Notifier.
type notifier struct{ *box }

func (n notifier) Targets() (list []api.NotifyTarget) {
	for _, t := range n.outbox.Targets {
		to := api.NotifyTarget{Name: t.Name, Type: "webhook", Addresses: []string{}, Kinds: []string{}, Credentials: t.Credentials}
		switch t.Sender.(type) {
		case *notify.Mail:
			to.Type = "mail"
		case *notify.Text:
			to.Type = "text"
		}
		for _, a := range t.Sender.Addresses() {
			to.Addresses = append(to.Addresses, t.Sender.Show(a))
		}
		for _, k := range t.Kinds {
			to.Kinds = append(to.Kinds, string(k))
		}
		list = append(list, to)
	}
	return list
}

func (n notifier) Messages() (list []api.Notification) {
	for _, e := range n.outbox.List() {
		m := api.Notification{ID: e.ID, Kind: string(e.Kind), Machine: e.Machine, Order: e.Order, Time: e.Time, Deliveries: []api.Delivery{}}
		for _, d := range e.Deliveries {
			m.Deliveries = append(m.Deliveries, api.Delivery{Target: d.Target, Address: d.Address, State: string(d.State),
				Attempts: d.Attempts, Error: d.Error, Changed: d.Changed, Doubt: d.Doubt})
		}
		list = append(list, m)
	}
	return list
}

func (n notifier) Test(target, by string) (api.Notification, error) {
	id, err := n.outbox.Try(target, n.Config.Site, by, time.Now())
	if errors.Is(err, notify.ErrNoTarget) {
		var names []string
		for _, t := range n.outbox.Targets {
			names = append(names, t.Name)
		}
		return api.Notification{}, &boot.Refusal{Reason: fmt.Sprintf("nobody is called %q in [notify]", target), Hint: "there are " + strings.Join(names, ", ")}
	}
	if err != nil {
		return api.Notification{}, err
	}
	for _, m := range n.Messages() {
		if m.ID == id {
			return m, nil
		}
	}
	return api.Notification{}, errors.New("the test message was forgotten")
}
