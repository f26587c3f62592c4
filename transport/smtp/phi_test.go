package smtp_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Personal data is in no error text, no reason and no log line, though far ends echo it at every stage.
func TestNoPersonalDataInErrorsAndLogs(t *testing.T) {
	echo := "5.1.1 <" + canary + "@clinic.test> " + canary + " queued as " + canary + "@x"
	var logs lockedBuffer
	logger := slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	stages := []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageStartTLS, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData,
		smtppeer.StageBody, smtppeer.StageDot,
	}
	for _, stage := range stages {
		for _, a := range []smtppeer.Action{
			{Code: 550, Text: echo}, {Code: 450, Text: echo, Close: true}, {Code: 421, Text: echo}, {Raw: echo + "\r\n", Close: true},
			{Code: 250, Text: echo}, {Raw: "250-" + canary + "\r\n550 " + canary + "\r\n"},
		} {
			for _, floor := range []securemail.Channel{named, anyway} {
				l := newLab(t)
				l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(stage, a)})
				tr := l.transport(func(o *smtp.Options) {
					o.Logger = logger
					o.Timeouts = smtp.Timeouts{EHLO: time.Second, Handshake: time.Second, Mail: time.Second, Rcpt: time.Second, DataInit: time.Second, Dot: time.Second}
				})
				r, err := l.deliver(tr, floor)
				if r != nil {
					require.NotContains(t, fmt.Sprintf("%+v", *r), canary)
					continue
				}
				for _, verb := range []string{"%v", "%+v", "%s", "%q"} {
					require.NotContains(t, fmt.Sprintf(verb, err), canary)
				}
				if d, ok := errorAs[*securemail.DeliveryError](err); ok {
					require.NotContains(t, fmt.Sprint(d.Wire), canary)
					require.LessOrEqual(t, len(d.Remote), 512)
				}
			}
		}
	}
	require.NotEmpty(t, logs.b.String())
	require.NotContains(t, logs.b.String(), canary)
	require.NotContains(t, logs.b.String(), "@")
}
