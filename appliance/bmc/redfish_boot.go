package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"
)

// targets are the devices in the standard's words (BootSource).
var targets = map[Device][]string{
	Network:     {string(schemas.PxeBootSource)},
	NetworkHTTP: {string(schemas.UefiHTTPBootSource)},
	Disk:        {string(schemas.HddBootSource)},
	VirtualCD:   {string(schemas.CdBootSource), "UsbCd"}, // the library has no name for the second
}

// cdModels are the Supermicro models whose virtual drive is "Cd"; with all others it is "UsbCd", and
// both are in the list of what is allowed (sushy, system.py).
var cdModels = []string{"ARS-111GL-NHR"}

// Set is that of Controller.
func (r *Redfish) Set(ctx context.Context, b Boot) (next Next, err error) {
	err = r.operation(ctx, "boot "+string(b.Device)+" once", redfishChange, func(ctx context.Context, s *session) error {
		next, err = s.setBoot(ctx, b)
		return err
	})
	return next, err
}

// Next is that of Controller.
func (r *Redfish) Next(ctx context.Context) (next Next, err error) {
	err = r.operation(ctx, "ask for the next boot", redfishAsk, func(ctx context.Context, s *session) error {
		sys, err := s.system(ctx)
		if err != nil {
			return err
		}
		next = sys.Boot.next()
		for _, path := range s.bootPaths(sys)[1:] { // what is only planned is in the settings resource
			var planned systemView
			if _, err := s.get(ctx, path, &planned); err == nil && next.Device == Usual {
				next = planned.Boot.next()
			}
		}
		return nil
	})
	return next, err
}

// next reads an override. "Continuous" is one that holds as well: some say so of what was
// set once (sushy's emulator, OpenBMC).
func (v bootView) next() Next {
	next := Next{Boot: Boot{Device: Usual, UEFI: v.Mode == string(schemas.UEFIBootSourceOverrideMode)}}
	if v.Target == "" || v.Target == string(schemas.NoneBootSource) || v.Enabled == string(schemas.DisabledBootSourceOverrideEnabled) {
		return next
	}
	next.Device = Device(clean(v.Target))
	for device, names := range targets {
		if slices.Contains(names, v.Target) {
			next.Device = device
		}
	}
	next.Held = v.Enabled == string(schemas.OnceBootSourceOverrideEnabled) || v.Enabled == string(schemas.ContinuousBootSourceOverrideEnabled)
	return next
}

// clean is a foreign word, short enough for a line.
func clean(word string) string {
	return (&session{}).clip(word[:min(len(word), 40)])
}

// target is the standard's word for a device with this controller.
func (s *session) target(sys *systemView, d Device) (string, error) {
	names := slices.Clone(targets[d])
	if len(names) == 0 {
		return "", fmt.Errorf("%w: there is no boot from %q", ErrUnsupported, d)
	}
	if s.maker == supermicro && d == VirtualCD && !slices.ContainsFunc(cdModels, func(m string) bool { return strings.EqualFold(m, sys.Model) }) {
		slices.Reverse(names)
	}
	allowed := sys.Boot.Targets
	for _, name := range names {
		if len(allowed) == 0 || slices.Contains(allowed, name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: boot from %s; it allows %s", ErrUnsupported, d, s.clip(join(allowed)))
}

// shape is one way to say a boot override: changes that are sent one after the other.
type shape []map[string]any

// shapes are the ways, the fullest first; each is there because a controller refuses, or
// takes and ignores, the ones before it. Where nobody knows by which firmware the machine boots, its controller does,
// and is not told: but Supermicro, which must be, is told what it has.
func shapes(sys *systemView, target string, b Boot, m maker) []shape {
	if b.Device == Usual {
		disabled, none := map[string]any{"BootSourceOverrideEnabled": "Disabled"}, map[string]any{"BootSourceOverrideTarget": "None"}
		return []shape{
			{{"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}},
			{disabled},
			{none},
		}
	}
	mode := string(schemas.LegacyBootSourceOverrideMode)
	if b.UEFI {
		mode = string(schemas.UEFIBootSourceOverrideMode)
	}
	if b.Unsure && sys.Boot.Mode != "" {
		mode = sys.Boot.Mode
	}
	full := map[string]any{"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target, "BootSourceOverrideMode": mode}
	if uri := sys.Boot.HTTPBootURI; b.Device == NetworkHTTP && uri != "" && uri != "None" {
		full["HttpBootUri"] = "" // of somebody's earlier boot; ours comes by DHCP
	}
	ways := []shape{
		{full},
		// HPE iLO: the mode is not writable, 400 (community.general#3509; bmclib for DL160 Gen10).
		{{"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target}},
		// Dell 13G refuses to be told both at once (community.general#5091).
		{{"BootSourceOverrideTarget": target}, {"BootSourceOverrideEnabled": "Once"}},
		// A board that takes all three, and keeps the target only (bmclib, AS-1015CS-TNR).
		{{"BootSourceOverrideMode": mode}, {"BootSourceOverrideTarget": target}, {"BootSourceOverrideEnabled": "Once"}},
	}
	if b.Unsure && m != supermicro {
		ways[0], ways[1] = ways[1], ways[0]
	}
	return ways
}

// setBoot tells the override in each shape, of the system and of its settings resource, until it
// reads back. A mode that does not is let pass at the end: the caller sees it.
func (s *session) setBoot(ctx context.Context, b Boot) (Next, error) {
	sys, err := s.system(ctx)
	if err != nil {
		return Next{}, err
	}
	var target string
	if b.Device != Usual {
		if target, err = s.target(sys, b.Device); err != nil {
			return Next{}, err
		}
	}
	if s.maker == dell && b.Device == VirtualCD {
		if err := s.dellCD(ctx, sys); err == nil {
			return Next{Boot: b, Held: true}, nil
		}
	}
	var no error
	best := Next{}
	for _, path := range s.bootPaths(sys) {
		for _, shape := range shapes(sys, target, b, s.maker) {
			next, err := s.tryBoot(ctx, path, shape, b)
			switch {
			case err == nil:
				return next, nil
			case errors.Is(err, errMode):
				best, no = next, nil
			case refusedBy(err), errors.Is(err, ErrNotTaken):
				if best.Device != b.Device {
					best, no = next, err
				}
			default:
				return next, err
			}
		}
	}
	return best, no
}

// bootPaths are the resources that take an override: the system, and the one of its future settings
// (AMI's /SD, iDRAC 10), which some have for it alone.
func (s *session) bootPaths(sys *systemView) []string {
	paths := []string{sys.link.ID}
	if settings := sys.Settings.Object.ID; settings != "" && settings != sys.link.ID {
		paths = append(paths, settings)
	}
	return paths
}

// errMode is an override that was taken, with the other firmware.
var errMode = fmt.Errorf("%w: it keeps the other firmware's mode", ErrNotTaken)

// tryBoot sends one shape to one resource and waits until it reads back.
func (s *session) tryBoot(ctx context.Context, path string, sh shape, b Boot) (Next, error) {
	for _, change := range sh {
		var now resource
		header, err := s.get(ctx, path, &now)
		if err != nil {
			return Next{}, err
		}
		if err := s.patch(ctx, path, now.tag(header), map[string]any{"Boot": change}); err != nil {
			return Next{}, err
		}
	}
	deadline := time.Now().Add(s.pace.boot)
	for {
		var now systemView
		if _, err := s.get(ctx, path, &now); err != nil {
			return Next{}, err
		}
		next := now.Boot.next()
		if now.Boot.Mode == "" {
			next.UEFI, next.Unsure = b.UEFI, b.Unsure
		}
		switch {
		case next.Device == b.Device && (b.Device == Usual || b.Unsure || next.UEFI == b.UEFI):
			return next, nil
		case time.Now().Before(deadline):
		case next.Device == b.Device:
			return next, errMode
		default:
			return next, fmt.Errorf("%w: it says %q after it was told %q", ErrNotTaken, next.Device, b.Device)
		}
		if s.sleep(ctx) != nil {
			return next, fmt.Errorf("%w in time", ErrSilent)
		}
	}
}

// dellCD has an iDRAC boot its virtual drive once. The standard's Cd is a drive in the server there
// (Dell's PowerShell module; Ironic's drac/boot.py sets the same two by a configuration profile).
func (s *session) dellCD(ctx context.Context, sys *systemView) error {
	want := map[string]string{"ServerBoot.1.BootOnce": "Enabled", "ServerBoot.1.FirstBootDevice": "VCD-DVD"}
	err := fmt.Errorf("%w: it has no attributes", ErrUnsupported)
	for _, m := range s.managers(ctx, sys) {
		for _, path := range m.dellAttributes() {
			var now struct {
				resource
				Attributes map[string]any
			}
			var header string
			if header, err = s.get(ctx, path, &now); err != nil {
				continue
			}
			if _, ok := now.Attributes["ServerBoot.1.FirstBootDevice"]; !ok {
				continue
			}
			if err = s.patch(ctx, path, now.tag(header), map[string]any{"Attributes": want}); err != nil {
				continue
			}
			if _, err = s.get(ctx, path, &now); err == nil && now.Attributes["ServerBoot.1.FirstBootDevice"] == "VCD-DVD" {
				return nil
			}
		}
	}
	if err == nil {
		err = ErrNotTaken
	}
	return err
}
