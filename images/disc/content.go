package disc

import (
	"io"
	"sort"
)

// blocks reads from an ISO, and knows where it ends.
type blocks struct {
	r    io.ReaderAt
	size int64
}

// read reads all of a part, or says that the ISO ends before it.
func (b *blocks) read(at, n int64) ([]byte, error) {
	if err := b.has(at, n); err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	if m, err := b.r.ReadAt(buf, at); int64(m) < n {
		if err == io.EOF {
			return nil, damaged("it ends at byte %d", at+int64(m))
		}
		return nil, err
	}
	return buf, nil
}

func (b *blocks) has(at, n int64) error {
	if at < 0 || n < 0 || at > b.size || n > b.size-at {
		return damaged("it has %d bytes, and what is looked for lies at %d", b.size, at)
	}
	return nil
}

// extent is a part of a file: size bytes at a place of the ISO, or, where
// that is negative, as many zeros.
type extent struct{ at, size int64 }

// content is a file's extents, one behind the other.
type content struct {
	blocks  *blocks
	extents []extent
	ends    []int64
}

// add appends an extent that lies in the ISO.
func (c *content) add(e extent) error {
	if e.size == 0 {
		return nil
	}
	if e.at >= 0 {
		if err := c.blocks.has(e.at, e.size); err != nil {
			return err
		}
	}
	if len(c.extents) >= maxExtents {
		return damaged("a file of more than %d pieces", maxExtents)
	}
	if n := len(c.extents); n > 0 && e.at >= 0 && c.extents[n-1].at >= 0 && c.extents[n-1].at+c.extents[n-1].size == e.at {
		c.extents[n-1].size += e.size
		c.ends[n-1] += e.size
		return nil
	}
	c.extents = append(c.extents, e)
	c.ends = append(c.ends, c.size()+e.size)
	return nil
}

// cut makes the content as long as a file says it is: what its last block has more is nobody's.
func (c *content) cut(size int64) error {
	if size < 0 || size > c.size() {
		return damaged("a file of %d bytes has room for %d", size, c.size())
	}
	for n := len(c.ends) - 1; n >= 0 && c.ends[n] > size; n-- {
		c.extents[n].size -= c.ends[n] - size
		c.ends[n] = size
		if c.extents[n].size <= 0 {
			c.extents, c.ends = c.extents[:n], c.ends[:n]
		}
	}
	return nil
}

func (c content) size() int64 {
	if len(c.ends) == 0 {
		return 0
	}
	return c.ends[len(c.ends)-1]
}

// ReadAt is that of io.ReaderAt.
func (c content) ReadAt(p []byte, at int64) (n int, err error) {
	for i := sort.Search(len(c.ends), func(i int) bool { return c.ends[i] > at }); n < len(p) && i < len(c.ends); i++ {
		e := c.extents[i]
		skip := at + int64(n) - (c.ends[i] - e.size)
		part := p[n:min(int64(len(p)), int64(n)+e.size-skip)]
		m := len(part)
		if e.at < 0 {
			clear(part)
		} else if m, err = c.blocks.r.ReadAt(part, e.at+skip); m < len(part) {
			if err == io.EOF {
				err = damaged("it ends at byte %d", e.at+skip+int64(m))
			}
			return n + m, err
		}
		n += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// all reads a directory.
func (c content) all(most int64) ([]byte, error) {
	if c.size() > most {
		return nil, damaged("a directory of %d bytes", c.size())
	}
	b := make([]byte, c.size())
	_, err := c.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b, err
}
