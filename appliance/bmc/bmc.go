// Package bmc talks to a server's own controller: power, and what it boots next,
// through Redfish or IPMI 2.0.
//
// Controllers are slow, lose packets, and say what is not so. So every operation
// is bounded in time, what was set is read back, and an error tells a wrong password
// (ErrRefused) from a controller that is not there (ErrSilent).
package bmc

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// State is whether a server has power.
type State string

// The states.
const (
	On      State = "on"
	Off     State = "off"
	Unknown State = "unknown" // the controller is between the two, or says neither
)

// Action is what can be done to a server's power.
type Action string

// The actions.
const (
	PowerOn  Action = "on"
	PowerOff Action = "off"   // at once, as by pulling the plug
	Cycle    Action = "cycle" // off and on again; on where it was off
	Reset    Action = "reset"
	SoftOff  Action = "soft" // asks the system to shut down (ACPI); done when it was asked
)

// Device is what a server boots next, once.
type Device string

// The devices.
const (
	Usual       Device = "usual"        // as its setup says: takes back what was set
	Network     Device = "network"      // PXE
	NetworkHTTP Device = "network-http" // UEFI HTTP Boot
	Disk        Device = "disk"
	VirtualCD   Device = "cd" // the controller's virtual media
)

// Boot is a one-time boot.
type Boot struct {
	Device Device
	UEFI   bool // the machine's firmware boots by UEFI; else BIOS
	// Unsure says that nobody knows which: a controller that has a mode keeps it, and one that must be told is told UEFI.
	Unsure bool
}

// Next is what a controller says of the next start.
type Next struct {
	Boot
	// Held says that the controller marks it as valid. Some never do and boot it
	// all the same; some say so and lose it.
	Held bool
}

// String is for the timeline.
func (n Next) String() string {
	mode := "BIOS"
	if n.UEFI {
		mode = "UEFI"
	}
	if n.Unsure {
		mode = "the firmware that it has"
	}
	if n.Held || n.Device == Usual {
		return fmt.Sprintf("%s, %s", n.Device, mode)
	}
	return fmt.Sprintf("%s, %s, not marked as valid", n.Device, mode)
}

// Controller is one server's controller. Its methods may be called by many; it
// does one thing at a time.
type Controller interface {
	// Power asks whether the server has power.
	Power(ctx context.Context) (State, error)
	// Do changes it, and returns when the controller has taken the command.
	Do(ctx context.Context, a Action) error
	// Set has the server boot from a device, once, and reads back what became of it. It
	// holds for the next start, whoever causes it, as long as the controller can.
	Set(ctx context.Context, b Boot) (Next, error)
	// Start is Set and Cycle as one operation: most controllers forget what was set within a minute.
	Start(ctx context.Context, b Boot) (Next, error)
	// Next asks what is set for the next start.
	Next(ctx context.Context) (Next, error)
	// Console opens the serial console. A controller has one session: an older one is ended.
	Console(ctx context.Context) (io.ReadWriteCloser, error)
	// Info says what controller it is.
	Info(ctx context.Context) (Info, error)
}

// Info is what a controller says of itself.
type Info struct {
	Protocol string // "redfish" or "ipmi"
	Vendor   string // as it says, or ""
	Model    string
	Firmware string
}

// Errors that callers tell apart.
var (
	ErrRefused = errors.New("the controller refuses user or password")
	// ErrRights is a user whose password is right, and who may not do what was asked.
	ErrRights      = fmt.Errorf("%w, or what was asked of it: %s", ErrRefused, whyRights)
	ErrSilent      = errors.New("the controller does not answer")
	ErrUnsupported = errors.New("the controller cannot do that")
	ErrNotTaken    = errors.New("the controller did not take what was set")
	// ErrHalfway goes with ErrSilent when a change was sent and no answer came: it may have been made.
	ErrHalfway = errors.New("whether it did that is not known")
)
