// Package escrow keeps a message for a recipient who can't be reached by any sealed way, and sends him a notice with a
// link instead. He fetches the message with a browser (package portal) after he proved who he is.
//
// [New] makes the [securemail.Encryptor] for [securemail.MethodEscrow]. Its Encrypt deposits the message and gives the
// notice; its Undo destroys the deposit. [Escrow.Find] is for the portal. [Escrow.Run] destroys what has expired, and is
// run by the Mailer where the Escrow is among Config.Encryptors.
//
// # Who may read
//
// The link is a locator: it finds a deposit and opens nothing. What opens it is chosen by the Choice's Profile:
//
//	profile          what the recipient must give
//	"" (default)     one of the factors on file (access code, answer to a question); without any, a code that is mailed
//	"code-by-mail"   a mailed code, or one of the factors on file
//	"code"           the access code; without one on file: held
//	"question"       the answer; without one on file: held
//
// A mailed code needs a route that meets [securemail.ChannelEncrypted]. Where the Prober says that there is none and no
// factor is on file, Encrypt answers ErrHold; where the route is not known right now, a temporary error. An access code
// has at least 6 characters (OWASP ASVS 5.0 item 6.5.4 asks for 20 bits), else it counts as none.
//
// # Security properties
//
// Message, recipient, subject and factors lie sealed under a data key of the deposit's own, wrapped under the KeyRing
// scopes [TenantScope], [DepositScope] and one [SubjectScope] each: losing any one destroys the deposit. Factors are
// kept as argon2id over a keyed hash, inside that seal. The locator is derived from the data key and stored as a hash.
// In clear are: parcel id, tenant id, state and times. The notice is built from a fixed template: no word of the
// message, no subject, no name of sender or recipient, only the brand and the sender's domain. Errors, events' details
// and logs hold ids only.
//
// # What it does not do
//
// Split keys, reminders, secure reply, large attachments outside the database, and factors that need another channel
// (SMS, passkey, OIDC) are not built yet; a Profile that names one is held.
package escrow

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// Limits of this form.
const (
	// DefaultExpiry is how long a deposit can be fetched where the Slip's AccessUntil is zero.
	DefaultExpiry = 30 * 24 * time.Hour
	// MaxSize bounds a deposited message, in octets: it lies in the database.
	MaxSize = 64 << 20
)

// Brand is what the notice and the pages say about who runs the service. It must hold no PHI.
type Brand struct {
	// Name is at most 80 characters of one line; empty: the sender's domain in the notice, "Secure message" on pages.
	Name string
}

// Options of New; each zero value is the strictest.
type Options struct {
	// BaseURL is where the portal is reached from outside, such as "https://mail.example.org" or with a path; required.
	// The locator link is BaseURL + "/m/" + locator.
	BaseURL string
	// InsecureLoopback allows http for a BaseURL whose host is a loopback address or localhost: demos and tests.
	InsecureLoopback bool
	Brand            Brand
	// Expiry is how long a deposit can be fetched where Slip.AccessUntil is zero; 0: DefaultExpiry.
	Expiry time.Duration
	// Prober says whether a mailed code could leave at ChannelEncrypted. Nil: recipients without a factor are held.
	Prober securemail.Prober
	// Outbox takes the events "deposited", "read", "deposit.revoked" and "deposit.expired", in the transaction that makes
	// them true; it must lie in the same database, or ignore the transaction. Nil: no events.
	Outbox securemail.Outbox
	// Authorizer is asked for "destroy" by Revoke and for "read.deposit" by Deposit.Open where the Actor is not the
	// recipient. Nil: the role "admin" in the deposit's tenant.
	Authorizer securemail.Authorizer
	// Now nil: time.Now. Logger nil: slog.Default().
	Now    func() time.Time
	Logger *slog.Logger
}

// Escrow is the Encryptor for securemail.MethodEscrow. It is safe for concurrent use.
type Escrow struct {
	db     *sql.DB
	sql    *sqldb.DB
	ring   securemail.KeyRing
	base   *url.URL
	o      Options
	pepper []byte
	slow   *slowHash
	decoy  *row
}

var (
	_ securemail.Encryptor = (*Escrow)(nil)
	_ securemail.Runner    = (*Escrow)(nil)
)

// New makes the tables where they are missing and checks the options; every fault is named at once. It keeps db and
// ring and closes neither. It draws one secret per database, wrapped under the scope "escrow/pepper": destroying that
// scope makes every factor on file unusable.
func New(ctx context.Context, db *sql.DB, ring securemail.KeyRing, o *Options) (*Escrow, error) {
	if o == nil {
		o = &Options{}
	}
	base, err := baseURL(o.BaseURL, o.InsecureLoopback)
	if err := errors.Join(err, o.check(), required(db, ring)); err != nil {
		return nil, err
	}
	d, err := sqldb.Of(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("escrow: database: %w", err)
	}
	if err := d.Migrate(ctx, "escrow", migrations); err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}
	e := &Escrow{db: db, sql: d, ring: ring, base: base, o: o.defaults(), slow: newSlowHash()}
	if e.pepper, err = e.loadPepper(ctx); err != nil {
		return nil, err
	}
	if e.decoy, err = e.makeDecoy(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

func required(db *sql.DB, ring securemail.KeyRing) error {
	var faults []error
	if db == nil {
		faults = append(faults, errors.New("escrow: no database"))
	}
	if ring == nil {
		faults = append(faults, errors.New("escrow: no key ring"))
	}
	return errors.Join(faults...)
}

func (o *Options) check() error {
	var faults []error
	n := o.Brand.Name
	if utf8.RuneCountInString(n) > 80 || !utf8.ValidString(n) || strings.ContainsFunc(n, notShown) {
		faults = append(faults, errors.New("escrow: brand name must be one line of at most 80 characters"))
	}
	if o.Expiry < 0 {
		faults = append(faults, errors.New("escrow: negative expiry"))
	}
	return errors.Join(faults...)
}

func notShown(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029
}

func (o Options) defaults() Options {
	if o.Expiry == 0 {
		o.Expiry = DefaultExpiry
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func baseURL(s string, insecure bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("escrow: base URL does not parse")
	case u.Host == "" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("escrow: base URL must be scheme, host and perhaps a path")
	case u.RawPath != "" || strings.ContainsAny(u.Path, " {}\\\"'<>;,") || strings.Contains(u.Path, "//") ||
		strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./"):
		return nil, errors.New("escrow: base URL has a path that can't be mounted")
	case u.Scheme == "https":
	case u.Scheme == "http" && insecure && loopback(u.Hostname()):
	default:
		return nil, errors.New("escrow: base URL must be https (http on loopback with InsecureLoopback)")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Method is securemail.MethodEscrow.
func (e *Escrow) Method() securemail.Method { return securemail.MethodEscrow }

// BaseURL returns a copy of the checked base URL, without a slash at its end.
func (e *Escrow) BaseURL() *url.URL { u := *e.base; return &u }

// Brand returns the brand.
func (e *Escrow) Brand() Brand { return e.o.Brand }

// DB is the database that the deposits lie in; the portal keeps its state there too.
func (e *Escrow) DB() *sql.DB { return e.db }

// Link is the locator link that the notice carries.
func (e *Escrow) Link(l Locator) string { return e.base.String() + "/m/" + string(l) }

// Pseudonym is a keyed hash of parts, for tables that must recognise a value without holding it. Equal parts give equal
// pseudonyms as long as the database lives.
func (e *Escrow) Pseudonym(parts ...string) []byte {
	h := hmac.New(sha256.New, e.pepper)
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum(nil)
}

// loadPepper reads the database's secret, or draws it; of several processes that start at once the first one wins.
func (e *Escrow) loadPepper(ctx context.Context) ([]byte, error) {
	wrapped, err := e.storedPepper(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		if wrapped, err = e.ring.Wrap(ctx, seal.NewKey(), pepperScope); err != nil {
			return nil, fmt.Errorf("escrow: wrap secret: %w", err)
		}
		if err := e.insertPepper(ctx, wrapped); err != nil {
			return nil, err
		}
		wrapped, err = e.storedPepper(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("escrow: read secret: %w", err)
	}
	key, err := e.ring.Unwrap(ctx, wrapped)
	if err != nil {
		return nil, fmt.Errorf("escrow: unwrap secret: %w", err)
	}
	return key, nil
}

// makeDecoy is the deposit that a look-up of an unknown locator works on, so that it costs what a known one costs.
func (e *Escrow) makeDecoy(ctx context.Context) (*row, error) {
	a, err := securemail.ParseAddress("nobody@example.invalid")
	if err != nil {
		return nil, err
	}
	id := newID(e.o.Now())
	rec := &record{Version: recordVersion, Salt: newSalt(), Slip: securemail.Slip{Recipient: securemail.Contact{Address: a}}}
	_, wrapped, head, err := e.sealHead(ctx, id, rec, decoyScope)
	if err != nil {
		return nil, err
	}
	return &row{id: id, state: stateOpen, wrapped: wrapped, head: head}, nil
}
