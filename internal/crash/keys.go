package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail/preset"
)

const (
	keyEvery    = 10 * time.Millisecond
	rotateEvery = 10 // every so many keys the ring is sealed anew
	toldFile    = "keys.told"
)

// useKeys wraps keys, each under a scope of its own, destroys every second scope, and seals the ring anew now and then, until
// ctx ends. What it says it has done must hold after any crash: a key that is kept opens, and one that is destroyed does not.
func useKeys(ctx context.Context, s *preset.System) error {
	tick := time.NewTicker(keyEvery)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		scope := fmt.Sprintf("crash/%d/%d", os.Getpid(), i)
		wrapped, err := s.KeyRing.Wrap(ctx, bytes.Repeat([]byte{byte(i)}, 32), scope)
		if err != nil {
			return err
		}
		fate := "kept"
		if i%2 == 0 {
			fate = "destroyed"
			_, err = s.KeyRing.Destroy(ctx, scope)
		}
		switch i % (2 * rotateEvery) {
		case rotateEvery:
			err = errors.Join(err, s.KeyRing.RotateEpoch(ctx))
		case 0:
			err = errors.Join(err, s.KeyRing.RotateRoot(ctx))
		}
		if err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString(fate + " " + hex.EncodeToString(wrapped) + "\n"); err != nil {
			return err
		}
	}
}

// tellKeys hands the last child what was said of keys.
func (c *runner) tellKeys() error {
	var b strings.Builder
	for wrapped, fate := range c.keys {
		fmt.Fprintln(&b, fate, wrapped)
	}
	return os.WriteFile(filepath.Join(c.dir, toldFile), []byte(b.String()), 0o600)
}

// tryKeys says of each key that was told of whether it opens.
func tryKeys(ctx context.Context, s *preset.System) error {
	b, err := os.ReadFile(filepath.Join(os.Getenv(envDir), toldFile))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		fate, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		wrapped, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		_, err = s.KeyRing.Unwrap(ctx, wrapped)
		fmt.Println("key", fate, err == nil)
	}
	return nil
}

// key counts what tryKeys said.
func (l *left) key(fate, opens string) {
	switch {
	case fate == "kept" && opens != "true":
		l.closed++
	case fate == "destroyed" && opens == "true":
		l.reopened++
	}
}
