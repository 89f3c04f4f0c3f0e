package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// errShort is a file that ends before its size in the library.
var errShort = errors.New("the file on disk is shorter than the library says")

// content is a file on its way out: never longer than its size, and an error if shorter.
type content struct {
	tree Tree
	file *boot.File
	read int64
}

func (c *content) Read(p []byte) (int, error) {
	left := c.file.Size - c.read
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := c.file.Read(p[:min(int64(len(p)), left)])
	if err == io.EOF && int64(n) < left {
		return n, errShort
	}
	if c.read > 0 {
		c.tree.Progress(c.file, c.read) // what was read before has gone out
	}
	c.read += int64(n)
	return n, err
}

// Seek goes to an offset from the start.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	at, err := c.file.Seek(offset, whence)
	c.read = at
	return at, err
}

// answer sends what the request names, and says how that ended, in one word.
func (d *dispatcher) answer(ctx context.Context, t *transfer, r *request, local netip.Addr) (result string) {
	log := d.Log.With(zap.Stringer("from", t.peer.Addr()), zap.String("path", printable(r.path)))
	defer func() {
		if p := recover(); p != nil {
			log.Error("TFTP transfer panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			result = "failed"
		}
	}()
	file, err := d.Tree.Open(r.path, t.peer.Addr())
	if err != nil {
		return d.notOpened(log, err, t, local)
	}
	defer file.Close()
	if !d.transfers.place(t, file.Decision) {
		return d.crowded(t.peer, local)
	}
	sock, err := dial(local, t.peer)
	if err != nil {
		log.Warn("TFTP transfer not begun", zap.NamedError("err", err))
		return "failed"
	}
	defer sock.close()
	defer context.AfterFunc(ctx, sock.cut)()
	r.blksize = d.blockSize(r.blksize, file, sock.mtu())
	s := &sender{ctx: ctx, wire: sock, field: &d.field, air: d.air, patience: d.patience, heard: t.hear}
	err = s.send(r, &content{tree: d.Tree, file: file}, file.Size)
	if errors.Is(err, errCut) {
		err = context.Cause(ctx)
	}
	return d.account(log, s, sock, file, err)
}

// blockSize is what a client is granted that asks for a block size, 0 for no
// such option in the answer: some ROMs ask for a size and cannot stand to be
// granted one (dnsmasq's --tftp-no-blocksize). They are those capped at RFC 1350's 512.
func (d *dispatcher) blockSize(asked int, file *boot.File, mtu int) int {
	if asked == 0 {
		return 0
	}
	most := d.BlockSize
	if file.BlockSize > 0 {
		most = min(most, file.BlockSize)
	}
	if most <= plainBlock && asked >= plainBlock {
		return 0
	}
	return max(minBlock, min(asked, most, mtu-headers))
}

func (d *dispatcher) notOpened(log *zap.Logger, err error, t *transfer, local netip.Addr) string {
	no := refusalFor(err)
	d.refuse(no, t.peer, local)
	if no.code == codeOther {
		log.Error("TFTP request failed", zap.NamedError("err", err))
		return "failed"
	}
	return "refused"
}

// crowded tells a client that there is no room for it now.
func (d *dispatcher) crowded(to netip.AddrPort, local netip.Addr) string {
	d.refuse(&refusal{codeOther, "busy: too many transfers, try again"}, to, local)
	return "busy"
}

// account tells the tree, the log and the client how a transfer ended.
func (d *dispatcher) account(log *zap.Logger, s *sender, sock *socket, file *boot.File, err error) string {
	acked := s.ackedBytes(file.Size)
	d.metrics.sent.Add(float64(acked))
	d.metrics.resent.Add(float64(s.resent))
	var peer *peerError
	switch {
	case err == nil, (errors.Is(err, errGone) || errors.Is(err, errSilent)) && s.allOut():
		d.Tree.Served(file)
		return "sent"
	case (errors.As(err, &peer) || errors.Is(err, errGone)) && acked == 0:
		// EDK2, GRUB and Windows ask for the size first and end that with error 8
		// or 0, others by closing the port: no failure (bootimus#73), and no file served.
		log.Debug("TFTP size probe")
		return "probed"
	case errors.Is(err, errReplaced) && acked == 0:
		return "repeated"
	case errors.Is(err, errCrowded):
		return "busy"
	case errors.As(err, &peer), errors.Is(err, errGone), errors.Is(err, errSilent), errors.Is(err, errReplaced):
	case errors.Is(err, context.Canceled):
		err = errors.New("the box is stopping")
		sock.last((&refusal{codeOther, err.Error()}).packet())
	default:
		log.Error("TFTP transfer failed", zap.String("file", file.Name), zap.NamedError("err", err))
		err = errors.New("the box failed: see its log")
		sock.last((&refusal{codeOther, err.Error()}).packet())
	}
	d.Tree.Record(boot.Event{Step: boot.StepFile, Machine: file.Decision.Machine.Name, Order: file.Decision.Order.ID,
		File: file.Name, Bytes: acked, Total: file.Size,
		Text: fmt.Sprintf("%s broke off over TFTP after %d of %d bytes: %s", file.Name, acked, file.Size, err)})
	return "broken"
}
