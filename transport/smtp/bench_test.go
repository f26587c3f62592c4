package smtp_test

import (
	"context"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
)

// BenchmarkDeliver sends 4 KB messages over kept connections to a peer in the same process, whose work counts too.
func BenchmarkDeliver(b *testing.B) {
	for name, o := range map[string]smtppeer.Options{
		"clear": {Discard: true}, "tls": {Discard: true, TLS: ca.Config("127.0.0.1")},
	} {
		b.Run(name, func(b *testing.B) {
			p, err := smtppeer.Start(o)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			tr, err := smtp.New(&smtp.Options{RootCAs: ca.Pool(), Relay: &smtp.Relay{Addr: p.Addr(), Operator: operator}, MaxUses: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer tr.Close()
			floor := named
			if o.TLS == nil {
				floor = anyway
			}
			s := shipment(b, floor, "Subject: x\r\n\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", 57))
			b.ReportAllocs()
			b.SetBytes(s.Message.Size())
			for b.Loop() {
				if _, err := tr.Deliver(context.Background(), s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var _ securemail.Transport = (*smtp.Transport)(nil)

// BenchmarkDecide is what the policies of one delivery cost, where nothing is published and where all is.
func BenchmarkDecide(b *testing.B) {
	for name, k := range map[string]smtp.Knowledge{
		"none": {Host: "mx.test", Floor: named, Ratchet: anyway, DANE: dane.None, STS: smtp.STSNone, Hop: securemail.HopFinal},
		"all":  {Host: "mx.test", Floor: named, Ratchet: verified, DANE: dane.Usable, STS: smtp.STSEnforce, STSMatch: true, Hop: securemail.HopFinal},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if smtp.Decide(k).Verdict != smtp.VerdictDeliver {
					b.Fatal("not delivered")
				}
			}
		})
	}
}
