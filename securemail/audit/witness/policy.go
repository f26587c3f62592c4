package witness

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/cosign"
)

// Bounds of a policy file. Its specification asks for 32 of each at least.
const (
	maxPolicy  = 1 << 18 // octets
	maxMembers = 64      // logs; witnesses; groups
)

// Policy says which logs, and how many of which witnesses, make a checkpoint valid. It never changes.
type Policy struct {
	logs      []note.Verifier
	witnesses []Member
	verifiers []note.Verifier // of witnesses
	nodes     map[string]*node
	quorum    *node // nil: none is needed
	quorate   bool  // the line was there
	keys      map[string]bool
	groups    int
}

// Member is a witness of a policy.
type Member struct {
	// Name is what the policy calls it; Key is its verifier key; URL is its submission prefix, or "".
	Name, Key, URL string
}

// node is a witness or a group.
type node struct {
	member int // index of the witness, or -1
	k      int // of a group: how many of its members it needs
	of     []*node
	taken  bool // it is in a group
}

// ParsePolicy reads a file of https://c2sp.org/tlog-policy, with up to 64 logs, witnesses and groups each. Keys of logs are
// Ed25519 note keys (type 1) or cosigner keys (type 4), those of witnesses cosigner keys. The error Is [ErrPolicy] and names
// the line.
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > maxPolicy {
		return nil, fmt.Errorf("%w: too long", ErrPolicy)
	}
	p := &Policy{nodes: map[string]*node{}, keys: map[string]bool{}}
	for i, line := range strings.Split(string(b), "\n") {
		if strings.ContainsFunc(line, control) {
			return nil, fmt.Errorf("%w: line %d: control character", ErrPolicy, i+1)
		}
		if err := p.line(strings.FieldsFunc(line, blank)); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrPolicy, i+1, err)
		}
	}
	if !p.quorate {
		return nil, fmt.Errorf("%w: no quorum line", ErrPolicy)
	}
	return p, nil
}

func blank(r rune) bool   { return r == ' ' || r == '\t' }
func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func (p *Policy) line(f []string) error {
	if len(f) == 0 || strings.HasPrefix(f[0], "#") {
		return nil
	}
	switch {
	case f[0] == "log" && (len(f) == 2 || len(f) == 3):
		return p.log(f[1])
	case f[0] == "witness" && (len(f) == 3 || len(f) == 4):
		m := Member{Name: f[1], Key: f[2]}
		if len(f) == 4 {
			m.URL = f[3]
		}
		return p.witness(m)
	case f[0] == "group" && len(f) >= 4:
		return p.group(f[1], f[2], f[3:])
	case f[0] == "quorum" && len(f) == 2:
		return p.setQuorum(f[1])
	}
	return errors.New("unknown, or of a wrong form")
}

// known notes a public key; a second line with the same one is an error, whatever its name.
func (p *Policy) known(vkey string) error {
	_, rest, _ := strings.Cut(vkey, "+")
	_, b64, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(raw) < 2 {
		return errors.New("malformed key")
	}
	if p.keys[string(raw[1:])] {
		return errors.New("this key was there already")
	}
	p.keys[string(raw[1:])] = true
	return nil
}

func (p *Policy) log(vkey string) error {
	if len(p.logs) == maxMembers {
		return errors.New("too many logs")
	}
	var v note.Verifier
	v, err := note.NewVerifier(vkey)
	if err != nil {
		if v, err = cosign.NewVerifier(vkey); err != nil {
			return err
		}
	}
	if err := p.known(vkey); err != nil {
		return err
	}
	p.logs = append(p.logs, v)
	return nil
}

func (p *Policy) witness(m Member) error {
	if len(p.witnesses) == maxMembers {
		return errors.New("too many witnesses")
	}
	v, err := cosign.NewVerifier(m.Key)
	if err != nil {
		return err
	}
	if err := p.known(m.Key); err != nil {
		return err
	}
	if err := p.name(m.Name, &node{member: len(p.witnesses)}); err != nil {
		return err
	}
	p.witnesses, p.verifiers = append(p.witnesses, m), append(p.verifiers, v)
	return nil
}

func (p *Policy) name(name string, n *node) error {
	if name == "none" || p.nodes[name] != nil {
		return errors.New("this name is taken")
	}
	p.nodes[name] = n
	return nil
}

func (p *Policy) group(name, count string, members []string) error {
	if p.groups++; p.groups > maxMembers {
		return errors.New("too many groups")
	}
	n := &node{member: -1, k: len(members)}
	switch count {
	case "all":
	case "any":
		n.k = 1
	default:
		k, err := strconv.Atoi(count)
		if err != nil || k < 1 || k > len(members) || strconv.Itoa(k) != count {
			return errors.New("count out of range")
		}
		n.k = k
	}
	for _, m := range members {
		child := p.nodes[m]
		if child == nil {
			return errors.New("a member is not defined above")
		}
		// Once in all groups, so that each witness counts in one way only.
		if child.taken {
			return errors.New("a member is in a group already")
		}
		child.taken = true
		n.of = append(n.of, child)
	}
	return p.name(name, n)
}

func (p *Policy) setQuorum(name string) error {
	if p.quorate {
		return errors.New("a second quorum line")
	}
	p.quorate = true
	if name == "none" {
		return nil
	}
	if p.quorum = p.nodes[name]; p.quorum == nil {
		return errors.New("the quorum is not defined above")
	}
	return nil
}

// Witnesses are those of the policy, in its order; make a [Client] of each that has a URL.
func (p *Policy) Witnesses() []Member { return append([]Member(nil), p.witnesses...) }

// Verified is a checkpoint that satisfies a policy.
type Verified struct {
	// Origin is the log; Size and Hash are its tree.
	Origin string
	Size   int64
	Hash   tlog.Hash
	// Cosigned is, for each witness of the policy that signed, by its name in the policy, when it did.
	Cosigned map[string]time.Time
}

// Verify checks a checkpoint offline: that one of the policy's logs signed it under its own origin, and that its witnesses
// cosigned it as the quorum wants. Signatures of others are ignored; one by a known key that does not verify is an error.
func (p *Policy) Verify(b []byte) (*Verified, error) {
	cp, err := parseCheckpoint(b)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed checkpoint", ErrPolicy)
	}
	n, err := note.Open(b, note.VerifierList(append(append([]note.Verifier(nil), p.logs...), p.verifiers...)...))
	if err != nil || n.Text != cp.text {
		return nil, fmt.Errorf("%w: no valid signature, or one that is not valid", ErrPolicy)
	}
	v := &Verified{cp.origin, cp.size, cp.hash, map[string]time.Time{}}
	signed := make([]bool, len(p.verifiers))
	logged := false
	for _, s := range n.Sigs {
		logged = logged || s.Name == cp.origin && signer(p.logs, s) >= 0
		i := signer(p.verifiers, s)
		if i < 0 {
			continue
		}
		signed[i] = true
		if v.Cosigned[p.witnesses[i].Name], err = Time(s); err != nil {
			return nil, err
		}
	}
	if !logged {
		return nil, fmt.Errorf("%w: not signed by a log of the policy", ErrPolicy)
	}
	if p.quorum != nil && !p.quorum.met(signed) {
		return nil, fmt.Errorf("%w: cosigned by %d of its witnesses, and the quorum wants others or more", ErrPolicy, len(v.Cosigned))
	}
	return v, nil
}

func signer(vs []note.Verifier, s note.Signature) int {
	for i, v := range vs {
		if v.Name() == s.Name && v.KeyHash() == s.Hash {
			return i
		}
	}
	return -1
}

// met walks down; groups refer to what was defined before them, so that it ends.
func (n *node) met(signed []bool) bool {
	if n.member >= 0 {
		return signed[n.member]
	}
	have := 0
	for _, m := range n.of {
		if m.met(signed) {
			have++
		}
	}
	return have >= n.k
}
