package vpn

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keys are the box's own and those that it shares with its hubs.
type keys struct {
	private, public key
	hubs, preshared []key // by hub
}

// readKeys reads every key that cfg names, and makes the box's own where its file is not
// there yet: the first start.
func readKeys(cfg Config) (keys, error) {
	var k keys
	var err error
	if k.private, err = ownKey(cfg.KeyFile); err != nil {
		return keys{}, err
	}
	if k.public, err = k.private.public(); err != nil {
		return keys{}, fmt.Errorf("read the box's key %s: %w", cfg.KeyFile, err)
	}
	for _, h := range cfg.Hubs {
		public, err := parseKey(h.PublicKey)
		if err != nil {
			return keys{}, fmt.Errorf("read the public key of hub %s: %w", h.Name, err)
		}
		if public == k.public {
			return keys{}, fmt.Errorf("the public key of hub %s is the box's own: give the hub's, as `wg show` prints it there", h.Name)
		}
		var shared key
		if h.PresharedKeyFile != "" {
			if shared, err = readKey(h.PresharedKeyFile); err != nil {
				return keys{}, fmt.Errorf("read the preshared key of hub %s: %w", h.Name, err)
			}
		}
		k.hubs, k.preshared = append(k.hubs, public), append(k.preshared, shared)
	}
	return k, nil
}

// ownKey reads the box's private key. A file that is there but cannot be read is not
// replaced: the hubs know its public half.
func ownKey(file string) (key, error) {
	k, err := readKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return key{}, fmt.Errorf("read the box's key: %w", err)
		}
		return k, nil
	}
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return key{}, fmt.Errorf("make the box's key: %w", err)
	}
	k = key(private.Bytes())
	k[0], k[31] = k[0]&248, k[31]&127|64 // as `wg genkey` prints it; X25519 does the same to what it uses (RFC 7748, section 5)
	if err := writeFile(file, []byte(k.String()+"\n")); err != nil {
		return key{}, fmt.Errorf("keep the box's new key: %w", err)
	}
	return k, nil
}

func readKey(file string) (key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return key{}, err
	}
	k, err := parseKey(strings.TrimSpace(string(text)))
	if err != nil {
		return key{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// parseKey reads a key as wg(8) writes it. Its error never shows it.
func parseKey(s string) (key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(key{}) {
		return key{}, errors.New("that is no WireGuard key: 44 letters of base64, as `wg genkey`, `wg genpsk` or `wg pubkey` prints")
	}
	return key(b), nil
}

// String is the key as wg(8) writes it.
func (k key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// hex is the key as the configuration protocol of WireGuard writes it.
func (k key) hex() string { return hex.EncodeToString(k[:]) }

func (k key) public() (key, error) {
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return key{}, err
	}
	return key(private.PublicKey().Bytes()), nil
}

// readSmall reads a file of the box's own, which are small: a longer one is damaged.
func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// writeFile puts what only the daemon may read into file, whole or not at all, even if the
// power goes: to a neighbour, to the disk, renamed, and the name to the disk.
func writeFile(file string, data []byte) error {
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, ".vpn-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename it is no more
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
