package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/postseal/postseal/securemail/keyring"
)

// VaultOptions configure a Vault. The zero value suits a transit engine mounted at "transit" and a key of its own.
type VaultOptions struct {
	// Mount is where the transit engine is mounted; "": "transit".
	Mount string
	// Namespace is that of Vault Enterprise, HCP or OpenBao; "": none.
	Namespace string
	// Context is the derivation context of a key that was made with derived=true; empty: none is sent.
	Context []byte
	// AssociatedData is bound to what is sealed (Vault 1.9 and later, AEAD keys); empty: none is sent.
	AssociatedData []byte
	Options
}

// Vault is a key of Vault's transit secrets engine (developer.hashicorp.com/vault/api-docs/secret/transit). The version
// that sealed is in the ciphertext ("vault:v3:..."): after a rotation of the key, and keyring's RotateRoot, older versions
// may be archived by min_decryption_version.
type Vault struct {
	c          *client
	mount, key string // in the form of a path
	token      Token
	o          VaultOptions
}

var _ keyring.Root = (*Vault)(nil)

// NewVault returns the key of that name on the server at address ("https://vault.example.org:8200"). The token needs
// "update" on MOUNT/encrypt/KEY and MOUNT/decrypt/KEY, and no "create": with it Vault makes a key that is missing. A nil o is the zero VaultOptions.
func NewVault(address, key string, token Token, o *VaultOptions) (*Vault, error) {
	if o == nil {
		o = &VaultOptions{}
	}
	v := &Vault{mount: "transit", key: url.PathEscape(key), token: token, o: *o}
	if o.Mount != "" {
		v.mount = escapePath(o.Mount)
	}
	c, err := newClient("vault", address, &v.o.Options)
	var errs []error
	if token == nil {
		errs = append(errs, errors.New("kms: vault: a token function is required"))
	}
	if key == "" || strings.ContainsAny(key, "/?#") {
		errs = append(errs, errors.New("kms: vault: the name of a key is required, without / ? #"))
	}
	if !visible(v.o.Namespace) {
		errs = append(errs, errors.New("kms: vault: Namespace has characters that none has"))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	c.judge = judgeVault
	v.c = c
	return v, nil
}

func escapePath(p string) string {
	parts := strings.Split(strings.Trim(p, "/"), "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}

type vaultRequest struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	Context        []byte `json:"context,omitempty"`
	AssociatedData []byte `json:"associated_data,omitempty"`
}

type vaultAnswer struct {
	Data struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
	} `json:"data"`
}

// Wrap implements [keyring.Root].
func (v *Vault) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	var sealed []byte
	err := v.ask(ctx, "encrypt", vaultRequest{Plaintext: key}, func(a *vaultAnswer) bool {
		sealed = []byte(a.Data.Ciphertext)
		return vaultCiphertext(a.Data.Ciphertext)
	})
	if err != nil {
		return nil, err
	}
	return sealed, nil
}

// Unwrap implements [keyring.Root].
func (v *Vault) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	if !vaultCiphertext(string(wrapped)) {
		return nil, &Error{Service: "vault", Op: "decrypt", kind: keyring.ErrCorrupt}
	}
	var key []byte
	err := v.ask(ctx, "decrypt", vaultRequest{Ciphertext: string(wrapped)}, func(a *vaultAnswer) bool {
		key = a.Data.Plaintext
		return len(key) > 0
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// vaultCiphertext says whether s is "vault:vN:" and base64.
func vaultCiphertext(s string) bool {
	rest, ok := strings.CutPrefix(s, "vault:v")
	version, body, cut := strings.Cut(rest, ":")
	digits := strings.Trim(version, "0123456789") == "" && version != ""
	return ok && cut && digits && body != "" && visible(body)
}

func (v *Vault) ask(ctx context.Context, op string, q vaultRequest, take func(*vaultAnswer) bool) error {
	q.Context, q.AssociatedData = v.o.Context, v.o.AssociatedData
	return v.c.do(ctx, call{
		op: op, path: "/v1/" + v.mount + "/" + op + "/" + v.key, body: q,
		prepare: func(ctx context.Context, r *http.Request, _ []byte) error {
			t, err := tokenOf(ctx, v.token)
			if err != nil {
				return err
			}
			r.Header.Set("X-Vault-Token", t)
			r.Header.Set("X-Vault-Request", "true") // an agent's listener asks for it
			if v.o.Namespace != "" {
				r.Header.Set("X-Vault-Namespace", v.o.Namespace)
			}
			return nil
		},
		accept: func(b []byte) error {
			var a vaultAnswer
			if json.Unmarshal(b, &a) != nil || !take(&a) {
				return errAnswer
			}
			return nil
		},
	})
}

// judgeVault reads {"errors": [...]}. Vault has no codes: what a 400 means stands in its text alone.
func judgeVault(op string, status int, _ http.Header, body []byte) (string, error) {
	switch {
	case op == "decrypt" && bytes.Contains(body, []byte("message authentication failed")):
		return "", keyring.ErrCorrupt // with 500 in some versions: hashicorp/vault issue 10842
	case status == http.StatusPreconditionFailed:
		return "", keyring.ErrUnavailable // a standby that has not yet caught up
	case status != http.StatusBadRequest:
		return "", byStatus(status)
	}
	for _, gone := range []string{"key not found", "disallowed by policy", "version is too old", "no longer valid"} {
		if bytes.Contains(body, []byte(gone)) {
			return "", keyring.ErrLost
		}
	}
	if op == "decrypt" {
		return "", keyring.ErrCorrupt
	}
	return "", nil
}
