package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

// Token is an admin's token as it is stored: without the secret.
//
// A token reads rbx_ID_SECRET. The secret is 256 random bits, so its plain
// SHA-256 is enough: there is no dictionary to try, and a slow hash, which protects
// passwords that people choose, would only let strangers burn our processor.
type Token struct {
	ID      string    `json:"id"`   // 8 hexadecimal digits
	Name    string    `json:"name"` // whose it is
	Role    api.Role  `json:"role"`
	Hash    string    `json:"hash"` // SHA-256 of the secret, hexadecimal
	By      string    `json:"by"`   // who made it
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Tokens keeps tokens; state.Table[Token] does. A revoked token is deleted: the
// audit log remembers it.
type Tokens interface {
	Put(key string, t Token) error
	Delete(key string) error
	All() ([]Token, error)
}

// Bounds of a token's life.
const (
	defaultTokenTTL = 90 * 24 * time.Hour
	maxTokenTTL     = 3 * 366 * 24 * time.Hour
	maxTokens       = 256
)

const tokenPrefix = "rbx_"

// keyring holds the tokens in memory, so that a stranger's guesses cost no
// reading of the disk; the store is written first.
type keyring struct {
	store Tokens

	mu   sync.Mutex
	byID map[string]Token
}

// loadKeyring reads the tokens. Those that cannot be read open nothing; the
// others, and the socket, must work all the same.
func loadKeyring(store Tokens, log *zap.Logger) *keyring {
	all, err := store.All()
	if err != nil {
		log.Error("some tokens cannot be read; make new ones with rescuebox token create", zap.NamedError("err", err))
	}
	k := &keyring{store: store, byID: map[string]Token{}}
	for _, t := range all {
		k.byID[t.ID] = t
	}
	return k
}

// check finds the token that a secret text belongs to, expired ones too. It takes
// as long for a wrong secret as for a right one.
func (k *keyring) check(text string) (Token, bool) {
	id, secret, _ := strings.Cut(strings.TrimPrefix(text, tokenPrefix), "_")
	k.mu.Lock()
	t := k.byID[id]
	k.mu.Unlock()
	ok := subtle.ConstantTimeCompare([]byte(hashSecret(secret)), []byte(t.Hash)) == 1
	return t, ok && strings.HasPrefix(text, tokenPrefix)
}

// alive reports whether a token is still there and not expired.
func (k *keyring) alive(id string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.byID[id]
	return ok && now.Before(t.Expires)
}

// create makes and stores a token and returns it with its secret text.
func (k *keyring) create(name, by string, role api.Role, ttl time.Duration, now time.Time) (Token, string, error) {
	id, secret := make([]byte, 4), make([]byte, 32)
	rand.Read(id) // never fails: crypto/rand ends the program instead
	rand.Read(secret)
	text := base64.RawURLEncoding.EncodeToString(secret)
	t := Token{ID: hex.EncodeToString(id), Name: name, Role: role, Hash: hashSecret(text), By: by,
		Created: now.UTC(), Expires: now.Add(ttl).UTC()}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.byID) >= maxTokens {
		return Token{}, "", conflict("there are %d tokens already", maxTokens).hint("revoke those that nobody uses: rescuebox token list")
	}
	if _, taken := k.byID[t.ID]; taken {
		return Token{}, "", conflict("the new token's id is taken").hint("try again")
	}
	if err := k.store.Put(t.ID, t); err != nil {
		return Token{}, "", fmt.Errorf("store the token: %w", err)
	}
	k.byID[t.ID] = t
	return t, tokenPrefix + t.ID + "_" + text, nil
}

// revoke deletes a token.
func (k *keyring) revoke(id string) (Token, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.byID[id]
	if !ok {
		return Token{}, false, nil
	}
	if err := k.store.Delete(id); err != nil {
		return t, true, fmt.Errorf("delete the token: %w", err)
	}
	delete(k.byID, id)
	return t, true, nil
}

// list is all tokens, by name and age.
func (k *keyring) list() []Token {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.SortedFunc(maps.Values(k.byID), func(a, b Token) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.Created.Compare(b.Created)
	})
}

// hashSecret is what is stored of a secret.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
