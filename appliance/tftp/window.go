package tftp

// window is how far a transfer is. Its blocks are numbered without end; the
// wire has the number modulo 65536, which every client in the field lets wrap to 0.
// Block 0 is the OACK, which is acknowledged as such (RFC 2347).
//
//	          size blocks may be out
//	       ┌───────────┴───────────┐
//	acked, acked+1, …, sent, …, acked+size
//
// It only moves forward. An acknowledgement in the middle means that the client
// lacks the next block: RFC 7440 section 4 lets the sender begin a new window there. With
// size 1 this is RFC 1350.
type window struct {
	acked int64 // the last block that the client has, with all before it; -1 before the OACK
	sent  int64 // the last block that was sent
	size  int64
	msft  bool // the client sets size
}

// news is what an acknowledgement says.
type news int

const (
	stale   news = iota // late, doubled, or never sent
	forward             // the client has more than was known
	lacking             // the client still waits for the first block that is out
)

// target is the last block that may be out now. The OACK goes alone.
func (w *window) target() int64 {
	if w.acked < 0 {
		return 0
	}
	return w.acked + w.size
}

// ack takes an acknowledgement: the block's number, and what is behind it.
//
// Nothing is sent on account of one that is not news: an answer to a doubled
// acknowledgement would double every block from then on (RFC 1123 section
// 4.2.3.1, the sorcerer's apprentice).
func (w *window) ack(number uint16, rest []byte) news {
	ahead := int64(number - uint16(w.acked))
	if ahead > w.sent-w.acked {
		return stale
	}
	if w.msft && len(rest) > 0 && rest[0] > 0 {
		w.size = int64(rest[0])
	}
	w.acked += ahead
	if ahead == 0 {
		return lacking
	}
	return forward
}
