package power

import (
	"bytes"
	"crypto/md5"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/jcmturner/gokrb5/v8/iana/chksumtype"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// SPNEGO and Kerberos by their numbers (RFC 4178 §3.2, RFC 4121 §4.1).
var (
	spnegoID   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 2}
	kerberosID = asn1.ObjectIdentifier{1, 2, 840, 113554, 1, 2, 2}
)

// The contexts of messages (RFC 4121 §4.1).
const (
	tokenAPReq = "\x01\x00"
	tokenAPRep = "\x02\x00"
	tokenError = "\x03\x00"
)

// login is one proof of who we are, and what the proof of the other side must say.
type login struct {
	*kerberos
	token []byte
	made  types.Authenticator
}

// prove makes a proof for one request, bound to a channel (RFC 4121 §4.1.1); the other
// side shall prove itself, too.
func (k *kerberos) prove(binding []byte) (login, error) {
	made, err := types.NewAuthenticator(k.realm, k.name())
	if err != nil {
		return login{}, err
	}
	sum := append([]byte{16, 0, 0, 0}, bound(binding)...)
	made.Cksum = types.Checksum{CksumType: chksumtype.GSSAPI, Checksum: binary.LittleEndian.AppendUint32(sum, 0x02|0x20)} // mutual, integrity
	request, err := messages.NewAPReq(k.ticket, k.key, made)
	if err != nil {
		return login{}, err
	}
	types.SetFlag(&request.APOptions, flags.APOptionMutualRequired)
	text, err := request.Marshal()
	if err != nil {
		return login{}, err
	}
	token, err := greeting(append([]byte(tokenAPReq), text...))
	return login{k, token, made}, err
}

// bound is what ties a login to a channel: the sum of a gss_channel_bindings_struct
// (RFC 2744 §3.11) without addresses.
func bound(binding []byte) []byte {
	if binding == nil {
		return make([]byte, md5.Size)
	}
	text := binary.LittleEndian.AppendUint32(make([]byte, 16), uint32(len(binding)))
	sum := md5.Sum(append(text, binding...))
	return sum[:]
}

// greeting is a NegTokenInit (RFC 4178 §4.2.1) that offers Kerberos only.
func greeting(inner []byte) ([]byte, error) {
	token, err := frame(kerberosID, inner)
	if err != nil {
		return nil, err
	}
	text, err := asn1.MarshalWithParams(struct {
		Ways  []asn1.ObjectIdentifier `asn1:"explicit,tag:0"`
		Token []byte                  `asn1:"explicit,tag:2"`
	}{[]asn1.ObjectIdentifier{kerberosID}, token}, "")
	if err != nil {
		return nil, err
	}
	if text, err = asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: text}); err != nil {
		return nil, err
	}
	return frame(spnegoID, text)
}

// frame is the frame of a first token (RFC 2743 §3.1).
func frame(id asn1.ObjectIdentifier, inner []byte) ([]byte, error) {
	name, err := asn1.Marshal(id)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, IsCompound: true, Bytes: append(name, inner...)})
}

var errToken = errors.New("its answer to the Kerberos login is malformed")

// unwrapped takes Kerberos' message out of a NegTokenResp (RFC 4178 §4.2.2), or out of
// its own frame where a peer leaves SPNEGO away.
func unwrapped(token []byte) ([]byte, error) {
	var answer struct {
		State asn1.Enumerated       `asn1:"explicit,optional,tag:0"`
		Way   asn1.ObjectIdentifier `asn1:"explicit,optional,tag:1"`
		Token []byte                `asn1:"explicit,optional,tag:2"`
		MIC   []byte                `asn1:"explicit,optional,tag:3"`
	}
	if _, err := asn1.UnmarshalWithParams(token, &answer, "explicit,tag:1"); err == nil {
		token = answer.Token
	}
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(token, &outer); err != nil || outer.Class != asn1.ClassApplication || outer.Tag != 0 {
		return nil, errToken
	}
	var id asn1.ObjectIdentifier
	inner, err := asn1.Unmarshal(outer.Bytes, &id)
	if err != nil {
		return nil, errToken
	}
	return inner, nil
}

// accepted reads the other side's proof, without which it may be anybody.
func (l login) accepted(a answer) error {
	inner, err := kerberosOf(a)
	var refusal messages.KRBError
	reason, refused := bytes.CutPrefix(inner, []byte(tokenError))
	switch refused = refused && errors.As(read(reason, &messages.APRep{}), &refusal); {
	case refused && refusal.ErrorCode != errorcode.KRB_ERR_GENERIC:
		return l.inWords(refusal)
	case a.code == http.StatusUnauthorized:
		return fmt.Errorf("%w: it answers 401 to the ticket for %s: the user may not log in remotely, or somebody stands in between", ErrSystemRefused, strings.Join(l.service.NameString, "/"))
	}
	if err := accepted(a); err != nil {
		return err
	}
	proof, found := bytes.CutPrefix(inner, []byte(tokenAPRep))
	if err != nil || !found {
		return fmt.Errorf("%w: it does not prove that it is %s", ErrSystemUnable, l.service.NameString[1])
	}
	return l.inWords(l.verify(proof))
}

// verify checks an AP-REP: only who could open the ticket knows what time we wrote into it (RFC 4120 §3.2.5).
func (l login) verify(proof []byte) error {
	var reply messages.APRep
	var part messages.EncAPRepPart
	if err := read(proof, &reply); err != nil {
		return err
	}
	if err := unlock(reply.EncPart, l.key, keyusage.AP_REP_ENCPART, &part); err != nil || part.CTime.Unix() != l.made.CTime.Unix() || part.Cusec != l.made.Cusec {
		return fmt.Errorf("%w: its proof that it is %s is forged", ErrSystemUnable, l.service.NameString[1])
	}
	return nil
}

// kerberosOf is Kerberos' message in an answer's headers.
func kerberosOf(a answer) ([]byte, error) {
	for _, way := range a.header.Values("WWW-Authenticate") {
		if text, found := strings.CutPrefix(way, "Negotiate "); found {
			token, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
			if err != nil {
				return nil, errToken
			}
			return unwrapped(token)
		}
	}
	return nil, errToken
}
