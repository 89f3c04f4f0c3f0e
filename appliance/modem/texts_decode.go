package modem

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/warthog618/sms"
	"github.com/warthog618/sms/encoding/gsm7/charset"
	"github.com/warthog618/sms/encoding/pdumode"
	"github.com/warthog618/sms/encoding/tpdu"
)

// part says which part of a long message one is (3GPP TS 23.040, section 9.2.3.24.1).
type part struct {
	key string // the same for all parts of one message
	no  int    // from 1
	of  int    // 0 and 1: it is no long message
}

// errNoMessage is for what lies in the store and is no message from somebody: a delivery report.
var errNoMessage = errors.New("it is no message that came")

// The library makes the table of an alphabet for whoever wants it first, and two at once, as a message that comes and one
// that goes, would get it half made. So all of them are made before anything runs.
var _ = makeAlphabets()

func makeAlphabets() struct{} {
	for language := charset.Default; language < charset.End; language++ {
		charset.NewDecoder(language)
		charset.NewExtDecoder(language)
		charset.NewEncoder(language)
		charset.NewExtEncoder(language)
	}
	return struct{}{}
}

// decode reads a message as the modem stores it.
func decode(pdu string) (*Text, part, error) {
	raw, err := pdumode.UnmarshalHexString(pdu)
	if err != nil {
		return nil, part{}, fmt.Errorf("it is no PDU: %w", err)
	}
	t, err := sms.Unmarshal(raw.TPDU, sms.AsMT)
	if err != nil {
		return nil, part{}, fmt.Errorf("it is no PDU: %w", err)
	}
	if t.SmsType() != tpdu.SmsDeliver {
		return nil, part{}, errNoMessage
	}
	alphabet, err := t.Alphabet()
	if err != nil {
		return nil, part{}, fmt.Errorf("its coding scheme is reserved: %w", err)
	}
	text := &Text{From: t.OA.Number(), Numeric: isNumber(t.OA), Time: t.SCTS.Time, Parts: 1}
	class, err := t.DCS.Class()
	text.Class0 = err == nil && class == tpdu.MClass0 || t.PID == silentPID
	text.Binary = alphabet == tpdu.Alpha8Bit || hasPorts(t.UDH)
	text.Text, err = wording(t, alphabet, text.Binary)
	return text, partOf(t), err
}

// silentPID is that of messages which phones take and show nobody (3GPP TS 23.040, section 9.2.3.9, type 0).
const silentPID = 0x40

// isNumber reports whether the network says that the address is a number; a name may consist of digits.
func isNumber(a tpdu.Address) bool {
	return a.TypeOfNumber() != tpdu.TonAlphanumeric && a.Addr != "" && strings.Trim(a.Addr, "0123456789") == ""
}

// hasPorts reports whether a message is for a program (application port addressing).
func hasPorts(h tpdu.UserDataHeader) bool {
	_, short := h.IE(0x04)
	_, long := h.IE(0x05)
	return short || long
}

// wording is the text of one part.
func wording(t *tpdu.TPDU, alphabet tpdu.Alphabet, binary bool) (string, error) {
	if binary {
		return hex.EncodeToString(t.UD), nil
	}
	if alphabet == tpdu.AlphaUCS2 {
		return utf16Of(t.UD), nil
	}
	text, err := tpdu.DecodeUserData(t.UD, t.UDH, alphabet, tpdu.WithAllCharsets)
	if err != nil {
		return "", fmt.Errorf("its text cannot be read: %w", err)
	}
	return string(text), nil
}

// utf16Of reads what is called UCS-2 and is UTF-16 since there are emojis. Half a character is shown as one that cannot
// be read: the rest may be.
func utf16Of(ud []byte) string {
	units := make([]uint16, len(ud)/2)
	for i := range units {
		units[i] = uint16(ud[2*i])<<8 | uint16(ud[2*i+1])
	}
	return string(utf16.Decode(units))
}

// partOf says which part of which long message one is. One whose header contradicts itself is none.
func partOf(t *tpdu.TPDU) part {
	of, no, ref, ok := t.ConcatInfo()
	if !ok || of < 2 || no < 1 || no > of {
		return part{}
	}
	return part{key: fmt.Sprintf("%d %s %d %d", t.OA.TOA, t.OA.Addr, ref, of), no: no, of: of}
}

// set is a long message that is not whole.
type set struct {
	parts map[int]*piece
	of    int
	since time.Time
}

// piece is one part of it. It stays in the store, where it outlives the box, until the message is whole or
// the place is needed.
type piece struct {
	*Text
	letter letter
	stored bool
}

// maxPieces bounds what is held of long messages.
const maxPieces = 128

// unplace forgets where in a store the pieces are, or in one whose name was not known then; listing it anew tells.
func (s *set) unplace(store string) {
	for _, p := range s.parts {
		if p.letter.store == store || p.letter.store == "" {
			p.stored = false
		}
	}
}

// collect adds a part, and returns the message when it is whole. A part that is there already is the same one, listed
// again, or came twice: then the second is only deleted.
func (b *mailbox) collect(l letter, t *Text, p part) []delivery {
	s := b.sets[p.key]
	if s == nil {
		s = &set{parts: map[int]*piece{}, of: p.of, since: time.Now()}
		b.sets[p.key] = s
	}
	switch old := s.parts[p.no]; {
	case old != nil && old.stored && old.letter.key() == l.key() && old.letter.store != l.store:
		return nil // the same place under another name of the store
	case old != nil && (old.stored || old.letter.pdu != l.pdu):
		return []delivery{{nil, []letter{l}}}
	}
	s.parts[p.no] = &piece{Text: t, letter: l, stored: true}
	if len(s.parts) < s.of {
		return nil
	}
	delete(b.sets, p.key)
	return []delivery{s.join()}
}

// join puts together what there is.
func (s *set) join() (d delivery) {
	var text strings.Builder
	numbers := slices.Sorted(maps.Keys(s.parts))
	for i, want := 0, 1; i < len(numbers); i, want = i+1, numbers[i]+1 {
		p := s.parts[numbers[i]]
		if numbers[i] != want {
			text.WriteString("[…]")
		}
		text.WriteString(p.Text.Text)
		if d.text == nil {
			c := *p.Text
			d.text = &c
		}
		d.text.Class0, d.text.Binary = d.text.Class0 || p.Class0, d.text.Binary || p.Binary
		if p.stored {
			d.letters = append(d.letters, p.letter)
		}
	}
	if numbers[len(numbers)-1] != s.of {
		text.WriteString("[…]")
	}
	d.text.Text, d.text.Parts = text.String(), s.of
	return d
}

// expire delivers long messages whose rest did not come in time, and the oldest where there are too many. In a
// store that fills up the parts are taken into memory.
func (b *mailbox) expire(pressed bool) (todo []delivery) {
	keys := slices.SortedFunc(maps.Keys(b.sets), func(x, y string) int {
		return cmp.Or(b.sets[x].since.Compare(b.sets[y].since), cmp.Compare(x, y))
	})
	held := 0
	for _, s := range b.sets {
		held += len(s.parts)
	}
	for _, k := range keys {
		s := b.sets[k]
		if held > maxPieces || time.Since(s.since) > partsWait {
			held -= len(s.parts)
			delete(b.sets, k)
			todo = append(todo, s.join())
			continue
		}
		for _, no := range slices.Sorted(maps.Keys(s.parts)) {
			if p := s.parts[no]; pressed && p.stored {
				p.stored = false
				todo = append(todo, delivery{nil, []letter{p.letter}})
			}
		}
	}
	return todo
}
