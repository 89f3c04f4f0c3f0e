package images

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"

	"rescuebox/images/wim"
)

// Files of a WIM as they are checked: one that is larger than large is read alone, since
// it is unpacked in memory, and the box may be small; one that has more than maxChecked not at all.
const (
	largeFile  = 8 << 20
	maxChecked = 512 << 20
)

// verifier reads all files of an image.
type verifier struct {
	pe       *windowsPE
	files    []wimFile
	total    int64
	progress func(step string, done, total int64)

	mu    sync.Mutex
	next  int
	done  int64
	err   error
	large sync.Mutex
}

type wimFile struct {
	path string
	size int64
}

// check reads all files of the image, each of which must have its SHA-1.
func (p *windowsPE) check(progress func(step string, done, total int64)) error {
	v := &verifier{pe: p, progress: progress}
	if err := p.wim.Walk(p.image.Index, v.add); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(v.work)
	}
	wg.Wait()
	return v.err
}

func (v *verifier) add(path string, e wim.Entry) error {
	const encrypted, reparse = 0x4000, 0x400
	if e.Attributes&encrypted != 0 {
		return fmt.Errorf("%s %w", path, wim.ErrEncrypted)
	}
	if !e.Dir && e.Attributes&reparse == 0 && e.Size <= maxChecked {
		v.files = append(v.files, wimFile{path, e.Size})
		v.total += e.Size
	}
	return nil
}

func (v *verifier) work() {
	for {
		f, ok := v.take()
		if !ok {
			return
		}
		err := v.read(f)
		v.mu.Lock()
		v.done += f.size
		if err != nil && v.err == nil {
			v.err = err
		}
		v.progress("checking "+wimName, v.done, v.total)
		v.mu.Unlock()
	}
}

// take is the next file, until there is none or one was damaged.
func (v *verifier) take() (wimFile, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.next == len(v.files) || v.err != nil {
		return wimFile{}, false
	}
	v.next++
	return v.files[v.next-1], true
}

func (v *verifier) read(f wimFile) error {
	if f.size > largeFile {
		v.large.Lock()
		defer v.large.Unlock()
	}
	_, err := v.pe.wim.ReadFile(v.pe.image.Index, f.path, maxChecked)
	if errors.Is(err, fs.ErrNotExist) { // two names that differ in case: Windows too finds one of them only
		return nil
	}
	return err
}
