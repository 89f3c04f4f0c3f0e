// Package admin is the daemon's HTTP API: over a Unix socket for whoever is on
// the box, where the kernel says who calls, and over TLS for admins elsewhere,
// who bring a token.
//
// Every call goes one way, in service.ServeHTTP: who is it (identify), which
// route, may the role (see routes), do it, write the audit entry if it changes
// anything, answer. The OpenAPI document beside this file is served at
// /openapi.json; a test compares it with the routes and their answers.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// Machines is what the API needs to know about machines; *boot.Table has it.
type Machines interface {
	Machines() []boot.Machine
	Seen() []boot.Sighting
	SecureBoot(machine string) boot.SecureBoot
	Adopt(boot.Machine) error
}

// Orders is what the API does with orders; *boot.Table has it.
type Orders interface {
	Arm(machine, image, by string, ttl time.Duration) (boot.Order, error)
	Cancel(machine, by string) (boot.Order, error)
	OpenOrder(machine string) (boot.Order, bool)
	AllOrders(max int) []boot.Order
	Powered(orderID, by string, how boot.Press) (boot.Order, error)
}

// Timeline is what the API tells of orders; *boot.Table has it.
type Timeline interface {
	Timeline(orderID string) ([]boot.Event, error)
	EventsAfter(seq int64, max int) ([]boot.Event, error)
	Watch() (events <-chan boot.Event, stop func())
	Record(e boot.Event)
}

// Boot is satisfied by *boot.Table.
type Boot interface {
	Machines
	Orders
	Timeline
	Diagnoses
}

// Diagnoses is what the doctor asks about boots.
type Diagnoses interface {
	Ways(machine string) ([]boot.Way, []error)
	Cause(ctx context.Context, orderID string, now time.Time) (boot.Cause, bool)
}

// Server is the API. Boot, Images, Tokens and Audit must be set; without the
// other functions and stores their routes answer that there is nothing.
type Server struct {
	Socket   string         // "": no Unix socket
	Group    string         // group of the socket; "": that of the process
	Listen   netip.AddrPort // zero: no TLS
	Floating bool           // the address of Listen comes and goes, as a VPN's does: listen before it is there
	StateDir string         // where the certificate is kept; needed with Listen
	Version  string

	Boot     Boot
	Images   *images.Library
	Tickets  Tickets
	Tokens   Tokens
	Audit    Audit
	Relays   Relays   // nil: nobody is led through
	Notifier Notifier // nil: nobody is told anything
	Powers   Powers   // nil: power is switched by hand
	BMCs     BMCs     // nil: there are none
	// Press boots an order's machine, as the order's Press says. It returns at once. Nil: power is switched by hand.
	Press    func(o boot.Order)
	Consoles Consoles // nil: no consoles are kept
	Links    Links    // nil: nobody watches uplinks
	Modems   Modems   // nil: there are none

	// Status tells what the API cannot know by itself: site, LAN, DHCP, parts, Started.
	Status func() api.Status
	Leases func() ([]api.Lease, error)
	Checks []Check             // of the doctor, beside the server's own
	Gather prometheus.Gatherer // for /metrics

	Log     *zap.Logger           // nil: none
	Metrics prometheus.Registerer // nil: none

	once    sync.Once
	metrics metrics
}

// Time limits of the API. Calls that hash an image or run the doctor may take longer.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	closeTimeout  = time.Second
)

// Run listens, calls ready, and answers until ctx is done.
func (s *Server) Run(ctx context.Context, ready func()) error {
	s.once.Do(func() { s.metrics = newMetrics(s.Metrics) })
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
	h := s.service()
	listeners, err := s.listen(h)
	if err != nil {
		return err
	}
	srv := s.httpServer(ctx, h)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if srv.Shutdown(limit) != nil {
			return srv.Close()
		}
		return nil
	})
	ready()
	err = g.Wait()
	h.relaying.Wait() // they end with ctx, and http.Server does not know them
	return err
}

// httpServer is the server below the routes, with its limits.
func (s *Server) httpServer(ctx context.Context, h http.Handler) *http.Server {
	quiet, err := zap.NewStdLogAt(s.Log, zap.DebugLevel) // failed handshakes of strangers and the like
	if err != nil {
		quiet = nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // streams within a connection would escape the limit of connections
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quiet,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends event streams
		ConnContext:       withPeer,
	}
}

// listen opens the socket and the TLS port, as far as they are configured.
func (s *Server) listen(h *service) (list []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range list {
				l.Close()
			}
		}
	}()
	if s.Socket != "" {
		l, err := listenUnix(s.Socket, s.Group, s.Log)
		if err != nil {
			return list, err
		}
		list = append(list, l)
	}
	if s.Listen.IsValid() {
		l, fingerprint, err := s.listenTLS()
		if err != nil {
			return list, err
		}
		h.fingerprint = fingerprint
		s.Log.Info("API listens over TLS; compare the fingerprint when you log in",
			zap.Stringer("address", s.Listen), zap.String("fingerprint", fingerprint))
		list = append(list, l)
	}
	return list, nil
}
