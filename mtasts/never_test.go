package mtasts_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/mtasts"
)

// history is a world that notes what the Cache was given and what the Store took: what it must not forget.
type history struct {
	*world
	seen, saved binding // the policy fetched last; the one stored last
	jumped      bool    // the clock was set back; memory believes an entry for its max_age at most
	doubt       bool    // nothing was read from the Store since the process began
}

type binding struct {
	text    string
	expires time.Time
}

func (b binding) binds(now time.Time) bool { return now.Before(b.expires) }

func (b binding) enforces(now time.Time) bool {
	return b.binds(now) && strings.Contains(b.text, "mode: enforce")
}

func (h *history) Fetch(ctx context.Context, domain string) ([]byte, error) {
	text, err := h.world.Fetch(ctx, domain)
	if p, bad := mtasts.ParsePolicy(text); err == nil && bad == nil && domain == "example.com" {
		h.seen = binding{string(text), h.clock().Add(max(p.MaxAge, time.Minute))}
	}
	return text, err
}

func (h *history) Save(ctx context.Context, e mtasts.Entry) error {
	err := h.world.Save(ctx, e)
	if err == nil && e.Domain == "example.com" {
		h.saved = binding{string(e.Text), e.Expires}
	}
	return err
}

// TestNeverForgets: under any sequence of failures of DNS, HTTPS and the Store, of new ids and policies, restarts and jumps
// of the clock, a policy of mode enforce that was fetched, and stored or still in memory, binds until it expires; and doubt
// is never taken for none.
func TestNeverForgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{world: newWorld()}
		crowded := rapid.Bool().Draw(t, "crowded") // Then memory holds two domains, and the Store takes everything.
		jumps := rapid.Bool().Draw(t, "jumps")
		start := func() *mtasts.Cache {
			o := &mtasts.Options{Resolver: h, Fetcher: h, Now: h.clock, Rand: func() float64 { return 0.3 }}
			if crowded {
				o.MaxDomains = 2
			}
			c, err := mtasts.New(h, o)
			require.NoError(t, err)
			return c
		}
		c := start()
		check := func(ask func(context.Context, string) (mtasts.State, error)) {
			before, _ := h.counts()
			s, err := ask(context.Background(), "example.com")
			after, _ := h.counts()
			now := h.clock()
			switch {
			case err != nil:
				require.ErrorIs(t, err, mtasts.ErrUnknown)
				if h.seen.enforces(now) {
					require.True(t, h.doubt || crowded || h.jumped, "an error though memory has the policy")
					require.True(t, h.load != nil || after == before, "an error though the Store has the policy")
				}
			case h.seen.enforces(now):
				require.True(t, s.Enforced(), "not enforced: %+v", s)
				require.Equal(t, h.seen.text, string(s.Text))
			case s.Source == mtasts.SourceNone && after > before:
				require.NotErrorIs(t, h.txtErr, errServFail, "doubt taken for none")
				require.False(t, h.load != nil && h.saved.binds(now), "a Store that can't be read taken for an empty one")
			}
			if s.Policy != nil {
				h.doubt = false
				p, err := mtasts.ParsePolicy(s.Text)
				require.NoError(t, err)
				require.Equal(t, p, *s.Policy, "text and policy in step")
				require.True(t, now.Before(s.Expires), "expired")
			}
		}
		id := 0
		t.Repeat(map[string]func(*rapid.T){
			"lookup":  func(*rapid.T) { check(c.Lookup) },
			"recheck": func(*rapid.T) { check(c.Recheck) },
			"refresh": func(*rapid.T) { _, _ = c.Refresh(context.Background()) },
			"other domains": func(*rapid.T) {
				for i := range 4 {
					_, _ = c.Lookup(context.Background(), fmt.Sprintf("d%d.example", i))
				}
			},
			"time passes": func(t *rapid.T) {
				h.pass(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 10 * time.Minute, time.Hour, 23 * time.Hour, 5 * 24 * time.Hour}).Draw(t, "d"))
			},
			"clock set back": func(t *rapid.T) {
				if !jumps {
					return
				}
				h.jumped = true
				h.pass(-rapid.SampledFrom([]time.Duration{time.Second, time.Hour, 40 * 24 * time.Hour}).Draw(t, "d"))
			},
			"restart": func(*rapid.T) {
				c = start()
				h.seen, h.doubt = h.saved, true // What the Store did not take died with the process.
			},
			"publish": func(t *rapid.T) {
				id++
				mode := rapid.SampledFrom([]string{"enforce", "enforce", "testing", "none"}).Draw(t, "mode")
				age := rapid.SampledFrom([]string{"0", "3600", "604800", "9999999999"}).Draw(t, "age")
				h.publish(fmt.Sprint("id", id), fmt.Sprintf("version: STSv1\nmode: %s\nmx: m%d.example\nmax_age: %s\n", mode, id, age))
			},
			"DNS": func(t *rapid.T) {
				h.txtErr = rapid.SampledFrom([]error{nil, errServFail, errNoName, context.DeadlineExceeded}).Draw(t, "err")
			},
			"forged record": func(*rapid.T) { id++; h.txt = []string{fmt.Sprintf("v=STSv1; id=forged%d;", id)} },
			"broken record": func(*rapid.T) { h.txt = []string{"v=STSv1; id=;"} },
			"HTTPS": func(t *rapid.T) {
				h.fetchErr = rapid.SampledFrom([]error{nil, errBlocked, errors.New("reset")}).Draw(t, "err")
			},
			"broken policy": func(*rapid.T) { h.text = "mode: enforce\n" },
			"Store reads": func(t *rapid.T) {
				h.load = rapid.SampledFrom([]error{nil, errDisk}).Draw(t, "err")
				if jumps { // With neither clock nor Store nobody can say which of two policies is the newer one.
					h.load = nil
				}
			},
			"Store writes": func(t *rapid.T) {
				h.save = rapid.SampledFrom([]error{nil, errDisk}).Draw(t, "err")
				if crowded {
					h.save = nil
				}
			},
			"": func(*rapid.T) {},
		})
	})
}
