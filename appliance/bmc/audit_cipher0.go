package bmc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
)

// A session of cipher suite 0 has no authentication, no integrity and no encryption: this is all of
// it. The password does not come into it, so that none can be wrong and count against an account.

// console is our number of the session.
const console = 0x786f6272

// unprotected is a session of cipher suite 0 that was agreed upon (section 13.17).
type unprotected struct {
	*prober
	session  uint32 // the controller's number
	sequence uint32
}

var errNotTaken = errors.New("it was not taken")

// openUnprotected asks for such a session; false is that it is refused, or that other
// algorithms are offered in their place.
func (p *prober) openUnprotected(ctx context.Context) (*unprotected, bool) {
	request := binary.LittleEndian.AppendUint32([]byte{0, 0, 0, 0}, console)
	for kind := range byte(3) { // authentication, integrity, encryption: none
		request = append(request, kind, 0, 0, 8, 0, 0, 0, 0)
	}
	body, ok := p.step(ctx, stepOpen, request)
	if !ok || len(body) < 36 || body[16]&0x3f != 0 {
		return nil, false
	}
	return &unprotected{prober: p, session: binary.LittleEndian.Uint32(body[8:])}, true
}

// step sends a step towards the session and returns the answer to it, unless that is a refusal.
func (p *prober) step(ctx context.Context, step byte, request []byte) ([]byte, bool) {
	a, ok := p.ask(ctx, plus(step, 0, 0, request), func(a answer) bool { return a.step == step+1 && a.body[0] == request[0] })
	return a.body, ok && a.body[1] == 0
}

// login names a user, and leaves out what would prove anything (sections 13.20 and 13.22).
func (u *unprotected) login(ctx context.Context, user string) bool {
	const byName, level = 0x10, 2 // the level of a user, who may ask for power
	random := make([]byte, 16)
	rand.Read(random)
	name := binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0}, u.session)
	name = append(append(name, random...), byName|level, 0, 0, byte(len(user)))
	if body, ok := u.step(ctx, stepRAKP1, append(name, user...)); !ok || len(body) < 40 {
		return false
	}
	_, ok := u.step(ctx, stepRAKP3, binary.LittleEndian.AppendUint32([]byte{2, 0, 0, 0}, u.session))
	return ok
}

// power asks whether the server has power, in the session.
func (u *unprotected) power(ctx context.Context) (State, error) {
	a, ok := u.command(ctx, functionChassis, cmdPower)
	switch {
	case !ok || a.code != 0 || len(a.data) < 1:
		return Unknown, errNotTaken
	case a.data[0]&1 != 0:
		return On, nil
	}
	return Off, nil
}

func (u *unprotected) command(ctx context.Context, function, cmd byte, data ...byte) (answer, bool) {
	u.sequence++
	return u.ask(ctx, plus(0, u.session, u.sequence, message(function, cmd, data...)), func(a answer) bool { return a.step == 0 && a.cmd == cmd })
}

// close ends the session: a controller has few places.
func (u *unprotected) close(ctx context.Context) {
	u.command(ctx, functionApp, cmdClose, binary.LittleEndian.AppendUint32(nil, u.session)...)
}

// withoutPassword asks for power as a user, without a password.
func (p *prober) withoutPassword(ctx context.Context, user string) (State, error) {
	if len(user) > 16 {
		return Unknown, errNotTaken
	}
	u, ok := p.openUnprotected(ctx)
	if !ok || !u.login(ctx, user) {
		return Unknown, errNotTaken
	}
	defer u.close(ctx)
	return u.power(ctx)
}
