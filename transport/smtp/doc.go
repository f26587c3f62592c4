// Package smtp delivers mail by SMTP (RFC 5321): to the recipient's own mail hosts, or through a smart host.
//
// [New] makes a [Transport], which is a securemail.Transport and a securemail.Prober. Nil options deliver to the mail
// hosts that the system's resolver names, on port 25:
//
//	t, err := smtp.New(&smtp.Options{HELO: "mail.example.org"})
//	defer t.Close()
//
// # What it proves
//
// STARTTLS is used whenever it is offered, and always TLS 1.2 or later; there is no switch for less. What the handshake
// and the certificate gave becomes a securemail.Wire, and the wire is held against the shipment's Channel before MAIL
// goes out. The wire that misses the floor carries nothing, not even the addresses; the next mail host is tried, and in
// the end a *securemail.ChannelError names each step. What proves a name:
//
//   - PKIX for the MX host's name (proof "pkix", ChannelNamed): the MX record itself was not signed.
//   - PKIX with an MX answer that a trusted validating resolver marked as authentic ("pkix-dnssec", ChannelVerified); see
//     [DNSOptions].
//   - A [Pin] of the recipient's domain, or a [Relay] whose certificate holds ("configured", ChannelVerified).
//
// What DNS names is a stranger's word: names that are no host names are left out, a chain of aliases without end is no
// answer, and mail hosts on private and other special addresses are not spoken to, see Options.AllowPrivate.
//
// Only ChannelAny lets a message go in the clear, and only where the peer offers no TLS or the handshake failed. A relay
// proves the hop to itself alone: what lies beyond counts only if [Relay] has an Operator.
//
// What a peer says before TLS is forgotten once TLS is on (RFC 3207 section 4.2). Octets that arrive in the clear behind
// the reply to STARTTLS, in its segment or a later one, are an injection: [ErrInjected] ends the delivery, whatever the floor.
//
// # The point of no return
//
// The message's octets go out after the peer accepted sender, recipient and DATA. The final dot, without which no peer
// may deliver (RFC 5321 section 4.1.1.4), is held back until Shipment.Intend has returned nil. An error of Intend drops
// the connection. After the dot, whatever is no clear answer is FateUncertain and is never repeated here.
//
// # Replies
//
// 2yz is success. 4yz, and 421 anywhere, is FateRetry. 5yz is FatePermanent, but for replies that speak of us or the host
// and not of this mail, which are FateRetry: refusals at the greeting (all but 521 and 556 of RFC 7504), EHLO, STARTTLS
// and AUTH (RFC 4954 section 6: a wrong password is ours to mend), 530 and 503 anywhere, and 552 to RCPT (RFC 5321 section
// 4.5.3.1.10). A host that fails before RCPT is followed by the next one. Texts of the far end are in
// DeliveryError.Remote, at most 512 octets, and in no error text and no log line.
//
// # Not here
//
// DANE, MTA-STS, TLS profiles, CHUNKING, DSN and per-destination rates are not here yet. The message is sent as it is: it
// is not converted for a peer that lacks 8BITMIME or SMTPUTF8, since that would break signatures.
package smtp
