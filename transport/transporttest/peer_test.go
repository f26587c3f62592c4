package transporttest_test

import (
	"bytes"
	"fmt"
	"sync/atomic"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/transport/transporttest"
)

// smtpFar is internal/smtppeer as the kit's far end.
type smtpFar struct {
	*smtppeer.Peer
	addr  string
	cert  func(m smtppeer.Message) *transporttest.Delivery
	now   atomic.Value // transporttest.Behaviour
	setup transporttest.Setup
}

// Deliveries are the messages whose final dot came.
func (f *smtpFar) Deliveries() []transporttest.Delivery {
	var ds []transporttest.Delivery
	for _, m := range f.Attempts() {
		if m.Complete {
			ds = append(ds, *f.cert(m))
		}
	}
	return ds
}

// Received is every command, and every message as far as it came.
func (f *smtpFar) Received() []byte {
	var b bytes.Buffer
	for _, c := range f.Commands() {
		b.WriteString(c.Line + "\n")
	}
	for _, m := range f.Attempts() {
		b.Write(m.Data)
	}
	return b.Bytes()
}

// newSMTPFar starts a Peer that behaves as s asks, under the name host.
func newSMTPFar(s transporttest.Setup, host string) (*smtpFar, *transporttest.PKI, error) {
	pki, err := transporttest.NewPKI(host)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := pki.Server(s.Behaviour)
	if err != nil {
		return nil, nil, err
	}
	f := &smtpFar{setup: s}
	f.now.Store(s.Behaviour)
	f.cert = func(m smtppeer.Message) *transporttest.Delivery {
		d := &transporttest.Delivery{Sender: &m.From, Recipients: m.Rcpts, Message: m.Data, Accepted: m.Taken}
		if m.TLS != nil {
			d.TLS = transporttest.FactsOf(*m.TLS, cfg.Certificates[0])
		}
		return d
	}
	o := smtppeer.Options{
		Extensions: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN"}, Hostname: host, TLS: cfg, StripTLS: s.Behaviour == transporttest.StripTLS, Hook: f.hook,
	}
	if s.Behaviour == transporttest.NoTLS {
		o.TLS = nil
	}
	if f.Peer, err = smtppeer.Start(o); err != nil {
		return nil, nil, err
	}
	if f.addr = f.Addr(); s.Behaviour == transporttest.Refuse {
		f.Close()
	}
	return f, pki, nil
}

// hook is the behaviour, stage by stage.
func (f *smtpFar) hook(e smtppeer.Event) *smtppeer.Action {
	behave := f.now.Load().(transporttest.Behaviour)
	switch e.Stage {
	case smtppeer.StageGreeting:
		return f.greeting(behave)
	case smtppeer.StageRcpt:
		switch behave {
		case transporttest.RejectRecipient:
			return f.say(550, "5.1.1 no such user")
		case transporttest.DeferRecipient:
			return f.say(451, "4.2.1 mailbox busy")
		}
	case smtppeer.StageData, smtppeer.StageBody:
		if behave == transporttest.DropBeforeBody {
			return act(smtppeer.Drop())
		}
	case smtppeer.StageDot:
		return f.dot(behave)
	}
	return nil
}

func (f *smtpFar) greeting(behave transporttest.Behaviour) *smtppeer.Action {
	switch behave {
	case transporttest.Busy:
		return &smtppeer.Action{Code: 421, Text: "4.3.2 too busy " + f.setup.Echo, Close: true}
	case transporttest.Stall:
		return act(smtppeer.Stall())
	case transporttest.Garbage:
		return &smtppeer.Action{Raw: "\x00\x16HTTP/1.1 " + f.setup.Echo + "\r\n", Close: true}
	}
	return nil
}

func (f *smtpFar) dot(behave transporttest.Behaviour) *smtppeer.Action {
	switch behave {
	case transporttest.TempFail:
		return f.say(451, "4.3.0 try later")
	case transporttest.PermFail:
		return f.say(554, "5.6.0 refused")
	case transporttest.DropAfterBody:
		return &smtppeer.Action{Close: true, Taken: true}
	case transporttest.SilentAfterBody:
		return &smtppeer.Action{Stall: true, Taken: true}
	case transporttest.GarbageAfterBody:
		return &smtppeer.Action{Raw: "\x00\x00 " + f.setup.Echo + "\r\n", Close: true, Taken: true}
	case transporttest.HugeReply:
		return &smtppeer.Action{Banner: transporttest.HugeSize, Close: true, Taken: true}
	}
	return f.say(250, fmt.Sprintf("2.0.0 queued as Q%d", len(f.Attempts())))
}

func (f *smtpFar) say(code int, text string) *smtppeer.Action {
	return &smtppeer.Action{Code: code, Text: text + " " + f.setup.Echo}
}

func (f *smtpFar) recover() { f.now.Store(transporttest.Accept) }

func act(a smtppeer.Action) *smtppeer.Action { return &a }
