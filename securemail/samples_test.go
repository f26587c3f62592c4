package securemail

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/textproto"
	"github.com/stretchr/testify/require"
)

// TestSamples: what clients really write passes through Draft.Raw octet for octet. Only a Bcc field goes, and only a
// Date and a Message-ID come where there is none.
func TestSamples(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "examples", "testdata", "*.eml"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(names), 22)
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			want, err := os.ReadFile(name)
			require.NoError(t, err)
			d := &Draft{Raw: File(name), To: To("anna@example.net"), Bcc: To("blind@example.net")}
			require.Empty(t, d.validate(limits{maxVisible: 20, maxSize: 1 << 20}))
			c := testContext()
			c.messageID = func() string { return "added" }
			m, _, faults, err := compose(d, c)
			require.NoError(t, err)
			require.Empty(t, faults)
			author, fault := rawAuthor(m)
			require.Empty(t, fault)
			require.NotZero(t, author.Address.Domain())
			requireParses(t, m)
			if filepath.Base(name) == "28-missing-date-and-id.eml" {
				want = stated(want)
			}
			require.Equal(t, string(want), string(wholeOf(t, m)))
			again, err := NewMessage(m)
			require.NoError(t, err)
			require.Equal(t, want, wholeOf(t, again))
		})
	}
}

// stated makes the stated changes to the one sample that calls for all of them.
func stated(raw []byte) []byte {
	cut := "Bcc: hidden-watcher@ward.example.org,\r\n second-watcher@ward.example.org\r\n"
	added := "Date: Tue, 24 Nov 2026 09:30:00 +0100\r\nMessage-ID: <added@mail.example.org>\r\n"
	return append([]byte(added), bytes.Replace(raw, []byte(cut), nil, 1)...)
}

// requireParses walks every part; a charset that the core does not link is no fault of the sample.
func requireParses(t *testing.T, m *Message) {
	e, err := message.Read(bytes.NewReader(wholeOf(t, m)))
	if err != nil {
		require.True(t, message.IsUnknownCharset(err), "%v", err)
	}
	leaves := 0
	require.NoError(t, e.Walk(func(_ []int, part *message.Entity, err error) error {
		if err != nil && !message.IsUnknownCharset(err) {
			return err
		}
		leaves++
		return nil
	}))
	require.Positive(t, leaves)
}

// TestSamplesSurviveGoMessage guards the library's parser: its header must give back what it read, as DKIM needs it.
func TestSamplesSurviveGoMessage(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "examples", "testdata", "*.eml"))
	require.NoError(t, err)
	for _, name := range names {
		m, err := NewMessage(File(name))
		require.NoError(t, err)
		e, err := message.Read(bytes.NewReader(wholeOf(t, m)))
		if err != nil {
			require.True(t, message.IsUnknownCharset(err), "%s: %v", name, err)
		}
		var head bytes.Buffer
		require.NoError(t, textproto.WriteHeader(&head, e.Header.Header))
		require.Equal(t, string(m.Head()), head.String(), name)
	}
}
