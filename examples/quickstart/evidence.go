package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/preset"
)

// writeEvidence writes a bundle for each parcel of sub, and the key that checks them, and checks them as their reader would.
func writeEvidence(ctx context.Context, sys *preset.System, sub *securemail.Submission, dir string) error {
	folder := filepath.Join(dir, "evidence")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	public := sys.Ledger.PublicKey()
	if err := os.WriteFile(filepath.Join(dir, "log.pub"), []byte(public+"\n"), 0o600); err != nil {
		return err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return err
	}
	for _, p := range sub.Parcels {
		bundle, err := sys.Ledger.Evidence(ctx, p.ID)
		if err != nil {
			return fmt.Errorf("evidence of %s: %w", p.ID, err)
		}
		if _, err := audit.VerifyEvidence(bundle, verifier); err != nil {
			return fmt.Errorf("evidence of %s: %w", p.ID, err)
		}
		if err := os.WriteFile(filepath.Join(folder, string(p.ID)+".json"), bundle, 0o600); err != nil {
			return err
		}
	}
	return nil
}
