package encrypttest

import (
	"context"
	"log/slog"

	"github.com/postseal/postseal/securemail"
)

// Harness says how to build the Encryptor that the kit tests.
type Harness struct {
	// New builds a fresh Encryptor and what belongs to it, with keys that no other Rig has. ctx ends with the case.
	New func(ctx context.Context, s Setup) (*Rig, error)
}

// Setup is what the kit asks of [Harness.New].
type Setup struct {
	// Tenant, Sender and Recipient are those of the kit's mail. The addresses hold canaries.
	Tenant            string
	Sender, Recipient securemail.Contact
	// Logger must be given to the Encryptor and all it uses.
	Logger *slog.Logger
}

// Rig is an Encryptor and what belongs to it.
type Rig struct {
	Encryptor securemail.Encryptor
	// Keys are the recipient's, usable ones; nil: the method needs none, and the cases about keys are skipped.
	Keys []securemail.Key
	// Unusable are keys of the method that must be refused, by what is wrong with them ("expired", "weak", ...). The kit adds
	// broken octets of its own.
	Unusable map[string]securemail.Key
	// Factors and Profile go into the Job. Values of 8 octets and more are looked for where no access code may be.
	Factors []securemail.Factor
	Profile string
	// Open does what the recipient does with what left, and gives the original. It is called from several goroutines.
	Open func(ctx context.Context, m *securemail.Message) (*securemail.Message, error)
	// Left counts what Encrypt left behind for a parcel; nil: it leaves nothing.
	Left func(ctx context.Context, id securemail.ParcelID) (int, error)
	// Plain says that the method leaves the message as it is, as TLS does.
	Plain bool
	// Notice says that a mail of its own leaves, which stands for the message, as escrow's does. Its header is not
	// encrypt.Outer's but shows no more than Date, From, To with the recipient alone and without his name, Subject,
	// Message-ID, Auto-Submitted and the fields of MIME.
	Notice bool
	// Close ends the rig; nil: nothing to do.
	Close func()
}

// KeyHarness says how to build the KeySource that the kit tests.
type KeyHarness struct {
	// New builds a fresh KeySource in the state that s asks for. An error that Is [errors.ErrUnsupported] says that the source
	// can't be in it; KeyFound, KeyNone and one of KeyDead and KeyDamaged are required. ctx ends with the case.
	New func(ctx context.Context, s KeySetup) (*KeyRig, error)
}

// KeyState is the state that a KeySource is asked about.
type KeyState string

const (
	// KeyFound: it has at least one key for Lookup.
	KeyFound KeyState = "found"
	// KeyNone: it has keys for Other, none for Lookup.
	KeyNone KeyState = "none"
	// KeyDead: its store or network does not answer.
	KeyDead KeyState = "dead"
	// KeyDamaged: what it has for Lookup can't be read any more.
	KeyDamaged KeyState = "damaged"
	// KeyPending: a changed key for Lookup waits for approval.
	KeyPending KeyState = "pending"
)

// KeySetup is what the kit asks of [KeyHarness.New].
type KeySetup struct {
	State KeyState
	// Lookup is what the kit will ask. Its tenant is its own: another tenant has no key for the address.
	Lookup securemail.Lookup
	// Other is another address of the same domain.
	Other securemail.Address
	// Logger must be given to the source and all it uses.
	Logger *slog.Logger
}

// KeyRig is a KeySource.
type KeyRig struct {
	Source securemail.KeySource
	// SharedTenants says that the source knows no tenants, such as a public directory: the case about them is skipped.
	SharedTenants bool
	// Close ends the rig; nil: nothing to do.
	Close func()
}
