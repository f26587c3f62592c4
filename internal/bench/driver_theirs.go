package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/smtp"
	"strconv"

	"github.com/mjl-/mox/dns"
	"github.com/mjl-/mox/smtpclient"
	"github.com/wneessen/go-mail"
)

// netSMTP is the standard library's client.
func netSMTP() driver {
	return driver{"net/smtp", single(func(ctx context.Context, to target) (client, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.addr)
		if err != nil {
			return nil, err
		}
		c, err := smtp.NewClient(conn, sinkName)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		if err := c.Hello("client.test"); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if to.wire == starttls {
			if err := c.StartTLS(to.tls()); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
		return &netClient{c, message()}, nil
	})}
}

type netClient struct {
	c *smtp.Client
	b []byte
}

func (n *netClient) deliver(context.Context) error {
	if err := n.c.Mail(sender); err != nil {
		return err
	}
	if err := n.c.Rcpt(recipient); err != nil {
		return err
	}
	w, err := n.c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(n.b); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

func (n *netClient) close() error { return n.c.Quit() }

// goMail is go-mail with one connection kept open and the message composed once; it renders it again each time.
func goMail() driver {
	return driver{"go-mail", single(func(ctx context.Context, to target) (client, error) {
		_, port, err := net.SplitHostPort(to.addr)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		policy := mail.NoTLS
		if to.wire == starttls {
			policy = mail.TLSMandatory
		}
		c, err := mail.NewClient(sinkName, mail.WithPort(n), mail.WithTLSPolicy(policy), mail.WithTLSConfig(to.tls()),
			mail.WithHELO("client.test"), mail.WithoutNoop(),
			mail.WithDialContextFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, to.addr)
			}))
		if err != nil {
			return nil, err
		}
		if err := c.DialWithContext(ctx); err != nil {
			return nil, err
		}
		m, err := goMailMessage()
		return &goMailClient{c, m}, err
	})}
}

func goMailMessage() (*mail.Msg, error) {
	_, body, _ := bytes.Cut(message(), []byte("\r\n\r\n"))
	m := mail.NewMsg()
	m.Subject("Your appointment")
	m.SetMessageIDWithValue("bench@sender.test")
	m.SetDate()
	m.SetBodyString(mail.TypeTextPlain, string(body))
	m.SetEncoding(mail.NoEncoding)
	return m, errors.Join(m.From(sender), m.To(recipient))
}

type goMailClient struct {
	c *mail.Client
	m *mail.Msg
}

func (g *goMailClient) deliver(context.Context) error { return g.c.Send(g.m) }
func (g *goMailClient) close() error                  { return g.c.Close() }

// mox is the SMTP client of the mail server mox.
func mox() driver {
	return driver{"mox", single(func(ctx context.Context, to target) (client, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.addr)
		if err != nil {
			return nil, err
		}
		mode := smtpclient.TLSSkip
		if to.wire == starttls {
			mode = smtpclient.TLSRequiredStartTLS
		}
		c, err := smtpclient.New(ctx, slog.New(slog.DiscardHandler), conn, mode, to.wire == starttls, dns.Domain{ASCII: "client.test"},
			dns.Domain{ASCII: sinkName}, smtpclient.Opts{RootCAs: to.roots})
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return &moxClient{c, message()}, nil
	})}
}

type moxClient struct {
	c *smtpclient.Client
	b []byte
}

func (m *moxClient) deliver(ctx context.Context) error {
	return m.c.Deliver(ctx, sender, recipient, int64(len(m.b)), bytes.NewReader(m.b), false, false, false)
}

func (m *moxClient) close() error { return m.c.Close() }
