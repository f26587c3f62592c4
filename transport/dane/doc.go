// Package dane decides whether a mail host's TLS certificate is the one that its domain published in signed DNS: DANE for
// SMTP (RFC 6698, RFC 7671, RFC 7672). It stands alone: it imports nothing of this module, asks DNS through a [Resolver]
// that the caller brings, and opens no connection.
//
// Two calls make a decision. [Lookup] runs before the connection: it finds the TLSA records of a [Host] and says in
// [Policy] what they ask for. [Policy.Verify] runs in the handshake, on the certificates that the host showed.
//
//	p := dane.Lookup(ctx, resolver, dane.Host{Name: "mx.example", Port: 25, NextHop: "example", Signed: true, Secure: true})
//	switch p.State {
//	case dane.None:     // DANE asks for nothing here
//	case dane.Usable:   // TLS with ServerName p.Base, and p.Verify must pass
//	case dane.Unusable: // TLS, not authenticated by DANE
//	case dane.Unknown:  // leave this host alone for now
//	}
//
// # What counts
//
//   - Only proved answers: without a signed MX answer, and a signed address answer or a signed alias, no TLSA record is
//     asked for; one that DNSSEC does not cover is as good as none. Whether "secure" is true is for the [Resolver] to
//     know: the AD bit of a server that does not validate, or on a path that others can write to, proves nothing.
//   - What is not known is never taken for absent: a failed look-up is [Unknown], never [None]. That holds for answers
//     that DNSSEC finds bogus, which a validating resolver turns into a server failure.
//   - Usages DANE-TA(2) and DANE-EE(3). PKIX-TA(0) and PKIX-EE(1) are unusable for SMTP (RFC 7672 section 3.1.3).
//   - Digest agility (RFC 7671 section 9): among records of one usage and selector, those with SHA2-512 put those with
//     SHA2-256 out of use. Records with full data always count.
//   - DANE-EE(3) binds the key alone: names, dates, chain and key usage don't matter (RFC 7671 section 5.1). DANE-TA(2)
//     asks for a chain to the anchor, valid now, and a name among [Policy.Names] (RFC 7672 section 3.1.2). The anchor may
//     be missing from what the host sends, if the record holds it in full.
//   - Whatever the records and chains, the work is bounded.
//
// Raw public keys (RFC 7250), revocation and the quality of suites and keys are not looked at.
//
// For the other side, one's own hosts, [RecordFor] makes a record of a certificate, and [Record.Line] the line for the
// zone.
package dane
