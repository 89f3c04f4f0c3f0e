package power

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// kerberos logs in by Kerberos version 5 (RFC 4120) with a password, in the user's own realm.
// What a KDC says before it has proven that it knows the password is believed within bounds:
// AES only, and no less and not much more work for the key than is usual.
type kerberos struct {
	user, realm, password string
	kdcs                  kdcs
	service               types.PrincipalName

	ticket messages.Ticket // for the service
	key    types.EncryptionKey
}

// ciphers are those of every Windows since 2008. RC4 is none: what it encrypts lets a
// password be guessed.
var ciphers = []int32{etypeID.AES256_CTS_HMAC_SHA1_96, etypeID.AES128_CTS_HMAC_SHA1_96}

// Rounds of hashing that make a password a key: the usual ones (RFC 3962 §4), and the most
// that are done for a KDC, about a second's. It may ask for 2³².
const (
	minRounds = 4096
	maxRounds = 1 << 20
)

// newKerberos is for user@REALM and the remoting of a host.
func newKerberos(user, password, host string, centres []string) (*kerberos, error) {
	name, realm, _ := strings.Cut(user, "@")
	if name == "" || realm == "" {
		return nil, fmt.Errorf("%w: Kerberos wants the user with the realm: rescue@EXAMPLE.ORG", ErrSystemUnable)
	}
	return &kerberos{user: name, realm: realm, password: password, kdcs: slices.Clone(centres),
		service: types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"HTTP", strings.ToLower(host)}}}, nil
}

// settings are what requests are made of; no krb5.conf is read.
func settings() *config.Config {
	return &config.Config{LibDefaults: config.LibDefaults{DefaultTktEnctypeIDs: ciphers, DefaultTGSEnctypeIDs: ciphers,
		TicketLifetime: 10 * time.Minute, NoAddresses: true, KDCDefaultOptions: types.NewKrbFlags()}}
}

func (k *kerberos) name() types.PrincipalName {
	return types.PrincipalName{NameType: nametype.KRB_NT_PRINCIPAL, NameString: []string{k.user}}
}

// login gets the ticket for the service.
func (k *kerberos) login(ctx context.Context) error {
	tgt, key, err := k.initial(ctx)
	if err == nil {
		err = k.forService(ctx, tgt, key)
	}
	return k.inWords(err)
}

// initial gets the ticket that gets tickets (RFC 4120 §3.1).
func (k *kerberos) initial(ctx context.Context) (messages.Ticket, types.EncryptionKey, error) {
	request, err := messages.NewASReqForTGT(k.realm, settings(), k.name())
	if err != nil {
		return messages.Ticket{}, types.EncryptionKey{}, err
	}
	var reply messages.ASRep
	var key types.EncryptionKey
	err = k.ask(ctx, &request, &reply)
	if refusal := (messages.KRBError{}); errors.As(err, &refusal) && refusal.ErrorCode == errorcode.KDC_ERR_PREAUTH_REQUIRED {
		if key, err = k.hints(refusal.EData); err != nil {
			return reply.Ticket, key, err
		}
		if request.PAData, err = stamp(key); err != nil {
			return reply.Ticket, key, err
		}
		err = k.ask(ctx, &request, &reply)
	}
	if err != nil {
		return reply.Ticket, key, err
	}
	// Where the KDC wants no proof beforehand, its hints come with the ticket.
	if key.KeyValue == nil {
		if key, err = k.derive(reply.PAData); err != nil {
			return reply.Ticket, key, err
		}
	}
	part, err := k.unlocked(reply.KDCRepFields, key, keyusage.AS_REP_ENCPART, request.KDCReqFields)
	return reply.Ticket, part.Key, err
}

// forService gets the service's ticket (RFC 4120 §3.3).
func (k *kerberos) forService(ctx context.Context, tgt messages.Ticket, key types.EncryptionKey) error {
	request, err := messages.NewTGSReq(k.name(), k.realm, settings(), tgt, key, k.service, false)
	if err != nil {
		return err
	}
	var reply messages.TGSRep
	if err := k.ask(ctx, &request, &reply); err != nil {
		return err
	}
	part, err := k.unlocked(reply.KDCRepFields, key, keyusage.TGS_REP_ENCPART_SESSION_KEY, request.KDCReqFields)
	k.ticket, k.key = reply.Ticket, part.Key
	return err
}

// ask sends a request and reads the reply, which may be a refusal.
func (k *kerberos) ask(ctx context.Context, request interface{ Marshal() ([]byte, error) }, reply message) error {
	text, err := request.Marshal()
	if err != nil {
		return err
	}
	answer, err := k.kdcs.ask(ctx, text)
	if err != nil {
		return err
	}
	return read(answer, reply)
}

// hints makes the key as a KDC wants it that asks for a proof first.
func (k *kerberos) hints(text []byte) (types.EncryptionKey, error) {
	var all types.PADataSequence
	if err := guarded(func() error { return all.Unmarshal(text) }); err != nil {
		return types.EncryptionKey{}, err
	}
	return k.derive(all)
}

var (
	errCipher = errors.New("its KDC has no AES key of the user: set the password anew, and allow AES for the account")
	errRounds = errors.New("its KDC wants a password hashed with unusual effort: is it the right one?")
)

// derive makes the password a key by the first of the KDC's ways that are ours (RFC 4120 §5.2.7.5).
func (k *kerberos) derive(all types.PADataSequence) (types.EncryptionKey, error) {
	var ways types.ETypeInfo2
	for _, pa := range all {
		if pa.PADataType == patype.PA_ETYPE_INFO2 {
			if err := guarded(func() error { return ways.Unmarshal(pa.PADataValue) }); err != nil {
				return types.EncryptionKey{}, err
			}
		}
	}
	i := slices.IndexFunc(ways, func(w types.ETypeInfo2Entry) bool { return slices.Contains(ciphers, w.EType) })
	if i < 0 {
		return types.EncryptionKey{}, errCipher
	}
	way, rounds := ways[i], binary.BigEndian.AppendUint32(nil, minRounds)
	if way.S2KParams != nil {
		rounds = way.S2KParams
	}
	if len(rounds) != 4 || binary.BigEndian.Uint32(rounds) < minRounds || binary.BigEndian.Uint32(rounds) > maxRounds {
		return types.EncryptionKey{}, errRounds
	}
	if way.Salt == "" {
		way.Salt = k.name().GetSalt(k.realm)
	}
	cipher, err := crypto.GetEtype(way.EType)
	if err != nil {
		return types.EncryptionKey{}, err
	}
	value, err := cipher.StringToKey(k.password, way.Salt, hex.EncodeToString(rounds))
	return types.EncryptionKey{KeyType: way.EType, KeyValue: value}, err
}

// stamp is the time, encrypted: who can do that knows the password (RFC 4120 §5.2.7.2).
func stamp(key types.EncryptionKey) (types.PADataSequence, error) {
	now, err := types.GetPAEncTSEncAsnMarshalled()
	if err != nil {
		return nil, err
	}
	sealed, err := crypto.GetEncryptedData(now, key, keyusage.AS_REQ_PA_ENC_TIMESTAMP, 0)
	if err != nil {
		return nil, err
	}
	text, err := sealed.Marshal()
	return types.PADataSequence{{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: text}}, err
}

// errPassword is a ticket that our key does not open.
var errPassword = errors.New("user or password is wrong, or it is not the realm's KDC that answers")

// unlocked decrypts a reply and checks that it is what was asked for (RFC 4120 §3.1.5, §3.3.4).
func (k *kerberos) unlocked(reply messages.KDCRepFields, key types.EncryptionKey, usage uint32, asked messages.KDCReqFields) (messages.EncKDCRepPart, error) {
	var part messages.EncKDCRepPart
	if reply.EncPart.EType != key.KeyType {
		return part, errPassword
	}
	if err := unlock(reply.EncPart, key, usage, &part); err != nil {
		return part, errPassword
	}
	want := asked.ReqBody.SName.NameString
	if part.Nonce != asked.ReqBody.Nonce || part.SRealm != k.realm || !slices.Equal(part.SName.NameString, want) ||
		reply.Ticket.Realm != k.realm || !slices.Equal(reply.Ticket.SName.NameString, want) ||
		reply.CRealm != k.realm || !slices.Equal(reply.CName.NameString, []string{k.user}) || !slices.Contains(ciphers, part.Key.KeyType) {
		return part, fmt.Errorf("%w: its KDC gives another ticket than was asked for (%s of %s)", ErrSystemUnable,
			plain(strings.Join(part.SName.NameString, "/")), plain(part.SRealm))
	}
	return part, nil
}

// message is one of the library's.
type message interface{ Unmarshal([]byte) error }

// unlock decrypts a part of a message.
func unlock(sealed types.EncryptedData, key types.EncryptionKey, usage uint32, into message) error {
	return guarded(func() error {
		text, err := crypto.DecryptEncPart(sealed, key, usage)
		if err != nil {
			return err
		}
		return into.Unmarshal(text)
	})
}

// inWords says what a KDC or a service has refused, and what it counts as.
func (k *kerberos) inWords(err error) error {
	var r messages.KRBError
	switch {
	case err == nil || errors.Is(err, ErrSystemUnable) || errors.Is(err, ErrSystemSilent):
		return err
	case errors.Is(err, errPassword):
		return fmt.Errorf("%w: Kerberos: %w", ErrSystemRefused, err)
	case !errors.As(err, &r):
		return fmt.Errorf("%w: Kerberos: %w", ErrSystemUnable, err)
	}
	service := strings.Join(k.service.NameString, "/")
	switch r.ErrorCode {
	case errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN:
		return fmt.Errorf("%w: realm %s has no user %s", ErrSystemRefused, k.realm, k.user)
	case errorcode.KDC_ERR_PREAUTH_FAILED:
		return fmt.Errorf("%w: the password of %s@%s is wrong", ErrSystemRefused, k.user, k.realm)
	case errorcode.KDC_ERR_CLIENT_REVOKED, errorcode.KDC_ERR_NAME_EXP:
		return fmt.Errorf("%w: %s@%s is locked, disabled or has expired", ErrSystemRefused, k.user, k.realm)
	case errorcode.KDC_ERR_KEY_EXPIRED:
		return fmt.Errorf("%w: the password of %s@%s has expired", ErrSystemRefused, k.user, k.realm)
	case errorcode.KDC_ERR_POLICY:
		return fmt.Errorf("%w: %s@%s may not log in from here or now", ErrSystemRefused, k.user, k.realm)
	case errorcode.KRB_AP_ERR_SKEW, errorcode.KRB_AP_ERR_TKT_NYV, errorcode.KRB_AP_ERR_TKT_EXPIRED, errorcode.KDC_ERR_NEVER_VALID:
		return fmt.Errorf("%w: the clocks differ by more than Kerberos allows (5 minutes): there it is %s, here %s; set the wrong one", ErrSystemUnable,
			r.STime.UTC().Format(time.DateTime), time.Now().UTC().Format(time.DateTime))
	case errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN:
		return fmt.Errorf("%w: realm %s has no service %s: write host as the machine is called in its domain", ErrSystemUnable, k.realm, service)
	case errorcode.KDC_ERR_ETYPE_NOSUPP:
		return fmt.Errorf("%w: %w", ErrSystemUnable, errCipher)
	case errorcode.KDC_ERR_WRONG_REALM:
		return fmt.Errorf("%w: %s is not this KDC's realm: write it as the domain does, mostly in capitals", ErrSystemUnable, k.realm)
	case errorcode.KRB_AP_ERR_BAD_INTEGRITY, errorcode.KRB_AP_ERR_MODIFIED, errorcode.KRB_AP_ERR_NOKEY, errorcode.KRB_AP_ERR_BADKEYVER, errorcode.KRB_AP_ERR_NOT_US:
		return fmt.Errorf("%w: it cannot open the ticket for %s: that name belongs to another machine or account", ErrSystemUnable, service)
	}
	return fmt.Errorf("%w: Kerberos error %d: %q", ErrSystemUnable, r.ErrorCode, plain(r.EText))
}
