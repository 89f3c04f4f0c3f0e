package boot

// Powered notes by what the machine of an order is switched on. One that is over
// is a Refusal.
func (t *Table) Powered(orderID, by string) (Order, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() {
		return Order{}, &Refusal{Reason: "no open order " + orderID}
	}
	o.Power = by
	t.logged(t.putLocked(o), o)
	return o.Order, nil
}
