package wim

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
)

// Flags of a resource.
const (
	flagFree       = 0x01
	flagMetadata   = 0x02
	flagCompressed = 0x04
	flagSpanned    = 0x08
)

// resourceSize is the length of a resource header.
const resourceSize = 24

// resource is where bytes lie in the file: its header, as it is found in many places.
type resource struct {
	size, at, original int64
	flags              byte
}

// resourceOf reads a resource header.
func resourceOf(b []byte) resource {
	size := le64(b)
	return resource{
		size:     int64(size & (1<<56 - 1)),
		flags:    byte(size >> 56),
		at:       int64(min(le64(b[8:]), math.MaxInt64)),
		original: int64(min(le64(b[16:]), math.MaxInt64)),
	}
}

// put writes a resource header.
func (r resource) put(b []byte) {
	binary.LittleEndian.PutUint64(b, uint64(r.size)|uint64(r.flags)<<56)
	binary.LittleEndian.PutUint64(b[8:], uint64(r.at))
	binary.LittleEndian.PutUint64(b[16:], uint64(r.original))
}

// damaged says what is wrong with the file.
func damaged(format string, a ...any) error {
	return fmt.Errorf("%w (%s)", ErrDamaged, fmt.Sprintf(format, a...))
}

// check says why a resource cannot be read, if so. What tells of it: "the blob table".
func (r resource) check(what string, file int64) error {
	switch {
	case r.flags&flagSpanned != 0:
		return fmt.Errorf("%w (%s)", ErrSplit, what)
	case r.at > file || r.size > file-r.at:
		return damaged("%s lies behind the end of the file, which has %d bytes", what, file)
	case r.flags&flagCompressed == 0 && r.size != r.original:
		return damaged("%s has two sizes, %d and %d", what, r.size, r.original)
	}
	return nil
}

// read reads a resource that has at most so many bytes when unpacked.
func (f *File) read(r resource, what string, most int64) ([]byte, error) {
	if err := r.check(what, f.size); err != nil {
		return nil, err
	}
	if r.original > most {
		return nil, fmt.Errorf("%s has %d bytes, and more than %d are not read", what, r.original, most)
	}
	if r.flags&flagCompressed == 0 {
		return f.bytes(r.at, r.size, what)
	}
	if f.chunk == 0 {
		return nil, damaged("%s is compressed, in a file that is not", what)
	}
	return f.unpack(r, what)
}

// bytes reads a part of the file as it is.
func (f *File) bytes(at, size int64, what string) ([]byte, error) {
	b := make([]byte, size)
	if n, err := f.r.ReadAt(b, at); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, damaged("it ends within %s", what)
		}
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return b, nil
}

// unpacker unpacks one chunk after another; out has the size that the chunk will have.
type unpacker interface{ unpack(out, src []byte) error }

func (f *File) unpacker() unpacker {
	if f.compression == packedLZX {
		return newLZX(f.chunk)
	}
	return &xpress{}
}

// packed is a compressed resource: a table of where the chunks begin, except the first, counted from
// the table's end; then the chunks, of which each one that did not shrink is as it was.
type packed struct {
	starts, chunks []byte
	width          int64 // of a number in the table
	chunk, n       int64 // size and number of the chunks
	out            []byte
}

// atOnce is how many chunks are unpacked at once, at most.
const atOnce = 4

// unpack reads and unpacks a compressed resource.
func (f *File) unpack(r resource, what string) ([]byte, error) {
	p := packed{width: 4, chunk: int64(f.chunk)}
	if r.original > math.MaxUint32 {
		p.width = 8
	}
	p.n = (r.original + p.chunk - 1) / p.chunk
	table := max(p.n-1, 0) * p.width
	if table > r.size || r.size-table > r.original {
		return nil, damaged("%s has %d bytes for %d chunks", what, r.size, p.n)
	}
	b, err := f.bytes(r.at, r.size, what)
	if err != nil {
		return nil, err
	}
	p.starts, p.chunks, p.out = b[:table], b[table:], make([]byte, r.original)
	workers := min(p.n, atOnce, int64(runtime.GOMAXPROCS(0)))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			u := f.unpacker()
			for i := w; i < p.n && errs[w] == nil; i += workers {
				errs[w] = p.unpack(u, i)
			}
		})
	}
	wg.Wait()
	if err := cmp.Or(errs...); err != nil {
		return nil, damaged("%s: %v", what, err)
	}
	return p.out, nil
}

// unpack unpacks a chunk to its place.
func (p *packed) unpack(u unpacker, i int64) error {
	from, to := p.start(i), p.start(i+1)
	out := p.out[i*p.chunk : min((i+1)*p.chunk, int64(len(p.out)))]
	if from < 0 || to < from || to > int64(len(p.chunks)) || to-from > int64(len(out)) {
		return fmt.Errorf("chunk %d has no place", i+1)
	}
	src := p.chunks[from:to]
	if len(src) == len(out) {
		copy(out, src)
		return nil
	}
	return u.unpack(out, src)
}

// start is where a chunk begins, and where the last one ends.
func (p *packed) start(i int64) int64 {
	switch at := (i - 1) * p.width; {
	case i == 0:
		return 0
	case i == p.n:
		return int64(len(p.chunks))
	case p.width == 4:
		return int64(le32(p.starts[at:]))
	default:
		return int64(le64(p.starts[at:]))
	}
}
