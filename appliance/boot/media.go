package boot

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
)

// mediaDir is where a machine's controller finds the disk of an order. It asks
// from an address of its own, and verifies no certificate, so that the path is what
// nobody can guess; it is no token: controllers show it to whoever may look.
const mediaDir = "media/"

// MediaPath is where a machine's controller finds the image of its open order as
// one disk, which boots without a network boot (virtual media).
func (t *Table) MediaPath(orderID string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() {
		return "", &Refusal{Reason: "no open order " + orderID}
	}
	m, _ := t.findNameLocked(o.Machine)
	if len(m.MACs) == 0 {
		return "", &Refusal{Reason: fmt.Sprintf("%s has no MAC, by which its disk would be made", o.Machine), Hint: "name the machine's mac"}
	}
	img, err := t.bootable(o.Image)
	if err == nil {
		img, err = t.variantLocked(m, img, o.CPU)
	}
	switch {
	case err != nil:
		return "", err
	case img.ISO == nil:
		return "", &Refusal{Reason: fmt.Sprintf("%s cannot be virtual media: the image has no ISO", img.Name), Hint: "rescuebox image build rescue makes one that has"}
	}
	return mediaDir + mediaKey(o.Token) + "/" + img.ISO.File, nil
}

// mediaKey is what stands for an order's token in a path that others see.
func mediaKey(token string) string {
	sum := sha256.Sum256([]byte("virtual media of " + token))
	return hex.EncodeToString(sum[:16])
}

// openMedia opens the disk of an open order by its path.
func (t *Table) openMedia(rest string) (*File, error) {
	key, name, _ := strings.Cut(rest, "/")
	m, ok := t.machineByMediaKey(key)
	if !ok {
		return nil, &Refusal{Reason: "the path belongs to no open order", Hint: "rescuebox boot MACHINE rescue --via media"}
	}
	d, err := t.Decide(Client{MAC: m.MACs[0], Arch: UnknownArch})
	if err != nil {
		return nil, err
	}
	if d.Image.ISO == nil || !strings.EqualFold(name, d.Image.ISO.File) {
		return nil, &Refusal{Reason: fmt.Sprintf("%s has no virtual media %q", d.Image.Name, name)}
	}
	f, err := t.openImageFile(d, m.MACs[0], d.Image, d.Image.ISO.File)
	if err != nil {
		t.tellRefused(d, m.MACs[0], err)
		return nil, err
	}
	f.Decision = d
	t.begin(d.Order.ID)
	t.tellStart(f, m.MACs[0])
	return f, nil
}

func (t *Table) machineByMediaKey(key string) (Machine, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.open {
		if subtle.ConstantTimeCompare([]byte(mediaKey(o.Token)), []byte(key)) == 1 {
			m, ok := t.findNameLocked(o.Machine)
			return m, ok && len(m.MACs) > 0
		}
	}
	return Machine{}, false
}
