package bmc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Media puts an image into a server's virtual CD drive.
type Media interface {
	// Insert has the controller read the image from url while the server uses it.
	// What was in the drive is ejected.
	Insert(ctx context.Context, url string) error
	// Eject empties the drive; one that is empty is left so.
	Eject(ctx context.Context) error
}

// drive is a VirtualMedia resource.
type drive struct {
	resource
	ID           string `json:"Id"`
	MediaTypes   []string
	MediaType    string // not of the standard
	Image        string
	Inserted     *bool
	ConnectedVia string
	Actions      struct {
		Insert actionView `json:"#VirtualMedia.InsertMedia"`
		Eject  actionView `json:"#VirtualMedia.EjectMedia"`
	}
}

// How virtual media say that there is nothing in them, or what a person at the
// remote console has put there.
const (
	notConnected = "NotConnected"
	byConsole    = "Applet"
)

// isCD reports whether it is a CD or DVD drive.
func (d *drive) isCD() bool {
	for _, t := range append(d.MediaTypes, d.MediaType) {
		if t = strings.ToUpper(t); t == "CD" || t == "DVD" {
			return true
		}
	}
	return false
}

// empty reports whether there is nothing in it. "NotConnected" is believed whatever the name of the image:
// Supermicro keeps that after the ejection (community.general#6969).
func (d *drive) empty() bool {
	return d.ConnectedVia == notConnected || d.Image == "" && (d.Inserted == nil || !*d.Inserted)
}

// holds reports whether an image is in it. Image and Inserted lag each other (Lenovo XCC).
func (d *drive) holds() bool {
	return d.Image != "" && d.ConnectedVia != notConnected && (d.Inserted == nil || *d.Inserted)
}

// Insert is that of Media.
func (r *Redfish) Insert(ctx context.Context, image string) error {
	return r.operation(ctx, "insert virtual media", redfishChange, func(ctx context.Context, s *session) error {
		drives, err := s.drives(ctx)
		if err != nil {
			return err
		}
		for _, path := range drives {
			if err = s.insertInto(ctx, path, image); err == nil || !refusedBy(err) && !errors.Is(err, ErrNotTaken) {
				return err
			}
		}
		return err
	})
}

// Eject is that of Media. What somebody has put in by the remote console stays.
func (r *Redfish) Eject(ctx context.Context) error {
	return r.operation(ctx, "eject virtual media", redfishChange, func(ctx context.Context, s *session) error {
		drives, err := s.drives(ctx)
		if err != nil {
			return err
		}
		for _, path := range drives { // one that refuses keeps no other full
			if no := s.ejectFrom(ctx, path); err == nil {
				err = no
			}
		}
		return err
	})
}

// drives finds the virtual CD drives: under the controllers, or under the system, where iDRAC has them since
// 6.00.02 and OpenBMC and sushy too. A collection that is announced and missing is passed over.
func (s *session) drives(ctx context.Context) ([]string, error) {
	sys, err := s.system(ctx)
	if err != nil {
		return nil, err
	}
	collections := []string{sys.VirtualMedia.ID}
	for _, m := range s.managers(ctx, sys) {
		collections = append(collections, m.VirtualMedia.ID)
	}
	var able, others []string
	for _, c := range collections {
		paths, err := s.members(ctx, c)
		if err != nil && !refusedBy(err) {
			return nil, err
		}
		for _, path := range paths {
			d, err := s.drive(ctx, path)
			switch {
			case err != nil || !d.isCD() || slices.Contains(able, path) || slices.Contains(others, path):
			case d.Actions.Insert.Target != "" || strings.HasPrefix(d.ID, "EXT"): // Lenovo's EXT1 to EXT4 take addresses
				able = append(able, path)
			default:
				others = append(others, path)
			}
		}
	}
	if able = append(able, others...); len(able) == 0 {
		return nil, fmt.Errorf("%w: it has no virtual CD drive, or a licence for it is missing", ErrUnsupported)
	}
	return able, nil
}

func (s *session) drive(ctx context.Context, path string) (*drive, error) {
	d := &drive{}
	header, err := s.get(ctx, path, d)
	d.link.ID, d.ETag = path, d.tag(header)
	return d, err
}

// insertInto inserts an image into one drive and waits until it is there.
func (s *session) insertInto(ctx context.Context, path, image string) error {
	d, err := s.drive(ctx, path)
	if err != nil {
		return err
	}
	if d.holds() && d.Image == image {
		return nil
	}
	if !d.empty() {
		if err := s.empty(ctx, d); err != nil {
			return err
		}
	}
	var no error
	for _, shape := range s.inserts(d, image) {
		if d, err = s.drive(ctx, path); err != nil { // its ETag is another by now
			return err
		}
		if d.Actions.Insert.Target != "" {
			err = s.post(ctx, d.Actions.Insert.Target, shape)
		} else {
			err = s.patch(ctx, path, d.ETag, shape)
		}
		if err == nil || errors.Is(err, ErrHalfway) {
			err = s.untilDrive(ctx, path, (*drive).holds, "it was told to insert the image, and says that the drive is empty")
		}
		if !refusedBy(err) && !errors.Is(err, ErrNotTaken) {
			return err
		}
		no = err
	}
	return no
}

// inserts are the ways to say it, each for a kind of controller that refuses those before.
func (s *session) inserts(d *drive, image string) []map[string]any {
	protocol := "HTTP"
	if u, err := url.Parse(image); err == nil && u.Scheme == "https" {
		protocol = "HTTPS"
	}
	bare := map[string]any{"Image": image}
	whole := map[string]any{"Image": image, "Inserted": true, "WriteProtected": true}
	typed := map[string]any{"Image": image, "TransferProtocolType": protocol}
	streamed := map[string]any{"Image": image, "TransferProtocolType": protocol, "TransferMethod": "Stream",
		"UserName": "none", "Password": "none"} // NVIDIA DGX demands them, and uses neither
	if d.Actions.Insert.Target == "" {
		// Lenovo XCC, by PATCH: nothing is inserted unless Inserted is said (sushy, SD530).
		return []map[string]any{whole, {"Image": image, "Inserted": true}, typed, bare}
	}
	if s.maker == supermicro { // X11 and X12 refuse Inserted and WriteProtected
		return []map[string]any{bare, typed, streamed, whole}
	}
	return []map[string]any{whole, bare, typed, streamed}
}

// ejectFrom empties one drive.
func (s *session) ejectFrom(ctx context.Context, path string) error {
	d, err := s.drive(ctx, path)
	if err != nil || d.empty() || d.ConnectedVia == byConsole {
		return err
	}
	return s.empty(ctx, d)
}

// empty ejects. A refusal counts only if there is something left in the drive.
func (s *session) empty(ctx context.Context, d *drive) error {
	var err error
	if target := d.Actions.Eject.Target; target != "" {
		err = s.post(ctx, target, map[string]any{}) // HPE iLO wants the empty object
	} else {
		err = s.patch(ctx, d.link.ID, d.ETag, map[string]any{"Image": nil, "Inserted": false})
		if refusedBy(err) {
			err = s.patch(ctx, d.link.ID, d.ETag, map[string]any{"Inserted": false})
		}
	}
	if err != nil && !refusedBy(err) && !errors.Is(err, ErrHalfway) {
		return err
	}
	if refusedBy(err) {
		if now, readErr := s.drive(ctx, d.link.ID); readErr != nil || !now.empty() {
			return err
		}
		return nil
	}
	return s.untilDrive(ctx, d.link.ID, (*drive).empty, "it was told to eject, and says that the drive still holds an image")
}

// untilDrive waits until a drive is as it was told.
func (s *session) untilDrive(ctx context.Context, path string, ok func(*drive) bool, otherwise string) error {
	deadline := time.Now().Add(s.pace.media)
	for {
		d, err := s.drive(ctx, path)
		switch {
		case err != nil:
			return err
		case ok(d):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%w: %s %s later", ErrNotTaken, otherwise, s.pace.media)
		}
		if s.sleep(ctx) != nil {
			return fmt.Errorf("%w in time: %s", ErrSilent, otherwise)
		}
	}
}
