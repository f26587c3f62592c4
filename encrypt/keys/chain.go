package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postseal/postseal/securemail"
)

// Chain asks sources in order, the strongest first, and gives the answer of the first that has keys. Only
// [securemail.ErrNoKey] goes on to the next: where a source does not know right now, or says [securemail.ErrPending], a later
// and weaker one must not step in, so that is the Chain's answer. Where all say ErrNoKey, and without sources, it is ErrNoKey.
//
// An answer without error and without keys, or with a key of another method than was asked for, is a source's fault and
// counts as not known. The Chain is as safe for concurrent use as its sources; it copies the list.
func Chain(sources ...securemail.KeySource) securemail.KeySource {
	return &chain{slices.Clone(sources)}
}

var (
	errEmpty  = errors.New("no keys and no error")
	errMethod = errors.New("a key of another method")
)

type chain struct{ sources []securemail.KeySource }

// Keys implements [securemail.KeySource].
func (c *chain) Keys(ctx context.Context, l securemail.Lookup) ([]securemail.Key, error) {
	for i, s := range c.sources {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := s.Keys(ctx, l)
		switch {
		case errors.Is(err, securemail.ErrPending):
			// alone: an error that Is ErrNoKey as well would be taken for "none"
			return nil, fmt.Errorf("keys: source %d: %w", i+1, securemail.ErrPending)
		case errors.Is(err, securemail.ErrNoKey):
			continue
		case err == nil && len(found) == 0:
			err = errEmpty
		case err == nil && slices.ContainsFunc(found, func(k securemail.Key) bool { return k.Method != l.Method }):
			err = errMethod
		}
		if err != nil {
			return nil, fmt.Errorf("keys: source %d: %w", i+1, err)
		}
		return found, nil
	}
	return nil, fmt.Errorf("keys: no source has a key: %w", securemail.ErrNoKey)
}
