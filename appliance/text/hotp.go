package text

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// The codes' form, and how far ahead they may be: a code is lost with each message that does
// not arrive, and some with every child that plays with the phone.
const (
	digits = 8
	window = 20  // for one code
	resync = 200 // for two in a row
)

// hotp is the code of a counter (RFC 4226, section 5.3), with SHA-256 as in RFC 6238, section 1.2.
func hotp(secret []byte, counter uint64) string {
	h := hmac.New(sha256.New, secret)
	_ = binary.Write(h, binary.BigEndian, counter) // a hash never fails
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, n%1e8)
}

// match finds the counter that codes in a row belong to, and returns the one after the last of them. All of
// the window is compared, so that the time it takes tells nothing.
func match(secret []byte, from uint64, ahead uint64, codes ...string) (next uint64, ok bool) {
	for i := from + ahead; ; i-- {
		same := 1
		for n, code := range codes {
			same &= subtle.ConstantTimeCompare([]byte(hotp(secret, i+uint64(n))), []byte(code))
		}
		if same == 1 {
			next, ok = i+uint64(len(codes)), true
		}
		if i == from {
			return next, ok
		}
	}
}

// used reports whether a code was a right one shortly before: somebody sends it again.
func used(secret []byte, counter uint64, code string) bool {
	back := min(counter, window)
	if back == 0 {
		return false
	}
	_, ok := match(secret, counter-back, back-1, code)
	return ok
}
