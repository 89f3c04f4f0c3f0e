package images

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
)

// Patch is bytes that lie over a file's own from an offset on.
type Patch struct {
	At   int64
	Data []byte
}

// Segment is a part of an Overlay: Size bytes of Base, from At on.
type Segment struct {
	Base io.ReaderAt
	At   int64
	Size int64
}

// Overlay is a file put together from parts of other files and of memory,
// without a copy of any. ReadAt may be called by many at once; Read and Seek,
// as with a file, by one.
type Overlay struct {
	segments []Segment
	ends     []int64 // of the segments, in the overlay
	at       int64   // of Read
}

// NewOverlay reads a file of the given size with patches over it; where two
// overlap, the later one is seen. What is beyond the end of the file is cut off.
func NewOverlay(base io.ReaderAt, size int64, patches ...Patch) *Overlay {
	list := []Segment{{Base: base, Size: size}}
	for _, p := range patches {
		list = patched(list, p)
	}
	return Join(list...)
}

// Join reads segments one after another.
func Join(segments ...Segment) *Overlay {
	o := &Overlay{}
	var end int64
	for _, s := range segments {
		if s.Size <= 0 {
			continue
		}
		end += s.Size
		o.segments, o.ends = append(o.segments, s), append(o.ends, end)
	}
	return o
}

// patched lays one patch over segments.
func patched(list []Segment, p Patch) (out []Segment) {
	data, from, to := memory(p.Data), p.At, p.At+int64(len(p.Data))
	var start int64
	for _, s := range list {
		end := start + s.Size
		lo, hi := min(max(from, start), end), min(max(to, start), end)
		if lo < hi {
			out = append(out, Segment{s.Base, s.At, lo - start},
				Segment{data, lo - from, hi - lo}, Segment{s.Base, s.At + hi - start, end - hi})
		} else {
			out = append(out, s)
		}
		start = end
	}
	return slices.DeleteFunc(out, func(s Segment) bool { return s.Size == 0 })
}

// memory is bytes as a file.
type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Size is the size of the whole.
func (o *Overlay) Size() int64 {
	if len(o.ends) == 0 {
		return 0
	}
	return o.ends[len(o.ends)-1]
}

// Segment is what lies at an offset, to the end of its segment: an empty one
// at the end of all. Whoever sends an overlay can hand what is a file to the kernel.
func (o *Overlay) Segment(at int64) Segment {
	if at < 0 {
		return Segment{}
	}
	i := sort.Search(len(o.ends), func(i int) bool { return o.ends[i] > at })
	if i == len(o.ends) {
		return Segment{}
	}
	s := o.segments[i]
	left := o.ends[i] - at
	return Segment{Base: s.Base, At: s.At + s.Size - left, Size: left}
}

// ReadAt is that of io.ReaderAt.
func (o *Overlay) ReadAt(b []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, errors.New("read before the beginning of an overlay")
	}
	for n < len(b) {
		s := o.Segment(at + int64(n))
		if s.Size == 0 {
			return n, io.EOF
		}
		part := b[n:min(int64(len(b)), int64(n)+s.Size)]
		m, err := s.Base.ReadAt(part, s.At)
		n += m
		if m < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the file below is shorter than it was
			}
			return n, err
		}
	}
	return n, nil
}

// Read is that of io.Reader.
func (o *Overlay) Read(b []byte) (int, error) {
	if o.at >= o.Size() {
		return 0, io.EOF
	}
	n, err := o.ReadAt(b, o.at)
	o.at += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Seek is that of io.Seeker.
func (o *Overlay) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.Size()
	case io.SeekStart:
	default:
		return 0, fmt.Errorf("seek in an overlay: whence %d", whence)
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of an overlay")
	}
	o.at = offset
	return offset, nil
}

// Close closes the files below, each once.
func (o *Overlay) Close() error {
	var errs []error
	var closed []io.Closer
	for _, s := range o.segments {
		if c, ok := s.Base.(io.Closer); ok && !slices.Contains(closed, c) {
			closed = append(closed, c)
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
