package preset_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/policy"
	"github.com/postseal/postseal/securemail/preset"
)

// TestDrillDecidesAgain: the decisions that are kept come out the same under the policy that made them, and only under that.
func TestDrillDecidesAgain(t *testing.T) {
	m := newMailSystem(t)
	m.send(3)
	m.run()
	hipaa, err := policy.HIPAA(&policy.Options{Methods: []securemail.Method{securemail.MethodPGP}})
	require.NoError(t, err)
	drill := func(p securemail.Policy) *preset.Drilled {
		d, err := preset.Drill(t.Context(), m.path, quiet(nil), &preset.DrillOptions{Dir: t.TempDir(), Policy: p, Sample: 2})
		require.NoError(t, err)
		return d
	}
	d := drill(hipaa)
	require.Empty(t, d.Findings)
	require.Equal(t, 3, d.Replayed)

	d = drill(securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
		return securemail.Decision{}, errors.New("c4n4ry")
	}))
	require.Len(t, d.Findings, 3)
	require.NotContains(t, d.Findings[0], "c4n4ry")
	for name, change := range map[string]func(*securemail.Decision){
		"else":     func(d *securemail.Decision) { d.Else = securemail.OutcomeDrop },
		"a choice": func(d *securemail.Decision) { d.Choices[0].Channel = securemail.ChannelAny },
	} {
		d = drill(securemail.PolicyFunc(func(ctx context.Context, f securemail.Facts) (securemail.Decision, error) {
			dec, err := hipaa.Decide(ctx, f)
			dec.Choices = append([]securemail.Choice(nil), dec.Choices...)
			change(&dec)
			return dec, err
		}))
		require.Len(t, d.Findings, 3, name)
	}
	d = drill(securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
		return securemail.Decision{Policy: "another"}, nil
	}))
	require.Empty(t, d.Findings, "another policy has nothing to say of these")
	require.Zero(t, d.Replayed)
}

// TestRecoveryUnderARootElsewhere: no key file lies beside the store, nor beside what is restored.
func TestRecoveryUnderARootElsewhere(t *testing.T) {
	t.Setenv("RING_ROOT", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32)))
	_, so := far(t, true)
	o := quiet(so)
	o.Root = keyring.EnvRoot("RING_ROOT")
	path := filepath.Join(t.TempDir(), "mail.db")
	s, err := preset.Open(t.Context(), path, o)
	require.NoError(t, err)
	sub, err := s.Send(t.Context(), draft())
	require.NoError(t, err)
	desk, err := preset.OpenDesk(t.Context(), path, o)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = desk.Backup(t.Context(), &b)
	require.NoError(t, err)
	require.NoError(t, desk.Close())
	d, err := preset.Drill(t.Context(), path, o, &preset.DrillOptions{Dir: t.TempDir()})
	require.NoError(t, err)
	require.Empty(t, d.Findings)
	require.NoError(t, s.Close())
	_, err = s.Backup(t.Context(), &b)
	require.ErrorIs(t, err, preset.ErrClosed)

	back := filepath.Join(t.TempDir(), "back.db")
	from := preset.RootFrom{Root: o.Root}
	_, err = preset.VerifyBackup(t.Context(), bytes.NewReader(b.Bytes()), &from, "")
	require.NoError(t, err)
	_, err = preset.Restore(t.Context(), back, &b, &preset.RestoreOptions{From: from, Store: o})
	require.NoError(t, err)
	require.NoFileExists(t, back+".key")
	declared, err := preset.Declare(t.Context(), back, o, declaration())
	require.NoError(t, err)
	require.NotEmpty(t, declared.Backup)
	s, err = preset.Open(t.Context(), back, o)
	require.NoError(t, err)
	require.Equal(t, sub.Parcels[0].ID, state(t, s).ID)
	require.NoError(t, s.Close())
}

func TestRecoveryRefuses(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	m.run()
	nowhere := filepath.Join(t.TempDir(), "none.db")
	_, err := preset.OpenDesk(t.Context(), nowhere, nil)
	require.ErrorIs(t, err, preset.ErrNoStore)
	_, err = preset.OpenDesk(t.Context(), t.TempDir(), nil)
	require.ErrorIs(t, err, preset.ErrNoStore)
	_, err = preset.Drill(t.Context(), nowhere, nil, nil)
	require.ErrorIs(t, err, preset.ErrNoStore)
	_, err = preset.Declare(t.Context(), nowhere, nil, declaration())
	require.ErrorIs(t, err, preset.ErrNoStore)
	_, err = preset.Declare(t.Context(), m.path, nil, nil)
	require.ErrorContains(t, err, "who")
	_, err = preset.Restore(t.Context(), nowhere, bytes.NewReader(nil), &preset.RestoreOptions{})
	require.ErrorContains(t, err, "root key")
	_, err = preset.VerifyBackup(t.Context(), bytes.NewReader(nil), &preset.RootFrom{Shares: []keyring.Share{"x"}}, "")
	require.Error(t, err)
	_, err = preset.Drill(t.Context(), m.path, quiet(nil), &preset.DrillOptions{Dir: filepath.Join(nowhere, "no")})
	require.Error(t, err)
	_, err = preset.Restore(t.Context(), nowhere, bytes.NewReader(m.backup()), &preset.RestoreOptions{From: m.from(), LogDir: filepath.Join(nowhere, "no")})
	require.Error(t, err)
	require.NoFileExists(t, nowhere)

	// A key file of the log that is damaged: no backup, and no PHI in what says so.
	require.NoError(t, os.WriteFile(m.path+".audit.key", []byte("c4n4ry"), 0o600))
	var b bytes.Buffer
	_, err = m.Backup(t.Context(), &b)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "c4n4ry")
	_, err = preset.Drill(t.Context(), m.path, quiet(nil), &preset.DrillOptions{Dir: t.TempDir()})
	require.Error(t, err)
	require.NoError(t, os.Remove(m.path+".audit.key"))
	require.NoError(t, os.Mkdir(m.path+".audit.key", 0o700))
	_, err = m.Backup(t.Context(), &b)
	require.Error(t, err)
	require.NoError(t, os.Remove(m.path+".audit.key"))

	// Without one there is no log to copy, as of a store that nothing ran yet.
	_, err = m.Backup(t.Context(), &b)
	require.NoError(t, err)
}
