package admin

import (
	"rescuebox/appliance/admin/api"
)

// Notifier tells people; package notify does, behind an adapter. Its "no" is a *boot.Refusal.
type Notifier interface {
	Targets() []api.NotifyTarget
	Messages() []api.Notification // newest first
	// Test puts a test message for one target, or for all of them for "".
	Test(target, by string) (api.Notification, error)
}

// maxNotifications bounds a listing.
const maxNotifications = 1000

// listNotifications answers GET /v1/notifications.
func (h *service) listNotifications(c *call) (any, error) {
	n, err := c.max(100, maxNotifications)
	if err != nil {
		return nil, err
	}
	out := api.Notifications{Targets: []api.NotifyTarget{}, Messages: []api.Notification{}}
	if h.Notifier == nil {
		return out, nil
	}
	out.Targets = append(out.Targets, h.Notifier.Targets()...)
	all := h.Notifier.Messages()
	out.Messages = append(out.Messages, all[:min(n, len(all))]...)
	return out, nil
}

// testNotification answers POST /v1/notifications/test.
func (h *service) testNotification(c *call) (any, error) {
	var ask api.TestNotification
	if err := c.read(&ask); err != nil {
		return nil, err
	}
	c.note("%s", quoteIfOdd(ask.Target))
	if h.Notifier == nil || len(h.Notifier.Targets()) == 0 {
		return nil, conflict("nobody is told anything: [notify] in the file of the site names no target").
			hint("add a [[notify.webhook]] or [[notify.mail]]")
	}
	return h.Notifier.Test(ask.Target, c.who.Name)
}
