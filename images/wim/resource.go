package wim

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
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
func (f *File) read(r resource, what string, most int64) (b []byte, err error) {
	if r.original > most {
		return nil, fmt.Errorf("%s has %d bytes, and more than %d are not read", what, r.original, most)
	}
	err = f.pieces(r, what, r.original, func(all []byte) { b = all })
	return b, err
}

// pieces reads a resource from its beginning to its end, so many bytes at once, and what makes
// the last chunk of them whole.
func (f *File) pieces(r resource, what string, atOnce int64, fn func([]byte)) error {
	if err := r.check(what, f.size); err != nil {
		return err
	}
	read, count := func(at, end int64) ([]byte, error) { return f.bytes(r.at+at, end-at, what) }, r.size
	if r.flags&flagCompressed != 0 {
		p, err := f.packed(r, what)
		if err != nil {
			return err
		}
		read, count, atOnce = p.unpack, p.n, (atOnce+p.chunk-1)/p.chunk
	}
	atOnce = max(atOnce, 1)
	for at := int64(0); at < count; at += atOnce {
		b, err := read(at, min(at+atOnce, count))
		if err != nil {
			return err
		}
		fn(b)
	}
	return nil
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
	resource
	file     *File
	what     string
	width    int64 // of a number in the table
	chunk, n int64 // size and number of the chunks
}

func (f *File) packed(r resource, what string) (*packed, error) {
	if f.chunk == 0 {
		return nil, damaged("%s is compressed, in a file that is not", what)
	}
	p := &packed{resource: r, file: f, what: what, width: 4, chunk: int64(f.chunk)}
	if r.original > math.MaxUint32 {
		p.width = 8
	}
	p.n = (r.original-1)/p.chunk + 1
	if p.n-1 > r.size/p.width || r.size-p.table() > r.original {
		return nil, damaged("%s has %d bytes for %d chunks", what, r.size, p.n)
	}
	return p, nil
}

func (p *packed) table() int64 { return (p.n - 1) * p.width }

// together is how many chunks are unpacked at the same time, at most.
const together = 4

// unpack reads and unpacks the chunks from one up to another.
func (p *packed) unpack(from, to int64) ([]byte, error) {
	starts, err := p.starts(from, to)
	if err != nil {
		return nil, err
	}
	src, err := p.file.bytes(p.at+starts[0], starts[to-from]-starts[0], p.what)
	if err != nil {
		return nil, err
	}
	out := make([]byte, min(to*p.chunk, p.original)-from*p.chunk)
	workers := min(to-from, together, int64(runtime.GOMAXPROCS(0)))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			u := p.file.unpacker()
			for i := w; i < to-from && errs[w] == nil; i += workers {
				chunk := out[i*p.chunk : min((i+1)*p.chunk, int64(len(out)))]
				errs[w] = unpackChunk(u, chunk, src[starts[i]-starts[0]:starts[i+1]-starts[0]])
			}
		})
	}
	wg.Wait()
	if err := cmp.Or(errs...); err != nil {
		return nil, damaged("%s: %v", p.what, err)
	}
	return out, nil
}

func unpackChunk(u unpacker, out, src []byte) error {
	switch {
	case len(src) > len(out):
		return errors.New("a chunk has grown")
	case len(src) == len(out):
		copy(out, src)
		return nil
	}
	return u.unpack(out, src)
}

// starts are where the chunks from one up to another begin in the resource, and where the last one ends.
func (p *packed) starts(from, to int64) (starts []int64, err error) {
	if from == 0 {
		starts = append(starts, p.table())
	}
	first, last := max(from, 1), min(to, p.n-1)
	numbers, err := p.file.bytes(p.at+(first-1)*p.width, (last-first+1)*p.width, p.what)
	for ; len(numbers) > 0; numbers = numbers[p.width:] {
		n := uint64(le32(numbers))
		if p.width == 8 {
			n = le64(numbers)
		}
		starts = append(starts, p.table()+int64(min(n, uint64(p.size))))
	}
	if to == p.n {
		starts = append(starts, p.size)
	}
	if err == nil && (!slices.IsSorted(starts) || starts[len(starts)-1] > p.size) {
		err = damaged("%s has chunks in no order", p.what)
	}
	return starts, err
}
