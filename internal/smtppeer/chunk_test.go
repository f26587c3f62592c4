package smtppeer_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
)

// pipelined sends all at once and returns what came back until the peer closed.
func pipelined(t *testing.T, o smtppeer.Options, lines string) (*smtppeer.Peer, []string) {
	t.Helper()
	p := start(t, o)
	w := dial(t, p)
	w.say("")
	w.say("EHLO c\r\n")
	_, err := io.WriteString(w, lines+"QUIT\r\n")
	require.NoError(t, err)
	all, err := io.ReadAll(w.br)
	require.NoError(t, err)
	var codes []string
	for l := range strings.Lines(string(all)) {
		codes = append(codes, l[:3])
	}
	return p, codes
}

func TestBDAT(t *testing.T) {
	p, codes := pipelined(t, smtppeer.Options{},
		"MAIL FROM:<a@x> RET=HDRS\r\nRCPT TO:<b@y> NOTIFY=NEVER X=1\r\nBDAT 6\r\nhello\nBDAT x LAST\r\nBDAT 3 LAST\r\n.\r\n")
	require.Equal(t, []string{"250", "250", "250", "501", "250", "221"}, codes)
	m := p.Messages()[0]
	require.Equal(t, "hello\n.\r\n", string(m.Data))
	require.Equal(t, []int64{6, 3}, m.Chunks)
	require.Equal(t, []string{"RET=HDRS"}, m.Params)
	require.Equal(t, []string{"NOTIFY=NEVER X=1"}, m.RcptParams)
	require.True(t, m.Complete && m.Taken && m.Replied)
}

func TestRefusedChunk(t *testing.T) {
	const first = "MAIL FROM:<a@x>\r\nRCPT TO:<no@y>\r\nBDAT 6 LAST\r\nNOOP\r\n"
	const second = "MAIL FROM:<c@x>\r\nRCPT TO:<d@y>\r\nBDAT 2 LAST\r\n\r\n"
	no := func(a string) *smtppeer.Action {
		if a == "no@y" {
			return &smtppeer.Action{Code: 550, Text: "5.1.1 no"}
		}
		return nil
	}
	for name, c := range map[string]struct {
		o     smtppeer.Options
		lines string
		codes string
		from  string
	}{
		"discard": {smtppeer.Options{Rcpt: no}, first + second, "250 550 503 250 250 250 221", "c@x"},
		"parse":   {smtppeer.Options{Rcpt: no, Chunk: smtppeer.ChunkParse}, first + second, "250 550 503 250 250 250 250 221", "c@x"},
		// The hazard: the second message goes out under the first one's sender.
		"keep":           {smtppeer.Options{Rcpt: no, KeepSender: true}, first + second, "250 550 503 503 250 250 221", "a@x"},
		"keep with RSET": {smtppeer.Options{Rcpt: no, KeepSender: true}, first + "RSET\r\n" + second, "250 550 503 250 250 250 250 221", "c@x"},
		"close":          {smtppeer.Options{Rcpt: no, Chunk: smtppeer.ChunkClose}, first + second, "250 550", ""},
		"accept":         {smtppeer.Options{Rcpt: no, Chunk: smtppeer.ChunkAccept}, first, "250 550 250 221", "a@x"},
		"chunk refused": {
			smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageChunk: smtppeer.Refuse(552, "5.3.4 x")}},
			"MAIL FROM:<a@x>\r\nRCPT TO:<d@y>\r\nBDAT 2\r\nabBDAT 2 LAST\r\n\r\n", "250 250 552 503 221", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, codes := pipelined(t, c.o, c.lines)
			require.Equal(t, c.codes, strings.Join(codes, " "))
			if c.from == "" {
				require.Empty(t, p.Messages())
				return
			}
			require.Len(t, p.Messages(), 1)
			require.Equal(t, c.from, p.Messages()[0].From)
		})
	}
}
