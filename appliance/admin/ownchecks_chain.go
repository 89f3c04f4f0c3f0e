package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// checkChains looks whether all that an ordered machine, or one with a standing
// image, would load is there, as it was imported, and signed so that Secure
// Boot starts it.
func (h *service) checkChains(ctx context.Context) []Finding {
	var list []Finding
	checked, seen := 0, map[string]error{}
	for _, m := range h.Boot.Machines() {
		ways, errs := h.Boot.Ways(m.Name)
		// Where nobody knows whether a machine is BIOS or UEFI, one way is enough.
		if len(ways) == 0 {
			for _, err := range errs {
				list = append(list, chainRefused(m.Name, err)...)
			}
		}
		for _, w := range ways {
			checked++
			list = append(list, h.checkWay(ctx, w, seen)...)
		}
	}
	if len(list) > 0 {
		return compact(list)
	}
	return Fine("%d ways to boot an ordered machine are whole", checked)
}

func chainRefused(machine string, err error) []Finding {
	var no *boot.Refusal
	hint := ""
	if errors.As(err, &no) {
		hint = no.Hint
	}
	return Fault(Failed, "chain-broken", hint, "%s cannot boot what is ordered: %s", machine, err)
}

// checkWay looks at the files of one way, and then at who signed them.
func (h *service) checkWay(ctx context.Context, w boot.Way, seen map[string]error) []Finding {
	var list []Finding
	for _, l := range w.Links {
		if ctx.Err() != nil {
			return Fault(Warning, "check-too-slow", "run the doctor again", "there was no time to look at all files")
		}
		at := l.Image.Name + "/" + l.File.Name
		err, known := seen[at]
		if !known {
			err = h.whole(l)
			seen[at] = err
		}
		if err != nil {
			list = append(list, linkFault(w, l, err)...)
		}
	}
	if w.Chain == boot.ChainShim && len(list) == 0 {
		return signatures(w)
	}
	return list
}

// errSignature is in the error of a file whose signature does not fit its bytes.
var errSignature = errors.New("its signature is broken")

// whole reads a file again, all of it, and the signatures that it had at its import.
func (h *service) whole(l boot.Link) error {
	f, _, err := h.Images.Open(l.Image, l.File.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if l.File.Arch == "" {
		return nil
	}
	p, err := images.ReadPE(f, l.File.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", errSignature, err)
	}
	for _, s := range p.Signatures {
		if s.Err != nil && !s.Nested {
			return fmt.Errorf("%w: %w", errSignature, s.Err)
		}
	}
	return nil
}

func linkFault(w boot.Way, l boot.Link, err error) []Finding {
	var changed *images.Changed
	switch {
	case errors.Is(err, errSignature):
		return Fault(Failed, "chain-signature", "import it again from an unchanged package", "Secure Boot refuses %s of %s, which %s boots from: %s",
			l.File.Name, l.Image.Name, w.Machine.Name, err)
	case errors.As(err, &changed):
		return Fault(Failed, "chain-file-changed", "add or build "+l.Image.Name+" again", "%s cannot boot what is ordered: %s", w.Machine.Name, err)
	}
	return Fault(Failed, "chain-file-missing", "add or build "+l.Image.Name+" again", "%s cannot boot what is ordered: %s", w.Machine.Name, err)
}

// signatures looks whether each stage of the chain shim is signed by whom the
// one before trusts: the firmware Microsoft, shim the distribution that it was
// built by (shim.efi has that certificate inside, so that GRUB's and the kernel's
// signer must be one).
func signatures(w boot.Way) []Finding {
	var list []Finding
	for _, l := range w.Links {
		if l.File.Arch == "" && l.Stage != "kernel" {
			continue
		}
		if len(l.File.Signers) == 0 && w.Arch.CPU() != "i386" { // 32-bit UEFI has no Secure Boot to speak of
			list = append(list, Fault(Warning, "chain-unsigned", "it boots where Secure Boot is off; rescuebox image show "+l.Image.Name,
				"%s of %s is not signed: with Secure Boot %s does not start it", l.File.Name, l.Image.Name, w.Machine.Name)...)
		}
	}
	grub := signersOf(w, func(l boot.Link) bool { return l.Stage == "loader" && strings.HasPrefix(l.File.Name, "grub") })
	kernel := signersOf(w, func(l boot.Link) bool { return l.Stage == "kernel" })
	if len(grub) > 0 && len(kernel) > 0 && !slices.ContainsFunc(grub, func(s string) bool { return slices.Contains(kernel, s) }) {
		list = append(list, Fault(Warning, "chain-signers-differ", "take shim, GRUB and kernel of one distribution",
			"GRUB is signed by %s and the kernel of %s by %s: with Secure Boot shim lets GRUB start only what its own vendor signed",
			strings.Join(grub, ", "), w.Image.Name, strings.Join(kernel, ", "))...)
	}
	return list
}

func signersOf(w boot.Way, is func(boot.Link) bool) []string {
	if i := slices.IndexFunc(w.Links, is); i >= 0 {
		return w.Links[i].File.Signers
	}
	return nil
}

// compact leaves out findings that say the same.
func compact(list []Finding) (out []Finding) {
	for _, f := range list {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}
