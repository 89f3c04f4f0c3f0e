package modem

import (
	"context"
	"fmt"
)

// open chooses a store to read and delete in, and returns how full it is. To switch to and fro is also what makes some
// modems receive again (T77W968).
func (b *mailbox) open(ctx context.Context, store string) (used, of int, err error) {
	cmd := fmt.Sprintf(`+CPMS="%s"`, store)
	if store == "" {
		cmd = "+CPMS?"
	}
	b.opened = "?"
	lines, err := b.session.command(ctx, cmd, "+CPMS", longAnswer)
	if err == nil {
		b.opened = store
	}
	if err != nil && store != "" {
		return 0, 0, fmt.Errorf("open the store of text messages: %w", err)
	}
	if err != nil || len(lines) == 0 {
		return 0, 0, ctx.Err() // it does not say
	}
	list := fields(lines[0])
	if store == "" { // it begins with its name
		list = list[1:]
	}
	used, _ = number(list, 0) // nonsense is 0: not known
	of, _ = number(list, 1)
	return max(used, 0), max(of, 0), nil
}

// delete deletes a letter where it lies: the parts of a long message may be in two stores, and in the other one is
// something else at its place.
func (b *mailbox) delete(ctx context.Context, l letter) error {
	if l.store != b.opened {
		if _, _, err := b.open(ctx, l.store); err != nil {
			return err
		}
	}
	_, err := b.session.command(ctx, fmt.Sprintf("+CMGD=%d", l.index), "", longAnswer)
	return err
}

// letter is a message in the store.
type letter struct {
	index  int
	status int // 0 unread, 1 read, 2 and 3 are our own
	pdu    string
	store  string
}

// Bounds of what a store may claim.
const (
	maxPlaces  = 255
	maxLetters = 512
)

// read lists a store. Some modems refuse 4 for "all" in PDU mode and want the word of text mode (Quectel EP06-A: +CMS
// ERROR 303); where that fails, too, each place is read by itself.
func (b *mailbox) read(ctx context.Context, of int) (list []letter, err error) {
	for _, way := range []string{"4", `"ALL"`} {
		var entries []entry
		if entries, err = b.session.entries(ctx, "+CMGL="+way, "+CMGL", longAnswer); err == nil {
			return lettersOf(entries), nil
		}
		if isUnknown(err) {
			return nil, err
		}
	}
	if list, failed := b.readEach(ctx, of); failed == nil {
		return list, nil
	}
	return nil, err
}

// readEach reads place by place.
func (b *mailbox) readEach(ctx context.Context, of int) (list []letter, err error) {
	answered := false
	for index := range min(max(of, 20), maxPlaces) + 1 { // some count from 0
		entries, err := b.session.entries(ctx, fmt.Sprintf("+CMGR=%d", index), "+CMGR", longAnswer)
		if isUnknown(err) {
			return nil, err
		}
		if err != nil {
			continue // empty
		}
		answered = true
		for _, e := range entries {
			if status, _ := number(fields(e.header), 0); e.pdu != "" {
				list = append(list, letter{index: index, status: status, pdu: e.pdu})
			}
		}
	}
	if !answered && len(list) == 0 && of == 0 {
		return nil, fmt.Errorf("the modem lists no text messages, neither by +CMGL nor by +CMGR")
	}
	return list, nil
}

// lettersOf reads "+CMGL: index,stat,[alpha],length" (3GPP TS 27.005, section 4.1).
func lettersOf(entries []entry) (list []letter) {
	for _, e := range entries[:min(len(entries), maxLetters)] {
		index, ok := number(fields(e.header), 0)
		if !ok || index < 0 {
			continue
		}
		status, _ := number(fields(e.header), 1)
		list = append(list, letter{index: index, status: status, pdu: e.pdu})
	}
	return list
}
