package httpboot

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"rescuebox/appliance/boot"
)

// file sends a file, or the part of it that is asked for.
func (v *service) file(w http.ResponseWriter, r *http.Request, c *conn, f *boot.File) string {
	h := w.Header()
	h.Set("Content-Type", contentType(f))
	modified := f.ModTime
	if f.Script {
		h.Set("Cache-Control", "no-store") // rendered for this request
		modified = time.Time{}
	} else if f.Tag != "" {
		h.Set("ETag", `"`+f.Tag+`"`)
	}
	b := &body{ResponseWriter: w, v: v, conn: c, file: f, pace: v.paces.join(c.from), moved: time.Now()}
	defer v.paces.leave(b.pace)
	v.metrics.transfers.Inc()
	defer v.metrics.transfers.Dec()
	http.ServeContent(b, r, "", modified, f.ReadSeeker) // the *os.File itself: it goes out by sendfile
	v.metrics.sent.Add(float64(b.sent))
	if r.Method == http.MethodHead || b.status != http.StatusOK && b.status != http.StatusPartialContent {
		return "sent" // no part of the file was asked for, or none is there
	}
	return v.account(b)
}

// contentType tells UEFI HTTP Boot what is a disk to boot from (UEFI 2.10, section 24.7.3).
func contentType(f *boot.File) string {
	switch {
	case f.Script:
		return "text/plain; charset=utf-8"
	case strings.EqualFold(path.Ext(f.Name), ".iso"):
		return "application/vnd.efi-iso"
	}
	return "application/octet-stream"
}

// account tells the tree how a transfer ended. A file is served when the peer
// has acknowledged its last byte.
func (v *service) account(b *body) string {
	err := b.err
	if want := b.Header().Get("Content-Length"); err == nil && strconv.FormatInt(b.sent, 10) != want {
		err = errors.New("the box failed: the file changed while it was sent")
	}
	if err == nil && b.file.Script {
		v.Tree.Served(b.file)
		return "sent"
	}
	if err == nil {
		http.NewResponseController(b.ResponseWriter).Flush() // what is shorter than net/http's buffer
		if !b.conn.drained(v.ctx, v.stall) {
			err = errGone
		}
	}
	if err == nil {
		if at, e := b.file.Seek(0, io.SeekCurrent); e == nil && at == b.file.Size {
			v.Tree.Served(b.file)
		}
		return "sent"
	}
	at := min(b.start+b.sent, b.file.Size)
	v.Tree.Record(boot.Event{Step: boot.StepFile, Machine: b.file.Decision.Machine.Name, Order: b.file.Decision.Order.ID,
		File: b.file.Name, Bytes: at, Total: b.file.Size,
		Text: fmt.Sprintf("%s broke off over HTTP after %d of %d bytes: %s", b.file.Name, at, b.file.Size, err)})
	return "broken"
}
