// Package posture watches how well the mail hosts of other domains can be reached over TLS: it looks at them daily without
// sending mail, keeps what it saw, tells of changes for the worse, and remembers what deliveries proved, so that a domain
// that once had good TLS is not quietly given less.
//
// [New] makes a [Monitor] on the host's database. It is
//
//   - a securemail.Runner: Run looks at each watched domain about once a day. [Monitor.Watch] enters a domain by hand,
//     Options.AutoWatch those that mail goes to;
//   - a securemail.Sink: it learns the ratchet from receipts, see below;
//   - the Ratchet of transport/smtp: [Monitor.Least] says below which channel a domain must not fall now;
//   - the answer to "could this be forwarded by TLS alone?": [Monitor.CanForward].
//
// [Monitor.History], [Diff] and [Monitor.Report] show what was found. Alerts are events in the Outbox, in the same
// transaction as the history that they tell of:
//
//	posture.downgrade             the route, a policy or a protocol got worse, or is below the ratchet
//	posture.recovered             a downgrade is over, or the domain can be reached again
//	posture.certificate-expiring  a mail host's certificate ends soon (Options.CertWarning), and once more when it has ended
//	posture.policy-changed        MTA-STS, DANE, TLSRPT, mail hosts, null MX or REQUIRETLS changed, not for the worse
//	posture.unreachable           two looks in a row found nothing out
//	posture.ratchet-raised        deliveries proved a channel that the ratchet now holds
//	posture.override-set          somebody set an override of the ratchet, and
//	posture.override-cleared      took it away
//
// Each is told once: an alert that stands is not repeated until it gets worse. "Not known now" is never "gone": a policy
// that can't be looked up, or a host that can't be reached, is compared with nothing.
//
// # The ratchet
//
// For each tenant and domain it remembers the strongest channel that deliveries have proved (a receipt whose wire is
// HopFinal). It rises at once by authenticated evidence only: DANE, MTA-STS enforce, or a pin. Anything less - PKIX, with
// or without signed MX records, or TLS to an unproved name - counts after deliveries on three different days, the first
// and the last at least 7 days apart, so that a burst counts once. A probe never raises it. It falls by time alone, 30 days after the
// last evidence for that channel, or by an override ([Monitor.SetOverride]), which needs a right and a reason and is recorded.
//
// It is a floor for mail whose Choice asks for a channel; below it the Transport says ChannelError and the next Choice
// is tried. So whoever poisons it costs a portal visit and not the mail. Poisoning means: an attacker who can forge DNS for a
// domain without DNSSEC sends one delivery to a host of his own. PKIX or bare TLS there changes nothing, unless he keeps it
// up over a week. To raise it at once he must forge what the evidence is anchored in: a signed zone, or a certificate for
// mta-sts.DOMAIN. If he does, the true host may lack what he showed: for up to 30 days behind his last delivery mail to that
// domain goes by the next Choice of its Decision, sealed or to the portal, an alert says so at the next look, and an override
// ends it. The memory of one tenant never binds another. A pin that the operator takes away is remembered as well: override it.
//
// # What is stored
//
// Domains, names and addresses of hosts, and facts of certificates: no name of a person, no local part. Three tables, named posture_*;
// two processes on one database share the work by leases, and one look serves all tenants that are due (Options.ByTenant).
//
// # What it does not do
//
// It speaks no SMTP: it is given a transport.Observer, such as transport/smtp. It refuses no mail: the Transport does. It
// believes the clock: one that is set far ahead lets ratchets lapse while it is wrong, and history be removed; evidence of a
// time to come counts as of now.
package posture
