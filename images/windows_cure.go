package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"rescuebox/images/disc"
	"rescuebox/images/wim"
)

// packing says of a WIM that loaders are not known to read how it is made one that they are.
func (p *windowsPE) packing(src *windowsSource) error {
	compression, chunk := p.wim.Packing()
	if chunk == 0 || chunk == 32<<10 {
		return nil
	}
	return fmt.Errorf("%s is %s in chunks of %d bytes, and Microsoft's loaders are known to read those of 32768: if it does not boot, %s",
		wimName, compression, chunk, src.convert())
}

// cured adds to an error of a WIM what to do about it.
func cured(err error, src *windowsSource) error {
	var has *Hinted
	if errors.As(err, &has) {
		return err
	}
	switch {
	case errors.Is(err, wim.ErrSolid), errors.Is(err, wim.ErrPipable):
		return hint(err, "%s", src.convert())
	case errors.Is(err, wim.ErrSplit):
		stem := strings.TrimRight(strings.TrimSuffix(src.wimPath, filepath.Ext(src.wimPath)), "0123456789")
		return hint(err, "wimlib-imagex join boot-whole.wim '%s*.swm' (Debian's package wimtools), and add boot-whole.wim", stem)
	case errors.Is(err, wim.ErrNoWIM):
		return hint(err, "name the ISO of DaRT or Windows, its sources/boot.wim, or a directory that has it")
	case errors.Is(err, wim.ErrDamaged), errors.Is(err, disc.ErrDamaged), errors.Is(err, wim.ErrUnfinished):
		return hint(err, "compare its SHA-256 with that of the place it came from; wimlib-imagex verify names every damaged file of a WIM")
	}
	return err
}

// convert is the command that makes any WIM one that Windows boots. Without --boot the new
// one would name no image that boots; where the old one names none, wimlib refuses it (1.13).
func (s *windowsSource) convert() string {
	const bootIndex = 120 // in the header
	from, first, boot := s.wimPath, "", ""
	if b := make([]byte, 4); wimReads(s.wim, b, bootIndex) && binary.LittleEndian.Uint32(b) > 0 {
		boot = " --boot"
	}
	if s.iso {
		from = path.Base(s.wimPath)
		first = fmt.Sprintf("7z e %s %s && ", quote(s.path), quote(s.wimPath))
	} else if s.wimPath != s.path {
		from = filepath.Join(s.path, filepath.FromSlash(s.wimPath))
	}
	return fmt.Sprintf("%swimlib-imagex export %s all boot-lzx.wim --compress=LZX --chunk-size=32K%s (Debian's package wimtools), and add boot-lzx.wim", first, quote(from), boot)
}

func wimReads(r io.ReaderAt, b []byte, at int64) bool {
	n, _ := r.ReadAt(b, at)
	return n == len(b)
}

// quote makes a path one word of a shell.
func quote(path string) string {
	if nameForm.MatchString(strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "")) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
