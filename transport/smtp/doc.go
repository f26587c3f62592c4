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
// [Decide] says what each mail host must give before a message goes to it: a pure function of the shipment's Channel, what
// the domain published (DANE, MTA-STS), what it gave before ([Ratchet]), what is configured, and what the sender asked for
// (REQUIRETLS). Then STARTTLS is used whenever it is offered, and always TLS 1.2 or later; there is no switch for less. What
// the handshake and the certificate gave becomes a securemail.Wire, and it is held against the [Terms] before MAIL goes out,
// on a kept connection too. A session that misses them carries nothing, not even the addresses; the next mail host is tried,
// and in the end a *securemail.ChannelError names each step. What proves a name, the strongest first:
//
//   - A [Pin] of the recipient's domain, or a [Relay] whose certificate holds ("configured", ChannelVerified).
//   - A TLSA record that matches ("dane", ChannelVerified; RFC 7672). DANE is used wherever the Resolver is a dane.Resolver and
//     its answers are Secure; see [DNSOptions].
//   - An MTA-STS policy in mode enforce that names the host, and PKIX ("mta-sts", ChannelVerified; RFC 8461); see Options.STS.
//   - PKIX with an MX answer that a trusted validating resolver marked as authentic ("pkix-dnssec", ChannelVerified).
//   - PKIX for the MX host's name ("pkix", ChannelNamed): the MX record itself was not signed.
//
// A policy that the domain published binds whatever the Channel: then nothing goes in the clear or to a host that does not
// prove itself, under ChannelAny too, and a failure is a temporary *securemail.ChannelError. Where both are published both
// must hold. What can't be known now (DNS fails, no cached policy) defers the mail as a *securemail.DeliveryError, and is never
// taken for "there is none". A policy that only tests weakens nothing. Before mail fails by an MTA-STS policy the policy is
// asked for again, and with a new one the hosts are visited once more.
//
// Where TLS is asked for it must also be what the [Profile] allows, held against the finished handshake. Under ChannelAny,
// without a policy that binds, any TLS is better than none and the Receipt says what it was; only there a message may go in
// the clear, where the peer offers no TLS or the handshake failed. securemail.Wire.Meets is the minimum that all transports
// have in common; the Profile is this one's. A ClientHello with post-quantum groups that gets no answer at all is followed by
// a small one on a second connection, with the same profile and floor. Whoever can drop packets can cause that, and gains
// classical key exchange, no more.
//
// The reasons in Receipt, ChannelError and Probe's Route are the chain: what was published and what it asked for, what the
// session showed, what proved the name or what was missed. [Transport.Observe] shows all of a domain's hosts in detail. Each
// session's outcome goes to Options.TLSRPT, under the domain that it was opened for.
//
// What DNS names is a stranger's word: names that are no host names are left out, a chain of aliases without end is no
// answer, and mail hosts on private and other special addresses are not spoken to, see Options.AllowPrivate.
//
// A relay proves the hop to itself alone: what lies beyond counts only if [Relay] has an Operator whose agreement is in
// force, and whose Uses, if it names any, hold the shipment's Purpose. Otherwise no floor above ChannelAny is met, and the
// relay is not even connected to. Policies that the recipient's domain published are then the relay's to keep.
//
// What a peer says before TLS is forgotten once TLS is on (RFC 3207 section 4.2). Octets that arrive in the clear behind
// the reply to STARTTLS, in its segment or a later one, are an injection: [ErrInjected] ends the delivery, whatever the floor.
//
// # The point of no return
//
// The message's octets go out after the peer accepted sender, recipient and DATA. The final dot, without which no peer
// may deliver (RFC 5321 section 4.1.1.4), or with BDAT the whole last chunk, is held back until Shipment.Intend has returned
// nil. An error of Intend drops the connection or leaves it to a RSET. A stream of chunks calls Intend before the message
// goes, and so before the recipient's answer is known. After the dot, whatever is no clear answer is FateUncertain and is never repeated here.
//
// # Replies
//
// 2yz is success. 4yz, and 421 anywhere, is FateRetry. 5yz is FatePermanent, but for replies that speak of us or the host
// and not of this mail, which are FateRetry: refusals at the greeting (all but 521 and 556 of RFC 7504), EHLO, STARTTLS
// and AUTH (RFC 4954 section 6: a wrong password is ours to mend), 530 and 503 anywhere, and 552 to RCPT (RFC 5321 section
// 4.5.3.1.10). A host that fails before RCPT is followed by the next one. Texts of the far end are in
// DeliveryError.Remote, at most 512 octets, and in no error text and no log line.
//
// # Many messages
//
// Connections are kept and shared by deliveries to one place under the same demands ([Identity] included), as many messages
// at a time as [Limits] and the answers allow; a far end's own limits (RFC 9422) are kept. RSET clears what a transaction that
// was not accepted may have left behind. A host that put a recipient off is
// the first to be asked again, since a greylist waits for the same client there. Messages go by DATA, or by BDAT where
// [Chunking] says so.
//
// With [Stream] the messages of concurrent deliveries follow each other on one connection without waiting for the answers:
// a peer that proved that it discards a chunk it refuses gets whole messages behind each other, any other that offers
// PIPELINING the next envelope behind the final dot. Each delivery gets its own answer; a refused recipient and a context
// that ends leave the neighbours alone; what was out when a connection was lost is uncertain, and the rest goes once more. No
// goroutine is started for it: of the callers that wait one writes and one reads for all.
//
// Where the peer offers DSN (RFC 3461) it is asked for reports with headers alone, so that none quotes a body back.
//
// # Not here
//
// The message is sent as it is: it is not converted for a peer that lacks 8BITMIME or SMTPUTF8, since that would break
// signatures. DNSSEC is not validated here, but by the resolver. TLSA records of a relay are not looked up: pin its key.
package smtp
