package power

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
)

const (
	portKDC = "88"
	// maxReply bounds a KDC's answer: a ticket has 64 KiB at most with the groups of its user.
	maxReply = 128 << 10
	// serving bounds one question to one KDC, so that there is time for another.
	serving = 8 * time.Second
)

// kdcs are a realm's key distribution centres, the one that answered last first. The library's
// own client is not used: it allocates the 4 GiB that a KDC announces, knows no context and
// counts as often as a KDC says.
type kdcs []string

// ask asks one after the other for an answer, over TCP (RFC 4120 §7.2.2). One that
// answers at all settles it: every further one would count a wrong password again.
func (k kdcs) ask(ctx context.Context, request []byte) ([]byte, error) {
	var failed error
	for i, kdc := range k {
		answer, err := askKDC(ctx, kdc, request)
		if err == nil {
			copy(k[1:], k[:i])
			k[0] = kdc
			return answer, nil
		}
		if failed = and(failed, fmt.Errorf("%w: its KDC %s: %w", kind(err), kdc, err)); ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// errReply is an answer that is no Kerberos.
var errReply = errors.New("its answer is no Kerberos")

// kind is what a failed question to a KDC counts as.
func kind(err error) error {
	if errors.Is(err, errReply) {
		return ErrSystemUnable
	}
	return ErrSystemSilent
}

func askKDC(ctx context.Context, kdc string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, serving)
	defer cancel()
	name, port := address(kdc, portKDC)
	conn, err := (&net.Dialer{Timeout: 4 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(name, port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
		return nil, err
	}
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxReply {
		return nil, fmt.Errorf("%w: it announces %d bytes", errReply, n)
	}
	answer := make([]byte, n)
	_, err = io.ReadFull(conn, answer)
	return answer, err
}

// krbError is the first byte of a KRB-ERROR: application 30 (RFC 4120 §5.9.1).
const krbError = 0x7e

// read reads an answer, or the refusal that came in its place.
func read(answer []byte, into message) error {
	return guarded(func() error {
		if len(answer) == 0 || answer[0] != krbError {
			return into.Unmarshal(answer)
		}
		var refusal messages.KRBError
		if err := refusal.Unmarshal(answer); err != nil {
			return err
		}
		return refusal
	})
}

// guarded calls what the library does with foreign bytes: it panics at some of them
// (an encrypted part that is shorter than its checksum, a name without parts).
func guarded(do func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errReply
		}
	}()
	err = do()
	var refusal messages.KRBError
	if err != nil && !errors.As(err, &refusal) {
		return errReply // the library's own words are long, and repeat what came
	}
	return err
}
