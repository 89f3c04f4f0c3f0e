package bmc

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/transport"
	"github.com/bougou/go-ipmi/pkg/types"
)

const (
	// solInstance is the only one that most controllers have.
	solInstance = 1
	// solPoll is how often the controller is asked for what there is. Our consoles are open day and night.
	solPoll = 250 * time.Millisecond
)

// Console is that of Controller: Serial over LAN (IPMI 2.0 chapter 15) in a session of
// its own. It ends when the controller drops it or Close is called.
func (i *IPMI) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	c, err := i.activate(ctx)
	if err != nil {
		return nil, fmt.Errorf("serial console: BMC %s: %w", i.Host, err)
	}
	streaming, cancel := context.WithCancel(context.Background())
	s := &solConsole{cancel: cancel}
	fromUs, toThem := io.Pipe()
	fromThem, toUs := io.Pipe()
	s.in, s.out = toThem, fromThem
	s.done.Go(func() {
		err := c.SOLStream(streaming, fromUs, toUs, &client.SOLStreamOptions{PollInterval: solPoll})
		if err == nil || streaming.Err() != nil {
			err = io.EOF
		} else {
			err = plain(err)
		}
		toUs.CloseWithError(err)
		fromUs.CloseWithError(io.ErrClosedPipe)
		deactivate(c)
		i.logout(c)
	})
	return s, nil
}

// activate ends whatever session there is and begins ours.
func (i *IPMI) activate(ctx context.Context) (*client.Client, error) {
	if err := i.turn.take(ctx); err != nil {
		return nil, err
	}
	defer i.turn.leave()
	ctx, cancel := context.WithTimeout(ctx, ipmiOperation)
	defer cancel()
	c, err := i.login(ctx)
	if err != nil {
		return nil, err
	}
	deactivate(c)
	_, err = c.ActivatePayload(ctx, &transport.ActivatePayloadRequest{
		PayloadType: types.PayloadTypeSOL, PayloadInstance: solInstance, EnableEncryption: true, EnableAuthentication: true})
	if err != nil {
		i.logout(c)
		if no, ok := types.IsResponseError(err); ok && no.CompletionCode() == 0x81 { // section 24.1: disabled for this user or channel
			return nil, fmt.Errorf("%w: serial over LAN is switched off in it", ErrUnsupported)
		}
		return nil, plain(err)
	}
	return c, nil
}

// deactivate ends a payload; that there is none (0x80) is as good.
func deactivate(c *client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*ipmiTry)
	defer cancel()
	_, _ = c.DeactivatePayload(ctx, &transport.DeactivatePayloadRequest{PayloadType: types.PayloadTypeSOL, PayloadInstance: solInstance})
}

// solConsole is an active session.
type solConsole struct {
	in     *io.PipeWriter
	out    *io.PipeReader
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (s *solConsole) Read(b []byte) (int, error)  { return s.out.Read(b) }
func (s *solConsole) Write(b []byte) (int, error) { return s.in.Write(b) }

// Close ends the session and waits until the controller has been told.
func (s *solConsole) Close() error {
	s.cancel()
	s.in.Close()
	s.out.Close()
	s.done.Wait()
	return nil
}
