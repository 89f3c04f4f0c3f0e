package text

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// record is what is kept of a number, in one file, so that a counter never meets another
// secret than its own. It is in a file and not in the state, which people copy and send around.
type record struct {
	Number  string      `json:"number"`
	Secret  []byte      `json:"secret"`
	Counter uint64      `json:"counter"`         // of the next code
	Seen    []string    `json:"seen,omitempty"`  // the last messages with a right code
	Doing   []string    `json:"doing,omitempty"` // commands whose answer is not on disk yet
	Bad     []time.Time `json:"bad,omitempty"`   // wrong codes
}

const (
	secretSize = 32 // as long as the hash: RFC 4226, section 4, R6 wants 20 for SHA-1's
	maxSeen    = 64
	maxRecord  = 64 << 10
)

// ErrNoSender is the error for a number that is not in the file of the site, or has no secret to forget.
var ErrNoSender = errors.New("no such sender")

// Enroll makes a new secret for a number of the file and returns it as the URI that authenticator apps
// read, mostly from a QR code. Codes of an older one are worth nothing from now on. The URI is the
// secret: it is for one pair of eyes.
func (d *Desk) Enroll(number string) (uri string, err error) {
	d.load.Do(d.restore)
	if number, err = dialled(number); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.byNumber(number)
	if p == nil {
		return "", fmt.Errorf("%w: %q is not in the file of the site: add it with [[text.sender]]", ErrNoSender, number)
	}
	r := &record{Number: number, Secret: make([]byte, secretSize)}
	rand.Read(r.Secret)
	if err := r.write(d.Secrets); err != nil {
		return "", fmt.Errorf("enroll %s: %w", number, err)
	}
	d.dropLocked(p)
	p.record = r
	return r.uri(d.Site), nil
}

// Forget takes the secret of a number away, as of a phone that was lost: nothing counts any more that was not begun,
// and no ticket goes there. A number that is not in the file any more has one, too, which would count again with the
// number back in the file.
func (d *Desk) Forget(number string) error {
	d.load.Do(d.restore)
	number, err := dialled(number)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoSender, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	file := recordFile(d.Secrets, number)
	known := false
	for _, p := range d.people {
		if recordFile(d.Secrets, p.Number) == file { // with or without a plus
			known = p.record != nil
			d.dropLocked(p)
		}
	}
	d.left = slices.DeleteFunc(d.left, func(n string) bool { return recordFile(d.Secrets, n) == file })
	for _, name := range []string{file, file + ".new"} {
		err := os.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no command of %s is followed until the box restarts, but its secret stays on the disk: %w", number, err)
		}
		known = known || err == nil
	}
	if !known {
		return fmt.Errorf("%w: %s has no secret", ErrNoSender, number)
	}
	return syncDir(d.Secrets)
}

// dropLocked takes from a number its secret, and what it ordered that was not begun.
func (d *Desk) dropLocked(p *person) {
	p.record, p.pending = nil, pending{}
	d.jobs = slices.DeleteFunc(d.jobs, func(o order) bool { return o.person == p })
	d.keepSecretLocked(func(number string) bool { return number == p.Number })
}

// keepSecretLocked has what takes a machine over not sent to some numbers.
func (d *Desk) keepSecretLocked(from func(number string) bool) {
	for _, t := range d.texts {
		if t.Private && t.queued && t.State == Waiting && from(t.Number) {
			d.endLocked(t, Failed, "its number may not have it any more")
		}
	}
}

func (d *Desk) byNumber(number string) *person {
	for _, p := range d.people {
		if p.Number == number {
			return p
		}
	}
	return nil
}

// uri is the secret in the form of Google Authenticator's "Key URI Format".
func (r *record) uri(site string) string {
	issuer := "rescuebox " + site
	q := url.Values{"secret": {base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(r.Secret)}, "issuer": {issuer},
		"algorithm": {"SHA256"}, "digits": {fmt.Sprint(digits)}, "counter": {fmt.Sprint(r.Counter)}}
	// Apps take a plus sign for what it is, and not for the space that forms have it for.
	return "otpauth://hotp/" + url.PathEscape(issuer+":"+r.Number) + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// recordFile is where a number's record is. Only digits of it come into the name.
func recordFile(dir, number string) string {
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, number)
	return filepath.Join(dir, "text-"+name+".json")
}

// leftovers are the numbers that have a secret and are not in the file any more.
func (d *Desk) leftovers() (list []string) {
	names, _ := filepath.Glob(filepath.Join(d.Secrets, "text-*.json")) // the pattern is right
	for _, name := range names {
		number := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "text-"), ".json")
		for _, plus := range []string{"+" + number, number} {
			if r, err := readRecord(d.Secrets, plus); err == nil && r != nil && d.byNumber(plus) == nil {
				list = append(list, plus)
			}
		}
	}
	return list
}

// readRecord reads a number's record; nil is none.
func readRecord(dir, number string) (*record, error) {
	f, err := os.Open(recordFile(dir, number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its secret: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, fmt.Errorf("read its secret: %w", err)
	}
	r := &record{}
	// What is wrong with it is not repeated: there is a secret in it.
	if json.Unmarshal(text, r) != nil || r.Number != number || len(r.Secret) < secretSize {
		return nil, fmt.Errorf("%s holds no secret for it: enroll it again", f.Name())
	}
	return r, nil
}

// write brings the record onto the disk, whole or not at all.
func (r *record) write(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store the code's counter: %w", err)
	}
	name := recordFile(dir, r.Number)
	if err := writeFile(name+".new", text); err != nil {
		return fmt.Errorf("store the code's counter: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("store the code's counter: %w", err)
	}
	return syncDir(dir)
}

func writeFile(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o600) // a file that was there keeps its mode
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir brings a rename onto the disk.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("store the code's counter: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("store the code's counter: %w", err)
	}
	return nil
}
