package httpboot

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// How a transfer can end early.
var (
	errGone     = errors.New("the machine has closed the connection")
	errStalled  = errors.New("the machine takes no more data")
	errStopping = errors.New("the box is stopping")
)

// slice is what is sent in one go: each is a chance to tell progress, to see
// that the client still takes data, and to stop.
const slice = 1 << 20

// body is the http.ResponseWriter for a file. It hands net/http slices of the
// *os.File in the form in which it knows sendfile: an *io.LimitedReader right on the file.
type body struct {
	http.ResponseWriter
	v    *service
	conn *conn
	file *boot.File
	pace *pace // nil: no limit

	status int
	start  int64 // where in the file the answer begins
	sent   int64
	moved  time.Time // when the client last took something
	err    error
}

// WriteHeader notes what is sent.
func (b *body) WriteHeader(status int) {
	b.status = status
	fmt.Sscanf(b.Header().Get("Content-Range"), "bytes %d-", &b.start)
	b.ResponseWriter.WriteHeader(status)
}

// ReadFrom sends what src has.
func (b *body) ReadFrom(src io.Reader) (total int64, err error) {
	rest, ok := src.(*io.LimitedReader)
	if !ok {
		rest = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for rest.N > 0 && b.err == nil {
		part, sent := next(rest.R, min(rest.N, b.pace.slice()))
		want := part.N
		if want == 0 {
			break
		}
		if b.err = b.pace.wait(b.v.ctx, want); b.err != nil {
			break
		}
		n, err := b.send(part)
		sent(n)
		total += n
		rest.N -= n
		if err == nil && n < want {
			break // src has no more
		}
	}
	return total, b.err
}

// next is at most n bytes of what src has next, and whom to tell how many went
// out. The parts of an overlay that are a file are handed out as that file.
func next(src io.Reader, n int64) (part *io.LimitedReader, sent func(int64)) {
	o, ok := src.(*images.Overlay)
	if !ok {
		return &io.LimitedReader{R: src, N: n}, func(int64) {}
	}
	at, err := o.Seek(0, io.SeekCurrent)
	s := o.Segment(at)
	n = min(n, s.Size)
	if f, ok := s.Base.(*os.File); ok && err == nil {
		if _, err := f.Seek(s.At, io.SeekStart); err == nil {
			return &io.LimitedReader{R: f, N: n}, func(sent int64) { o.Seek(sent, io.SeekCurrent) }
		}
	}
	return &io.LimitedReader{R: o, N: n}, func(int64) {}
}

// send sends one slice. The deadline is short so that slow progress is seen;
// it is no end as long as something moves.
func (b *body) send(part *io.LimitedReader) (int64, error) {
	if b.v.ctx.Err() != nil {
		b.err = errStopping
		return 0, b.err
	}
	begin, patience := time.Now(), b.v.stall/6
	b.conn.SetWriteDeadline(begin.Add(patience))
	n, err := b.ResponseWriter.(io.ReaderFrom).ReadFrom(part)
	if n > 0 {
		b.moved = time.Now()
		b.sent += n
		b.v.Tree.Progress(b.file, b.start+b.sent)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// An error before its time is one that net/http's buffer keeps for ever.
		if time.Since(b.moved) > b.v.stall || time.Since(begin) < patience/2 {
			b.err = errStalled
		}
	case err != nil && b.v.ctx.Err() != nil:
		b.err = errStopping
	case err != nil:
		b.err = errGone
	}
	return n, err
}
