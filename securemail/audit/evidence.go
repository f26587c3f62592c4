package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/securemail"
)

const (
	evidenceVersion = 1
	// evidenceHeader begins what the log's key signs of a bundle. No log can have it as its origin: a checkpoint has three
	// lines.
	evidenceHeader = "postseal evidence v1"
	// maxEvidence bounds a bundle, in octets; maxEvidenceEntries the entries in it.
	maxEvidence        = 64 << 20
	maxEvidenceEntries = 10_000
)

// ErrEvidence says that a bundle does not prove what it states: an octet of it was changed, or it is not of this log.
var ErrEvidence = errors.New("audit: evidence does not hold")

// Evidence is what a bundle proves about one parcel.
type Evidence struct {
	Parcel string
	// Origin, Size and Root are of the tree that each entry was proved to be in.
	Origin string
	Size   int64
	Root   string
	// Checkpoint is that tree's, a signed note: where witnesses cosigned it, package audit/witness tells who. Stamp, where it is
	// there, shows that the entries were there at a time that somebody else vouches for.
	Checkpoint []byte
	Stamp      *Stamp
	// Entries are everything that the log held of the parcel at that size, in its order.
	Entries []Entry
	// Statement says in sentences what the entries say, and nothing else.
	Statement []string
}

// Stamp is a time stamp on a checkpoint that covers the entries, and that the one of the Evidence was proved to continue. Token
// is about the SHA-256 of Checkpoint; package audit/timestamp verifies it, this package does not.
type Stamp struct{ Checkpoint, Token []byte }

// bundle is the file. Its fields stand in the order of their names, and there is one form only.
type bundle struct {
	Checkpoint string   `json:"checkpoint"`
	Entries    []proven `json:"entries"`
	Parcel     string   `json:"parcel"`
	// Signature is the log's over everything else.
	Signature string   `json:"signature"`
	Stamp     *stamped `json:"stamp,omitempty"`
	Statement []string `json:"statement"`
	V         int      `json:"v"`
}

// stamped is a stamp with the proof that its checkpoint's tree is the beginning of the bundle's.
type stamped struct {
	Checkpoint  string   `json:"checkpoint"`
	Consistency []string `json:"consistency"`
	Token       []byte   `json:"token"`
}

// proven is an entry with the proof that it is in the tree of the checkpoint.
type proven struct {
	Entry json.RawMessage `json:"entry"`
	Index int64           `json:"index"`
	Proof []string        `json:"proof"`
}

func (b *bundle) format() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return nil, fmt.Errorf("audit: evidence: %w", err)
	}
	return buf.Bytes(), nil
}

// signed is the text that the signature is over.
func (b *bundle) signed() (string, error) {
	c := *b
	c.Signature = ""
	text, err := c.format()
	return fmt.Sprintf("%s\n%s\n", evidenceHeader, tlog.RecordHash(text)), err
}

// Evidence makes one file of everything that the log holds of parcel, for outsiders: each entry, the proof that it is in the
// log, and in sentences what they say. [VerifyEvidence] checks it offline. It publishes a checkpoint where the newest does not
// cover all entries. Who may have it is for the host to ask: it holds no name and no address, but tells when somebody got mail
// from whom. Errors: ErrUnknown where the log has nothing of parcel, ErrClosed, ErrCorrupt, ctx's, the file system's.
func (l *Log) Evidence(ctx context.Context, parcel securemail.ParcelID) ([]byte, error) {
	if err := l.Publish(ctx); err != nil && !errors.Is(err, ErrClosed) {
		return nil, err
	}
	cp, err := l.bestFor(ctx, string(parcel))
	if err != nil {
		return nil, err
	}
	b := &bundle{Checkpoint: string(cp.note), Parcel: string(parcel), V: evidenceVersion}
	var entries []Entry
	for n, err := range l.numbersOf(ctx, string(parcel), cp.N) {
		if err != nil {
			return nil, err
		}
		e, p, err := l.proven(cp, n)
		if err != nil {
			return nil, err
		}
		if e.Parcel == string(parcel) {
			entries, b.Entries = append(entries, e), append(b.Entries, p)
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("audit: parcel %.32q: %w", string(parcel), ErrUnknown)
	}
	b.Statement = state(entries)
	if b.Stamp, err = l.stampFor(cp, b.Entries[len(b.Entries)-1].Index); err != nil {
		return nil, err
	}
	text, err := b.signed()
	if err != nil {
		return nil, err
	}
	sig, err := l.keys.signer.Sign([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("audit: sign evidence: %w", err)
	}
	b.Signature = base64.StdEncoding.EncodeToString(sig)
	return b.format()
}

// bestFor is the newest cosigned checkpoint where it covers all entries of parcel, else the newest.
func (l *Log) bestFor(ctx context.Context, parcel string) (*checkpoint, error) {
	l.mu.RLock()
	newest, cosigned := l.published, l.outside.cosigned
	l.mu.RUnlock()
	if cosigned == nil {
		return newest, nil
	}
	for n, err := range l.numbersOf(ctx, parcel, newest.N) {
		if err != nil {
			return nil, err
		}
		if n >= cosigned.N {
			return newest, nil
		}
	}
	return cosigned, nil
}

func (l *Log) proven(cp *checkpoint, n int64) (Entry, proven, error) {
	data, err := l.entryAt(n)
	if err != nil {
		return Entry{}, proven{}, err
	}
	hashes, err := tlog.ProveRecord(cp.N, n, l.tilesOf(cp.N))
	if err != nil {
		return Entry{}, proven{}, corrupt("prove", err)
	}
	if tlog.CheckRecord(hashes, cp.N, cp.Hash, n, tlog.RecordHash(data)) != nil {
		return Entry{}, proven{}, fmt.Errorf("audit: prove: %w", ErrCorrupt)
	}
	p := proven{Entry: data, Index: n, Proof: formatHashes(hashes)}
	e, err := parseEntry(data)
	return e, p, err
}

// VerifyEvidence checks offline what [Log.Evidence] gave: that verifier's key signed the bundle and the checkpoint in it, that
// each entry is in the tree of that checkpoint, is of the parcel and stands once, and that the statement says what the
// entries say. Any changed octet is ErrEvidence. That no entry was left out, and that others were shown the same log, is the
// log's word: compare checkpoints, and what witnesses say.
func VerifyEvidence(data []byte, verifier note.Verifier) (*Evidence, error) {
	b, err := parseEvidence(data)
	if err != nil {
		return nil, err
	}
	text, err := b.signed()
	if err != nil {
		return nil, ErrEvidence
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(b.Signature)
	if err != nil || base64.StdEncoding.EncodeToString(sig) != b.Signature || !verifier.Verify([]byte(text), sig) {
		return nil, fmt.Errorf("%w: its signature is not by this key, or it was changed", ErrEvidence)
	}
	cp, err := openCheckpoint([]byte(b.Checkpoint), verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint is not by this key", ErrEvidence)
	}
	out := &Evidence{Parcel: b.Parcel, Origin: verifier.Name(), Size: cp.N, Root: cp.Hash.String(), Checkpoint: cp.note}
	last := int64(-1)
	for i := range b.Entries {
		p := &b.Entries[i]
		e, err := p.check(cp)
		if err != nil || p.Index <= last || e.Parcel != b.Parcel {
			return nil, fmt.Errorf("%w: entry %d is not in the log as it stands there", ErrEvidence, i+1)
		}
		last = p.Index
		out.Entries = append(out.Entries, e)
	}
	if out.Stamp, err = b.Stamp.check(cp, last, verifier); err != nil {
		return nil, err
	}
	out.Statement = state(out.Entries)
	if fmt.Sprintf("%q", out.Statement) != fmt.Sprintf("%q", b.Statement) {
		return nil, fmt.Errorf("%w: its statement does not say what its entries say", ErrEvidence)
	}
	return out, nil
}

// parseEvidence takes the one form of a bundle.
func parseEvidence(data []byte) (*bundle, error) {
	if len(data) > maxEvidence {
		return nil, fmt.Errorf("%w: it is longer than %d octets", ErrEvidence, maxEvidence)
	}
	var b bundle
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON of this form", ErrEvidence)
	}
	if again, err := b.format(); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: it is not in the form that the log gave it", ErrEvidence)
	}
	if b.V != evidenceVersion || b.Parcel == "" || len(b.Entries) == 0 || len(b.Entries) > maxEvidenceEntries {
		return nil, fmt.Errorf("%w: it is of another version, or empty", ErrEvidence)
	}
	return &b, nil
}

// check proves that p is in the tree of cp.
func (p *proven) check(cp *checkpoint) (Entry, error) {
	if p.Index < 0 || p.Index >= cp.N || len(p.Proof) > maxHashes {
		return Entry{}, ErrEvidence
	}
	hashes, err := parseHashes(p.Proof)
	if err != nil || tlog.CheckRecord(hashes, cp.N, cp.Hash, p.Index, tlog.RecordHash(p.Entry)) != nil {
		return Entry{}, ErrEvidence
	}
	return parseEntry(p.Entry)
}

// check proves that s is about a tree that holds entry last and that the one of cp continues.
func (s *stamped) check(cp *checkpoint, last int64, verifier note.Verifier) (*Stamp, error) {
	if s == nil {
		return nil, nil
	}
	old, err := openCheckpoint([]byte(s.Checkpoint), verifier)
	if err != nil || old.N <= last || len(s.Consistency) > maxHashes {
		return nil, fmt.Errorf("%w: its stamp is about another log", ErrEvidence)
	}
	hashes, err := parseHashes(s.Consistency)
	if err != nil || checkTree(hashes, cp.Tree, old.Tree) != nil {
		return nil, fmt.Errorf("%w: its stamp is about another log", ErrEvidence)
	}
	return &Stamp{old.note, s.Token}, nil
}

// checkTree proves that now continues old; tlog has no proof of two that are one.
func checkTree(proof []tlog.Hash, now, old tlog.Tree) error {
	if now == old && len(proof) == 0 {
		return nil
	}
	if old.N >= now.N {
		return ErrEvidence
	}
	return tlog.CheckTree(proof, now.N, now.Hash, old.N, old.Hash)
}

func formatHashes(hs []tlog.Hash) []string {
	out := make([]string, len(hs))
	for i, h := range hs {
		out[i] = h.String()
	}
	return out
}

func parseHashes(ss []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, s := range ss {
		h, err := parseHash(s)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}
