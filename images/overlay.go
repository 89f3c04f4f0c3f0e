package images

import "io"

// Patch is bytes that lie over a file's own from an offset on.
type Patch struct {
	At   int64
	Data []byte
}

// NewOverlay reads a file of the given size with patches over it.
func NewOverlay(base io.ReaderAt, size int64, patches ...Patch) io.ReadSeeker {
	return io.NewSectionReader(patched{base, patches}, 0, size)
}

type patched struct {
	base    io.ReaderAt
	patches []Patch
}

// ReadAt reads the file's bytes and puts those of the patches over them.
func (p patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := p.base.ReadAt(b, at)
	for _, patch := range p.patches {
		from, to := max(at, patch.At), min(at+int64(n), patch.At+int64(len(patch.Data)))
		if from < to {
			copy(b[from-at:to-at], patch.Data[from-patch.At:])
		}
	}
	return n, err
}
