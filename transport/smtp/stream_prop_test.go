package smtp_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// Whatever a far end answers and wherever it breaks off, each delivery of a stream gets its own result: nothing that was
// accepted is called undelivered, nothing arrives twice, and a refused recipient gets nothing.
func TestStreamProperty(t *testing.T) {
	stages := []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageReset, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData, smtppeer.StageBody,
		smtppeer.StageDot,
	}
	const short = 40 * time.Millisecond
	const silent = 3 // of the actions
	actions := []smtppeer.Action{
		{Delay: 2 * time.Millisecond}, {Stall: true}, {Close: true}, {Code: 421, Text: "x", Close: true}, {Code: 421, Text: "x"}, {Code: 451, Text: "x"},
		{Code: 554, Text: "x"}, {Code: 503, Text: "x", Close: true}, {Code: 354, Text: "x"}, {Code: 250, Text: "x", Close: true},
		{Code: 250, Text: "x", Lines: 40}, {Raw: "25", Close: true}, {Raw: "250-x\r\n", Close: true}, {Raw: "!\r\n"}, {Code: 250, Text: "x", Lines: 500},
	}
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t)
		defer l.dns.Close()
		type moment struct {
			stage smtppeer.Stage
			n     int
		}
		script := map[moment]smtppeer.Action{}
		for range rapid.IntRange(0, 4).Draw(rt, "faults") {
			m := moment{rapid.SampledFrom(stages).Draw(rt, "stage"), rapid.IntRange(1, 30).Draw(rt, "n")}
			of := actions
			if m.stage == smtppeer.StageBody { // the Peer says nothing there
				of = actions[:silent]
			}
			script[m] = rapid.SampledFrom(of).Draw(rt, "action")
		}
		o := smtppeer.Options{
			Extensions: rapid.SampledFrom([][]string{chunking, {"PIPELINING"}, {"CHUNKING"}, append([]string{"LIMITS MAILMAX=7"}, chunking...)}).Draw(rt, "ext"),
			Chunk:      rapid.SampledFrom([]smtppeer.Chunk{smtppeer.ChunkDiscard, smtppeer.ChunkParse, smtppeer.ChunkClose}).Draw(rt, "chunk"),
			KeepSender: rapid.Bool().Draw(rt, "keep"),
			Hook: func(e smtppeer.Event) *smtppeer.Action {
				if a, ok := script[moment{e.Stage, e.N}]; ok {
					return &a
				}
				if e.Stage == smtppeer.StageRcpt && strings.Contains(e.Arg, "5@") {
					return &smtppeer.Action{Code: 550, Text: "5.1.1 no"}
				}
				return nil
			},
		}
		var conf *tls.Config
		if rapid.Bool().Draw(rt, "tls") {
			conf = ca.Config("mx1.test")
		}
		o.TLS = conf
		p := l.mx(o)
		stream := &smtp.Stream{
			Window: rapid.IntRange(1, 8).Draw(rt, "window"), Connections: rapid.IntRange(1, 3).Draw(rt, "connections"), MaxUses: rapid.IntRange(2, 30).Draw(rt, "uses"),
		}
		tr := l.transport(func(o *smtp.Options) {
			o.Stream, o.Limits.Wait = stream, 50*time.Millisecond
			o.Timeouts = smtp.Timeouts{
				Greeting: short, EHLO: short, Mail: short, Rcpt: short, DataInit: short, DataBlock: short, Dot: short, Total: 10 * time.Second,
			}
		})
		hasty := rapid.IntRange(0, 40).Draw(rt, "hasty")
		errs := make([]error, 24)
		var wg sync.WaitGroup
		for i := range errs {
			s := numbered(t, anyway, i)
			wg.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if i%8 == 3 {
					time.AfterFunc(time.Duration(hasty)*100*time.Microsecond, cancel)
				}
				_, errs[i] = tr.Deliver(ctx, s)
			})
		}
		wg.Wait()
		require.NoError(rt, tr.Close())
		p.Close() // what is under way is over
		taken := map[string]int{}
		for _, m := range p.Messages() {
			if len(m.Rcpts) > 0 {
				require.Len(rt, m.Rcpts, 1)
				require.Equal(rt, strings.TrimPrefix(m.From, "s"), strings.Replace(strings.TrimPrefix(m.Rcpts[0], "r"), "clinic", "sender", 1))
				require.Contains(rt, string(m.Data), "Subject: n"+strings.TrimSuffix(strings.TrimPrefix(m.From, "s"), "@sender.test")+"\r\n")
				taken[m.From]++
			}
		}
		for i, err := range errs {
			n := taken[fmt.Sprintf("s%d@sender.test", i)]
			require.LessOrEqual(rt, n, 1, "message %d", i)
			if err == nil {
				require.Equal(rt, 1, n, "message %d is called delivered", i)
				continue
			}
			if d, ok := errorAs[*securemail.DeliveryError](err); !ok || d.Fate != securemail.FateUncertain {
				require.Zero(rt, n, "message %d was taken: %v", i, err)
			}
		}
	})
}
