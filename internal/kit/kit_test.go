package kit_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/kit"
)

func TestCase(t *testing.T) {
	for name, tc := range map[string]struct {
		run    func(c *kit.Case)
		failed []kit.Failure
		skip   string
	}{
		"nothing": {run: func(*kit.Case) {}},
		"goes on": {
			run:    func(c *kit.Case) { c.Failf("r1", "%d", 1); c.Failf("r2", "two") },
			failed: []kit.Failure{{"n", "r1", "1"}, {"n", "r2", "two"}},
		},
		"stops": {
			run:    func(c *kit.Case) { c.Stopf("r1", "%d", 1); c.Failf("r2", "two") },
			failed: []kit.Failure{{"n", "r1", "1"}},
		},
		"skips":  {run: func(c *kit.Case) { c.Skipf("no %s", "server"); c.Failf("r", "x") }, skip: "n: no server"},
		"panics": {run: func(*kit.Case) { panic("secret") }, failed: []kit.Failure{{"n", "calm", "panic: string"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &kit.Case{Name: "n"}
			var closed []int
			c.Run(t.Context(), "calm", func() {
				for i := range 2 {
					c.Closes(func() { require.NoError(t, c.Ctx.Err()); closed = append(closed, i) })
				}
				tc.run(c)
			})
			require.Equal(t, tc.failed, c.Failures)
			require.Equal(t, tc.skip, c.Skip)
			require.Equal(t, []int{1, 0}, closed)
			require.ErrorIs(t, c.Ctx.Err(), context.Canceled)
		})
	}
}

func TestSubtests(t *testing.T) {
	names, ran := []string{"a", "b/c"}, 0
	kit.Subtests(t, names, func(ctx context.Context, i int) *kit.Case {
		ran++
		c := &kit.Case{Name: names[i]}
		c.Run(ctx, "calm", func() {
			if i == 1 {
				c.Skipf("as asked")
			}
		})
		return c
	})
	require.Equal(t, 2, ran)
}

func TestPanicText(t *testing.T) {
	defer func() {
		require.Contains(t, kit.PanicText(recover()), "index out of range")
	}()
	require.Equal(t, "*errors.errorString", kit.PanicText(errors.New("secret")))
	var none []int
	_ = none[len(t.Name())]
}

func TestCapture(t *testing.T) {
	was := slog.Default()
	c, restore := kit.WatchDefault()
	slog.Debug("quiet", "k", "v")
	slog.Log(t.Context(), slog.Level(-999), "quieter")
	restore()
	require.Same(t, was, slog.Default())
	require.Contains(t, c.Text(), `"msg":"quiet","k":"v"`)
	require.Contains(t, c.Text(), "quieter")
	require.Empty(t, kit.NewCapture().Text())
}

func TestInBase64(t *testing.T) {
	word := kit.NewWord()
	require.NotEqual(t, word, kit.NewWord())
	for before := range 7 {
		for after := range 7 {
			text := fmt.Sprintf("%.*s%s%.*s", before, "before!", word, after, "behind!")
			require.True(t, kit.InBase64(base64.StdEncoding.EncodeToString([]byte(text)), word), "%d %d", before, after)
			require.False(t, kit.InBase64(text, word))
		}
	}
}
