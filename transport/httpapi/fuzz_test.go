package httpapi_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/httpapi"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

var retryAfters = map[string]time.Duration{
	"": 0, "0": 0, "120": 2 * time.Minute, " 7 ": 7 * time.Second, "-1": 0, "1.5": 0, "+3": 0, "soon": 0,
	"99999999999999999999": 24 * time.Hour, "86401": 24 * time.Hour,
	"Tue, 24 Nov 2026 12:01:00 GMT":   time.Minute,
	"Tue, 24 Nov 2026 11:00:00 GMT":   0,
	"Sun, 24 Nov 2030 12:00:00 GMT":   24 * time.Hour,
	"Tuesday, 24-Nov-26 12:01:00 GMT": time.Minute,
	"Tue Nov 24 12:01:00 2026":        time.Minute,
}

func TestRetryAfter(t *testing.T) {
	for v, want := range retryAfters {
		require.Equal(t, want, httpapi.RetryAfter(v, noon), v)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for v := range retryAfters {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got := httpapi.RetryAfter(v, noon)
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, 24*time.Hour)
	})
}

var pointers = []struct{ body, pointer, want string }{
	{`{"id":"a"}`, "/id", "a"},
	{`{"id":12345678901234567890}`, "/id", "12345678901234567890"},
	{`{"a":{"b":[{"c":"x"},{"c":"y"}]}}`, "/a/b/1/c", "y"},
	{`{"a/b":{"~":"x"}}`, "/a~1b/~0", "x"},
	{`{"~1":"x"}`, "/~01", "x"},
	{`["a"]`, "/0", "a"},
	{`["a"]`, "/1", ""}, {`["a"]`, "/-1", ""}, {`["a"]`, "/x", ""},
	{`{"id":null}`, "/id", ""}, {`{"id":{}}`, "/id", ""}, {`{"id":true}`, "/id", ""},
	{`{"id":"a"`, "/id", ""}, {``, "/id", ""}, {"\xff", "/id", ""}, {`"x"`, "/id", ""},
}

func TestPointed(t *testing.T) {
	for _, c := range pointers {
		require.Equal(t, c.want, httpapi.Pointed([]byte(c.body), c.pointer), "%s %s", c.body, c.pointer)
	}
}

func FuzzRemoteID(f *testing.F) {
	for _, c := range pointers {
		f.Add([]byte(c.body), c.pointer)
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		id := httpapi.Pointed(body, pointer)
		require.LessOrEqual(t, len(id), 6*len(body))
		if httpapi.SafeID(id) {
			require.LessOrEqual(t, len(id), 256)
			require.NotRegexp(t, `[^!-~]`, id)
		}
	})
}
