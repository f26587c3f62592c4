package keyring_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

func TestSplitAndJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := seal.NewKey()
		n := rapid.IntRange(1, 9).Draw(t, "n")
		m := rapid.IntRange(1, n).Draw(t, "m")
		shares, err := keyring.Split(key, m, n)
		require.NoError(t, err)
		k := rapid.IntRange(m, n).Draw(t, "given")
		given := rapid.Permutation(shares).Draw(t, "order")[:k]
		got, err := keyring.Join(given...)
		require.NoError(t, err)
		require.Equal(t, key, got)
		_, err = keyring.Join(given[:m-1]...)
		var few *keyring.TooFewError
		require.ErrorAs(t, err, &few)
		if m > 1 {
			require.Equal(t, keyring.TooFewError{Have: m - 1, Need: m}, *few)
		}
	})
}

func TestSplitRefuses(t *testing.T) {
	_, err := keyring.Split(make([]byte, 31), 2, 3)
	require.ErrorContains(t, err, "32 octets")
	for _, mn := range [][2]int{{0, 3}, {4, 3}, {2, 256}} {
		_, err = keyring.Split(seal.NewKey(), mn[0], mn[1])
		require.Error(t, err)
	}
}

func TestShareIsTyped(t *testing.T) {
	key := seal.NewKey()
	shares, err := keyring.Split(key, 2, 3)
	require.NoError(t, err)
	require.Regexp(t, `^postseal share 2 of 3, 2 needed: ([A-Z2-7]{4}-){19}[A-Z2-7]{4}$`, string(shares[1]))
	_, code, _ := strings.Cut(string(shares[1]), ": ")
	for _, typed := range []string{
		code, strings.ToLower(code), strings.ReplaceAll(code, "-", " "), strings.ReplaceAll(code, "-", ""), "  " + string(shares[1]) + "\r\n",
		code[:40] + "\n" + code[40:],
	} {
		got, err := keyring.Join(shares[0], keyring.Share(typed))
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
}

// TestEveryWrongLetterIsFound changes, drops and doubles each letter of a share.
func TestEveryWrongLetterIsFound(t *testing.T) {
	shares, err := keyring.Split(seal.NewKey(), 2, 3)
	require.NoError(t, err)
	_, code, _ := strings.Cut(string(shares[1]), ": ")
	var bad []string
	for i, c := range []byte(code) {
		if c == '-' {
			continue
		}
		other := byte('A')
		if c == other {
			other = 'Q' // differs in a high bit and in the last
		}
		bad = append(bad, code[:i]+string(other)+code[i+1:], code[:i]+code[i+1:], code[:i]+string(c)+code[i:])
	}
	for _, text := range append(bad, "", "postseal share", code+code, "é"+code) {
		_, err := keyring.Join(shares[0], keyring.Share(text))
		var e *keyring.ShareError
		require.ErrorAs(t, err, &e, text)
		require.Equal(t, keyring.ShareError{Place: 2, Fault: keyring.ShareCorrupt}, *e)
		require.NotContains(t, err.Error(), code[:9])
	}
}

// forge changes the point of a share and makes its checksum right again.
func forge(t *testing.T, s keyring.Share) keyring.Share {
	t.Helper()
	_, code, _ := strings.Cut(string(s), ": ")
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	b, err := enc.DecodeString(strings.ReplaceAll(code, "-", ""))
	require.NoError(t, err)
	body := b[:len(b)-4]
	body[20] ^= 1
	sum := sha256.Sum256(append([]byte("postseal share"), body...))
	return keyring.Share(enc.EncodeToString(append(body, sum[:4]...)))
}

func TestJoinNamesTheWrongShare(t *testing.T) {
	shares, err := keyring.Split(seal.NewKey(), 2, 4)
	require.NoError(t, err)
	others, err := keyring.Split(seal.NewKey(), 2, 4)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		given []keyring.Share
		want  keyring.ShareError
	}{
		"foreign":             {[]keyring.Share{shares[0], others[1]}, keyring.ShareError{Place: 2, Fault: keyring.ShareForeign}},
		"repeated":            {[]keyring.Share{shares[0], shares[1], shares[0]}, keyring.ShareError{Place: 3, Fault: keyring.ShareRepeated}},
		"forged among first":  {[]keyring.Share{forge(t, shares[0]), shares[1], shares[2]}, keyring.ShareError{Place: 1, Fault: keyring.ShareForged}},
		"forged among first2": {[]keyring.Share{shares[0], forge(t, shares[1]), shares[2]}, keyring.ShareError{Place: 2, Fault: keyring.ShareForged}},
		"forged at the end":   {[]keyring.Share{shares[0], shares[1], forge(t, shares[2])}, keyring.ShareError{Place: 3, Fault: keyring.ShareForged}},
	} {
		_, err := keyring.Join(c.given...)
		var e *keyring.ShareError
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, c.want, *e, name)
	}
	_, err = keyring.Join(shares[0], forge(t, shares[1]))
	require.ErrorIs(t, err, keyring.ErrCorrupt, "of two of two nobody can say which")
	_, err = keyring.Join(forge(t, shares[0]), forge(t, shares[1]), shares[2])
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

func FuzzJoin(f *testing.F) {
	key := seal.NewKey()
	shares, err := keyring.Split(key, 2, 3)
	require.NoError(f, err)
	f.Add(string(shares[1]))
	f.Add("postseal share 1 of 3, 2 needed: AEAB-")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := keyring.Join(shares[0], keyring.Share(text))
		require.True(t, err != nil || bytes.Equal(key, got))
	})
}

// TestCustodians loses the root and has it back, from a key file and from a Root.
func TestCustodians(t *testing.T) {
	for name, root := range map[string]*memRoot{"file": nil, "root": newMemRoot()} {
		path, o := ringPath(t), &keyring.Options{}
		if root != nil {
			o.Root = root
		}
		f, err := keyring.OpenFile(path, o)
		require.NoError(t, err, name)
		w, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err)
		early, err := f.Split(t.Context(), 2, 3)
		require.NoError(t, err)
		require.NoError(t, f.RotateRoot(t.Context()))
		shares, err := f.Split(t.Context(), 2, 3)
		require.NoError(t, err)
		require.NoError(t, f.RotateEpoch(t.Context()), "a new epoch needs no new shares")
		require.NoError(t, f.Close())
		old, err := keyring.Join(early[0], early[1])
		require.NoError(t, err)
		key, err := keyring.Join(shares[2], shares[0])
		require.NoError(t, err)

		if root == nil {
			require.ErrorContains(t, keyring.Recover(t.Context(), path, old), "already")
			require.NoError(t, os.Remove(path))
			_, err = keyring.OpenFile(path, o)
			require.ErrorIs(t, err, keyring.ErrLost)
			require.ErrorContains(t, err, "Recover")
		} else {
			root.fail(keyring.ErrLost)
		}
		require.ErrorIs(t, keyring.Recover(t.Context(), path, old), keyring.ErrCorrupt)
		require.NoFileExists(t, path)
		require.Error(t, keyring.Recover(t.Context(), path, key[:31]))
		require.ErrorIs(t, keyring.Recover(t.Context(), ringPath(t), key), keyring.ErrLost)
		require.NoError(t, keyring.Recover(t.Context(), path, key))
		g := open(t, path, nil)
		got, err := g.Unwrap(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, []byte("k"), got)
		require.NoError(t, g.MoveRoot(t.Context(), newMemRoot()), "and from there under another")
	}
}

func TestFailedRecover(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	f := open(t, path, &keyring.Options{Root: root})
	shares, err := f.Split(t.Context(), 1, 1)
	require.NoError(t, err)
	key, err := keyring.Join(shares...)
	require.NoError(t, err)
	for _, blocked := range []string{".tmp", ".epoch.tmp"} {
		require.NoError(t, os.Mkdir(path+blocked, 0o700))
		require.ErrorContains(t, keyring.Recover(t.Context(), path, key), "recover")
		require.NoError(t, os.Remove(path+blocked))
		open(t, path, &keyring.Options{Root: root})
	}
	require.FileExists(t, path, "cut short between the two files")
	require.ErrorContains(t, keyring.Recover(t.Context(), path, seal.NewKey()), "already")
	epoch, err := os.ReadFile(path + ".epoch")
	require.NoError(t, err)
	require.NoError(t, keyring.Recover(t.Context(), path, key), "a repeat finishes")
	open(t, path, nil)
	require.NoError(t, os.WriteFile(path+".epoch", epoch, 0o600))
	require.NoError(t, os.WriteFile(path+".epoch", []byte("postseal epoch key under a root v1\n"), 0o600))
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, keyring.Recover(t.Context(), path, key), keyring.ErrCorrupt)
}
