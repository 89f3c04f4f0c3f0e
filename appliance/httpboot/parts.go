package httpboot

import (
	"net/netip"
	"slices"
	"sync"

	"rescuebox/appliance/boot"
)

// Bounds of what is remembered of files that came in parts.
const (
	maxParts = 1024 // files and clients
	maxSpans = 64   // holes of one: no loader reads like that
)

// parts remembers which bytes of a file a client has acknowledged, over as many
// requests as it takes: a transfer that broke off goes on by a request for
// the rest, and whoever asks for the last byte alone does not have the file.
type parts struct {
	mu   sync.Mutex
	have map[partKey][]span
	keys []partKey // oldest first
}

// partKey is one content for one client: the tag changes with the order's text.
type partKey struct {
	from           netip.Addr
	order, name    string
	tag            string
	size, modified int64
}

// span is the bytes from start to before end.
type span struct{ start, end int64 }

func keyOf(from netip.Addr, f *boot.File) partKey {
	return partKey{from: from, order: f.Decision.Order.ID, name: f.Name, tag: f.Tag, size: f.Size, modified: f.ModTime.UnixNano()}
}

// add notes bytes, and says whether the client now has them all. It is then forgotten.
func (p *parts) add(key partKey, got span) (whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	spans, known := p.have[key]
	spans = merge(spans, got)
	if len(spans) > 0 && spans[0].start <= 0 && spans[0].end >= key.size {
		p.forget(key)
		return true
	}
	if len(spans) > maxSpans {
		spans = nil
	}
	if p.have == nil {
		p.have = map[partKey][]span{}
	}
	if !known {
		if len(p.keys) == maxParts {
			p.forget(p.keys[0])
		}
		p.keys = append(p.keys, key)
	}
	p.have[key] = spans
	return false
}

func (p *parts) forget(key partKey) {
	if _, ok := p.have[key]; !ok {
		return
	}
	delete(p.have, key)
	p.keys = slices.DeleteFunc(p.keys, func(k partKey) bool { return k == key })
}

// merge puts a span among spans that are sorted and do not touch.
func merge(spans []span, s span) []span {
	if s.start > s.end {
		return spans
	}
	var out []span
	for _, old := range spans {
		switch {
		case old.end < s.start:
			out = append(out, old)
		case old.start > s.end:
			out = append(out, s)
			s = old
		default:
			s = span{min(s.start, old.start), max(s.end, old.end)}
		}
	}
	return append(out, s)
}
