package bmc

import (
	"context"
	"fmt"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

// selectors are the devices in IPMI's numbers (IPMI 2.0 table 28-14, parameter 5).
// It knows nothing of HTTP Boot.
var selectors = map[Device]types.BootDeviceSelector{
	Usual:     types.BootDeviceSelectorNoOverride,
	Network:   types.BootDeviceSelectorForcePXE,
	Disk:      types.BootDeviceSelectorForceHardDrive,
	VirtualCD: types.BootDeviceSelectorForceRemoteCDROM,
}

// Set is that of Controller.
func (i *IPMI) Set(ctx context.Context, b Boot) (next Next, err error) {
	err = i.session(ctx, "boot "+string(b.Device)+" once", func(ctx context.Context, c *client.Client) error {
		next, err = setBoot(ctx, c, b)
		return err
	})
	return next, err
}

// Start is that of Controller.
func (i *IPMI) Start(ctx context.Context, b Boot) (next Next, err error) {
	err = i.session(ctx, "boot "+string(b.Device)+" now", func(ctx context.Context, c *client.Client) error {
		if next, err = setBoot(ctx, c, b); err != nil {
			return err
		}
		return i.control(ctx, c, Cycle)
	})
	return next, err
}

// Next is that of Controller.
func (i *IPMI) Next(ctx context.Context) (next Next, err error) {
	err = i.session(ctx, "ask for the next boot", func(ctx context.Context, c *client.Client) error {
		next, err = readBoot(ctx, c)
		return err
	})
	return next, err
}

// setBoot sets the boot flags and reads them back. Some controllers keep stale ones
// with the first write and take the second.
func setBoot(ctx context.Context, c *client.Client, b Boot) (Next, error) {
	selector, ok := selectors[b.Device]
	if !ok {
		return Next{}, fmt.Errorf("%w: IPMI has no boot from %s", ErrUnsupported, b.Device)
	}
	if err := keepFlags(ctx, c, b.Device != Usual); err != nil {
		return Next{}, err
	}
	var next Next
	for range 2 {
		if err := c.SetBootDevice(ctx, selector, types.BIOSBootType(b.UEFI), false); err != nil {
			return Next{}, err
		}
		var err error
		if next, err = readBoot(ctx, c); err != nil {
			return Next{}, err
		}
		if next.Device == b.Device && next.Held {
			break
		}
	}
	if next.Device != b.Device {
		return next, fmt.Errorf("%w: it says %q after it was told %q", ErrNotTaken, next.Device, b.Device)
	}
	return next, nil
}

// keepFlags asks the controller not to forget the boot flags after 60 s, nor when somebody
// presses the power button (parameter 3); or to do so again, as it did before: what others set later is to
// be forgotten. Those that cannot are left as they are.
func keepFlags(ctx context.Context, c *client.Client, keep bool) error {
	err := c.SetSystemBootOptionsParamFor(ctx, &types.BootOptionParam_BMCBootFlagValidBitClear{
		DontClearOnCommandReceivedTimeout:       keep,
		DontClearOnPowerUpPushButtonOrWakeEvent: keep,
	})
	if no, ok := types.IsResponseError(err); ok {
		switch no.CompletionCode() {
		case types.CodeParameterNotSupported, types.CodeRequestDataFieldInvalid, types.CodeInvalidCommand:
			return nil
		}
	}
	return err
}

// readBoot reads parameter 5.
func readBoot(ctx context.Context, c *client.Client) (Next, error) {
	var flags types.BootOptionParam_BootFlags
	if err := c.GetSystemBootOptionsParamFor(ctx, &flags); err != nil {
		return Next{}, err
	}
	next := Next{Held: flags.BootFlagsValid, Boot: Boot{Device: Device(fmt.Sprintf("device %d", flags.BootDeviceSelector)), UEFI: bool(flags.BIOSBootType)}}
	for device, selector := range selectors {
		if selector == flags.BootDeviceSelector {
			next.Device = device
		}
	}
	if flags.BootDeviceSelector == types.BootDeviceSelectorForceCDROM { // some store the local drive for the remote one
		next.Device = VirtualCD
	}
	return next, nil
}
