package smtp

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/postseal/postseal/securemail"
)

// demand is what the session must give.
type demand struct {
	floor securemail.Channel
	// clear leaves STARTTLS out, after it failed; why says how.
	clear bool
	why   []securemail.Reason
	// probe: nothing will be sent, so no credentials are given.
	probe bool
	me    self
	// lax takes any TLS, and only any of this version where it is set: to look, never for mail. words takes the EHLO keywords.
	lax   bool
	only  uint16
	words *[]string
	// purpose is that of the mail.
	purpose securemail.Purpose
	// classical leaves the large groups out of the ClientHello.
	classical bool
}

// open makes a session for j, and reports how it went.
func (t *Transport) open(ctx context.Context, j *job, g target, me self) (*conn, *failure) {
	c, f := t.try(ctx, j, g, me)
	t.tell(ctx, j.Recipient.Address.Domain(), g, c, f)
	return c, f
}

// try makes a session. Under ChannelAny a failed handshake leads to a second session in the clear.
func (t *Transport) try(ctx context.Context, j *job, g target, me self) (*conn, *failure) {
	d := demand{floor: g.plan.terms.Least, me: me, purpose: j.Purpose}
	c, f := t.greet(ctx, g, &d)
	if f == nil || !f.handshake || d.floor != securemail.ChannelAny || ctx.Err() != nil {
		return c, f
	}
	d.clear, d.why = true, f.Wire.Reasons
	return t.connect(ctx, g, d)
}

// greet connects, and once more with a small ClientHello where the large one got no answer at all. That gives up the
// post-quantum groups and nothing else: the profile and the floor hold as before.
func (t *Transport) greet(ctx context.Context, g target, d *demand) (*conn, *failure) {
	if _, known := t.classical.get(g.name); known {
		d.classical = true
		d.why = note(d.why, "hello-classical", g.name+" did not answer a ClientHello with post-quantum groups lately")
	}
	c, f := t.connect(ctx, g, *d)
	if f == nil || !f.deaf || ctx.Err() != nil {
		return c, f
	}
	d.classical = true
	d.why = note(d.why, "hello-classical", g.name+" did not answer a ClientHello with post-quantum groups")
	c, f = t.connect(ctx, g, *d)
	if f == nil && c.tls != nil {
		t.classical.put(g.name, struct{}{}, classicalKept)
		t.log.LogAttrs(ctx, slog.LevelInfo, "smtp: ClientHello with post-quantum groups unanswered, small one accepted", slog.String("peer", g.name))
	}
	return c, f
}

// connect dials and brings the session to where MAIL could be said. The session may be below the floor: admit decides.
func (t *Transport) connect(ctx context.Context, g target, d demand) (*conn, *failure) {
	dialCtx, cancel := context.WithTimeout(ctx, t.timeouts.Connect)
	nc, err := t.dial(d.me.from(dialCtx), "tcp", g.hostport())
	cancel()
	if err != nil {
		f := ioFailure(ctx, stageConnect, err)
		// RFC 3463 section 3.5: 4.4.1, no answer from host.
		f.Enhanced = "4.4.1"
		return nil, f
	}
	c := &conn{net: nc, raw: nc, target: g, notes: d.why, purpose: d.purpose}
	stop := c.attend(ctx)
	f := t.hello(ctx, c, d)
	alive := stop()
	switch {
	case f != nil:
	case !alive:
		f = ioFailure(ctx, stageEHLO, errGone)
	case c.broken:
		f = hostFail(stageEHLO, &ReplyError{Rule: "unasked"})
	}
	if f != nil {
		// A session that did not end in a plain refusal gets no QUIT.
		c.broken = f.Code == 0 || f.Code == 421
		c.quit()
		return nil, f
	}
	return c, nil
}

// hello is all from the greeting to AUTH.
func (t *Transport) hello(ctx context.Context, c *conn, d demand) *failure {
	implicit := c.host.implicit()
	if implicit {
		if f := t.handshake(ctx, c, d); f != nil {
			// Port 465 knows no clear session.
			f.handshake, f.miss = false, d.floor != securemail.ChannelAny
			return f
		}
	}
	r, err := c.read(ctx, t.timeouts.Greeting, nil)
	if err != nil {
		return ioFailure(ctx, stageGreeting, err)
	}
	if r.code != 220 {
		return refusal(stageGreeting, r)
	}
	if f := t.ehlo(ctx, c, d); f != nil {
		return f
	}
	if !implicit && !d.clear {
		if f := t.upgrade(ctx, c, d); f != nil {
			return f
		}
	}
	t.judge(c)
	return t.authenticate(ctx, c, d)
}

// ehlo asks for the extensions, forgetting those of before. HELO is for floors that need none.
func (t *Transport) ehlo(ctx context.Context, c *conn, d demand) *failure {
	c.ext = extensions{}
	name := d.me.helo
	if name == "" {
		name = literal(c.net.LocalAddr())
	}
	each := c.ext.line
	if d.words != nil {
		each = func(n int, text []byte) {
			c.ext.line(n, text)
			keyword(d.words, n, text)
		}
	}
	r, err := c.ask(ctx, t.timeouts.EHLO, "EHLO "+name, each)
	if err != nil {
		return ioFailure(ctx, stageEHLO, err)
	}
	if r.code == 250 {
		return nil
	}
	// RFC 5321 section 3.2: a server that does not know EHLO.
	c.ext = extensions{}
	unknown := r.code == 500 || r.code == 502 || r.code == 504
	if !unknown || d.floor != securemail.ChannelAny || c.tls != nil {
		return refusal(stageEHLO, r)
	}
	if r, err = c.ask(ctx, t.timeouts.EHLO, "HELO "+name, nil); err != nil {
		return ioFailure(ctx, stageEHLO, err)
	}
	if r.code != 250 {
		return refusal(stageEHLO, r)
	}
	return nil
}

// literal is an address literal for EHLO (RFC 5321 sections 4.1.1.1 and 4.1.3).
func literal(a net.Addr) string {
	if ta, ok := a.(*net.TCPAddr); ok {
		if ip := ta.AddrPort().Addr().Unmap(); ip.Is4() {
			return "[" + ip.String() + "]"
		} else if ip.IsValid() {
			return "[IPv6:" + ip.WithZone("").String() + "]"
		}
	}
	return "localhost"
}

// upgrade does STARTTLS where it is offered. Where it can't be had the session stays clear, with the reason noted, and the
// floor decides later.
func (t *Transport) upgrade(ctx context.Context, c *conn, d demand) *failure {
	if !c.ext.startTLS {
		c.notes = note(c.notes, "starttls-not-offered", c.host.name+" offers no STARTTLS")
		return nil
	}
	r, err := c.ask(ctx, t.timeouts.EHLO, "STARTTLS", nil)
	if err != nil {
		return ioFailure(ctx, stageTLS, err)
	}
	if r.code != 220 {
		c.notes = note(c.notes, "starttls-refused", c.host.name+" offers STARTTLS and refuses it")
		// RFC 3207 section 4: 454, TLS not available due to temporary reason.
		c.unsure = r.class() == 4
		if d.floor == securemail.ChannelAny && r.code != 421 {
			return nil
		}
		f := refusal(stageTLS, r)
		f.miss, f.temporary = d.floor != securemail.ChannelAny, c.unsure
		f.Wire = securemail.Wire{Hop: hopOf(c.host), Reasons: c.notes}
		return f
	}
	if c.br.Buffered() > 0 {
		return injected(c)
	}
	if f := t.handshake(ctx, c, d); f != nil {
		return f
	}
	return t.ehlo(ctx, c, d)
}

// injected is the end of a delivery to whose session somebody added octets.
func injected(c *conn) *failure {
	f := fail(stageTLS, ErrInjected)
	f.Wire.Reasons = note(nil, "starttls-injection", c.host.name+": octets in the clear behind the reply to STARTTLS")
	return f
}

// handshake puts TLS on c. The profile is held to before it ends, unless all that is asked for is better than clear text.
// The certificate is judged afterwards, since any may do, and since the judgement is evidence.
func (t *Transport) handshake(ctx context.Context, c *conn, d demand) *failure {
	lax := d.lax || d.floor == securemail.ChannelAny && !d.probe
	config := &tls.Config{
		ServerName:         c.sni(),
		InsecureSkipVerify: true, //nolint:gosec // judge verifies
		MinVersion:         tls.VersionTLS12,
		Time:               t.now,
		// A message fits one record; TLS would cut it into small ones otherwise.
		DynamicRecordSizingDisabled: true,
	}
	t.profile.offer(config, lax, d.classical)
	if d.only != 0 {
		config.MinVersion, config.MaxVersion, config.CipherSuites = d.only, d.only, everySuite()
	}
	if !lax {
		config.VerifyConnection = func(cs tls.ConnectionState) error {
			if cs.Version == tls.VersionTLS12 && cs.CurveID == 0 {
				cs.CurveID = tls.CurveP256 // TLS 1.2 tells it later; it is looked at when all is over
			}
			return t.profile.verify(&cs, t.bare(c, &cs))
		}
	}
	first := &ear{Conn: c.net, ctx: ctx}
	wait := t.timeouts.Handshake
	if !d.classical && t.timeouts.Hello < wait {
		first.extend, wait = deadline(ctx, wait), t.timeouts.Hello
	}
	tc := tls.Client(first, config)
	err := c.arm(ctx, wait)
	if err == nil {
		err = tc.Handshake()
	}
	if err != nil {
		return t.noTLS(ctx, c, err, !d.classical && first.deaf(err))
	}
	cs := tc.ConnectionState()
	c.use(tc)
	c.tls = &cs
	if err := t.profile.verify(&cs, t.bare(c, &cs)); err != nil {
		if !lax {
			return t.noTLS(ctx, c, err, false)
		}
		if pe, ok := errors.AsType[*ProfileError](err); ok {
			c.notes = note(c.notes, pe.Rule, "TLS with "+c.host.name+" is outside the profile "+t.profile.String()+", and better than none")
		}
	}
	return nil
}

// noTLS is a handshake that failed.
func (t *Transport) noTLS(ctx context.Context, c *conn, err error, deaf bool) *failure {
	if ctx.Err() != nil {
		return ioFailure(ctx, stageTLS, err)
	}
	// Conn is set where the first octets were no TLS record: they are behind the 220 too, only a segment later.
	if re, ok := errors.AsType[tls.RecordHeaderError](err); ok && re.Conn != nil && !c.host.implicit() {
		return injected(c)
	}
	rule, temporary := handshakeRule(err)
	text := "TLS handshake with " + c.host.name + " failed"
	if _, ok := errors.AsType[*ProfileError](err); ok {
		text = "TLS with " + c.host.name + " is outside the profile " + t.profile.String()
	}
	f := miss(securemail.Wire{Hop: hopOf(c.host), Reasons: c.notes}, rule, text)
	f.Err, f.temporary, f.handshake, f.deaf = errHandshake, temporary, true, deaf
	return f
}

// handshakeRule names what went wrong, and whether it may pass. crypto/tls has no types for most of it.
func handshakeRule(err error) (rule string, temporary bool) {
	if pe, ok := errors.AsType[*ProfileError](err); ok {
		return pe.Rule, false
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return "tls-timeout", true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "tls-garbage", false
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "protocol version"):
		return "tls-version", false
	case strings.Contains(text, "remote error: tls:"):
		return "tls-alert", false
	case bare(context.Background(), err) == errGone || strings.Contains(text, "reset by peer"):
		return "tls-closed", true
	}
	return "tls-handshake", false
}

// maxSteps bounds a SASL exchange.
const maxSteps = 10

// authenticate gives the credentials, if there are any, to a peer that proved its name.
func (t *Transport) authenticate(ctx context.Context, c *conn, d demand) *failure {
	r := c.host.relay
	if r == nil || d.probe || r.User == "" && r.SASL == nil {
		return nil
	}
	proved := c.tls != nil && c.wire.Proof != ""
	if !proved && !(r.InsecureLoopbackAuth && c.addr.IsLoopback()) {
		if d.floor != securemail.ChannelAny && c.plan.terms.missed(&c.wire, c.shown) != "" {
			return nil // admit turns it down, with reasons
		}
		f := hostFail(stageAuth, ErrUnproved)
		f.Wire = c.wire
		return f
	}
	client, f := saslClient(ctx, c, r)
	if f != nil {
		return f
	}
	return t.exchange(ctx, c, client)
}

func saslClient(ctx context.Context, c *conn, r *Relay) (sasl.Client, *failure) {
	if r.SASL != nil {
		client, err := r.SASL(ctx)
		if err != nil {
			return nil, fail(stageAuth, &quiet{errNoMechanism, err})
		}
		return client, nil
	}
	switch {
	case slices.Contains(c.ext.auth, sasl.Plain):
		return sasl.NewPlainClient("", r.User, r.Password.Reveal()), nil
	case slices.Contains(c.ext.auth, sasl.Login):
		return &login{answers: []string{r.User, r.Password.Reveal()}}, nil
	}
	return nil, hostFail(stageAuth, errNoMechanism)
}

// login is LOGIN (draft-murchison-sasl-login-00): user and password, whatever the challenges say; go-sasl's own client
// insists on one spelling.
type login struct{ answers []string }

// Start implements sasl.Client.
func (l *login) Start() (mech string, ir []byte, err error) { return sasl.Login, nil, nil }

// Next implements sasl.Client.
func (l *login) Next([]byte) ([]byte, error) {
	if len(l.answers) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	a := l.answers[0]
	l.answers = l.answers[1:]
	return []byte(a), nil
}

// exchange is AUTH (RFC 4954 section 4).
func (t *Transport) exchange(ctx context.Context, c *conn, client sasl.Client) *failure {
	mech, initial, err := client.Start()
	if err != nil {
		return fail(stageAuth, &quiet{errNoMechanism, err})
	}
	command := "AUTH " + mech
	if initial != nil {
		if command += " " + base64.StdEncoding.EncodeToString(initial); len(initial) == 0 {
			command += "=" // RFC 4954 section 4: an empty initial response
		}
	}
	r, err := c.ask(ctx, t.timeouts.EHLO, command, nil)
	for range maxSteps {
		if err != nil {
			return ioFailure(ctx, stageAuth, err)
		}
		if r.code == 235 {
			return nil
		}
		if r.code != 334 {
			f := refusal(stageAuth, r)
			f.Wire = c.wire
			return f
		}
		answer := "*" // RFC 4954 section 4: cancel
		if challenge, err := base64.StdEncoding.DecodeString(string(r.text)); err == nil {
			if next, err := client.Next(challenge); err == nil {
				answer = base64.StdEncoding.EncodeToString(next)
			}
		}
		r, err = c.ask(ctx, t.timeouts.EHLO, answer, nil)
	}
	return hostFail(stageAuth, &ReplyError{Rule: "unexpected"})
}
