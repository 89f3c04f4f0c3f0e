package wim

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// piece is how much of a content is in memory while it is checked: the box may be small, and
// the file in the WIM large.
const piece = 1 << 20

// Check reads what all files of an image hold and compares it with its SHA-1: each content once,
// though nearly all of Windows' programs are in System32 and in WinSxS, and in the order in which they lie,
// as slow disks like it. An encrypted file is an error, too. progress is told how many bytes are done.
func (f *File) Check(image int, progress func(done, total int64)) error {
	c := &checker{File: f, progress: progress, known: map[int]bool{}}
	if err := f.walk(image, c.add); err != nil {
		return err
	}
	slices.SortFunc(c.left, func(a, b unchecked) int { return cmp.Compare(a.at, b.at) })
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(c.work)
	}
	wg.Wait()
	return c.err
}

type checker struct {
	*File
	known map[int]bool // contents, by where they are in the blob table
	total int64

	mu       sync.Mutex
	progress func(done, total int64)
	left     []unchecked
	done     int64
	err      error
}

// unchecked is a content, and the first file that has it.
type unchecked struct {
	resource
	path string
	hash digest
}

func (c *checker) add(path string, n node) error {
	a := n.attributes()
	if a&attributeEncrypted != 0 {
		return fmt.Errorf("%s %w", path, ErrEncrypted)
	}
	h := n.hash()
	if a&(attributeDirectory|attributeReparse) != 0 || h == (digest{}) {
		return nil
	}
	at := c.blobs.find(h)
	if at < 0 {
		return fmt.Errorf("%s: %w", path, damaged("no blob has the content"))
	}
	if !c.known[at] {
		c.known[at] = true
		c.left = append(c.left, unchecked{resourceOf(c.blobs.raw[at:]), path, h})
		c.total += c.left[len(c.left)-1].original
	}
	return nil
}

// work checks one content after the other, until none is left or one was damaged.
func (c *checker) work() {
	for {
		c.mu.Lock()
		if len(c.left) == 0 || c.err != nil {
			c.mu.Unlock()
			return
		}
		next := c.left[0]
		c.left = c.left[1:]
		c.mu.Unlock()
		if err := c.check(next); err != nil {
			c.mu.Lock()
			c.err = cmp.Or(c.err, fmt.Errorf("%s: %w", next.path, err))
			c.mu.Unlock()
		}
	}
}

func (c *checker) check(u unchecked) error {
	h := sha1.New()
	err := c.pieces(u.resource, "the content", piece, func(b []byte) {
		h.Write(b)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.done += int64(len(b))
		c.progress(c.done, c.total)
	})
	if err == nil && !bytes.Equal(h.Sum(nil), u.hash[:]) {
		err = damaged("the content has another SHA-1 than it should")
	}
	return err
}
