package appliance

import (
	"context"
	"maps"
	"slices"

	"rescuebox/appliance/admin"
)

// checkBMCs tells which controllers refused the password when it was tried last. None is asked.
func (b *box) checkBMCs(context.Context) (faults []admin.Finding) {
	known := 0
	for _, name := range slices.Sorted(maps.Keys(b.powers)) {
		p := b.powers[name]
		if p.bmc == nil {
			continue
		}
		known++
		if err := p.bmc.Refusal(); err != nil {
			faults = append(faults, admin.Fault(admin.Failed, "bmc-refused", "rescuebox power "+name+" status tries it at once",
				"the BMC of %s: %v", name, err)...)
		}
	}
	switch {
	case known == 0:
		return admin.Skip("no machine has a BMC")
	case len(faults) == 0:
		return admin.Fine("no BMC has refused the box's password")
	}
	return faults
}
