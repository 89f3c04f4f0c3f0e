package httpboot

import (
	"errors"
	"fmt"
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
	if f.Personal {
		h.Set("Cache-Control", "no-store") // the order's token is in it
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

// contentType tells UEFI HTTP Boot what is a program to start and what is a disk
// to boot from (UEFI 2.10, section 24.7.3; IANA's registry of media types). EDK2
// goes by the name's end where a type tells it nothing, so names keep theirs.
func contentType(f *boot.File) string {
	switch strings.ToLower(path.Ext(f.Name)) {
	case ".ipxe", ".cfg":
		return "text/plain; charset=utf-8"
	case ".iso":
		return "application/vnd.efi-iso"
	case ".efi":
		return "application/efi"
	}
	return "application/octet-stream"
}

// account tells the tree how a transfer ended. A file is served when the peer
// has acknowledged all of its bytes, in one transfer or in parts.
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
	if got, ok := b.arrived(err); ok && v.parts.add(keyOf(b.conn.from, b.file), got) {
		v.Tree.Served(b.file)
	}
	if err == nil {
		return "sent"
	}
	at := min(b.start+b.sent, b.file.Size)
	v.Tree.Record(boot.Event{Step: boot.StepFile, Machine: b.file.Decision.Machine.Name, Order: b.file.Decision.Order.ID,
		File: b.file.Name, Bytes: at, Total: b.file.Size,
		Text: fmt.Sprintf("%s broke off over HTTP after %d of %d bytes: %s", b.file.Name, at, b.file.Size, err)})
	return "broken"
}

// arrived is the part of the file that the peer has acknowledged. Of several
// ranges in one answer nothing is known: no loader asks for them.
func (b *body) arrived(err error) (span, bool) {
	if b.status == http.StatusPartialContent && b.Header().Get("Content-Range") == "" {
		return span{}, false
	}
	got := span{b.start, b.start + b.sent}
	if err != nil {
		left, _ := b.conn.unacknowledged()
		if left < 0 {
			return span{}, false
		}
		got.end = max(got.start, got.end-int64(left))
	}
	return got, true
}
