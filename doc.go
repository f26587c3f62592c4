// Package postseal is the map of a library that sends mail which may hold health data, and can prove afterwards how
// each copy was protected. It exports nothing: import the packages named here.
//
// For each recipient, at the moment of delivery, the strongest protection that this recipient can receive is chosen by
// a stated rule; nothing ever leaves below the rule's floor; and what was decided and done is recorded in a log that
// can't be rewritten unseen.
//
// # Where to begin
//
// A host that wants mail to leave safely calls securemail/preset, or builds a securemail.Config of its own parts and
// calls securemail.New. A contributor implements one interface of securemail (Transport, Encryptor, KeySource, Policy,
// Gate, Sink) and runs its conformance kit, where there is one.
//
// # Map
//
//	securemail                   nouns, every central interface, Mailer
//	securemail/policy            rules: which protection, in which order, with which floor
//	securemail/queue             durable queue, a parcel per recipient, on SQLite or PostgreSQL
//	securemail/notice            tells senders and offices what was not delivered, without PHI
//	securemail/audit             tamper-evident log of decisions and receipts
//	securemail/audit/export      reports, FHIR AuditEvent, OCSF and JSON lines of the log
//	securemail/audit/timestamp   time stamps on the log's checkpoints (RFC 3161)
//	securemail/audit/witness     witnesses cosign the log's checkpoints (C2SP tlog-witness)
//	securemail/keyring           keys for data at rest: wrap, rotate, destroy, recover by custodians
//	securemail/keyring/kms       the root key in Vault, AWS KMS or Google Cloud KMS
//	securemail/backup            one sealed copy of database, blobs, log and keys, and back
//	securemail/alert             alert rules on the live events
//	securemail/preset            one call wires everything, on one SQLite file or the host's own database
//	securemail/securemailtest    for hosts' own tests
//	encrypt                      TLS alone as a method; MIME helpers that encryptors share
//	encrypt/pgp                  OpenPGP messages (RFC 3156, RFC 9580)
//	encrypt/escrow               sealed deposit and a notice with a link
//	encrypt/escrow/portal        the pages where a recipient picks a deposit up
//	encrypt/keys                 where recipients' keys come from
//	encrypt/encrypttest          conformance kit for Encryptor and KeySource
//	mtasts                       MTA-STS (RFC 8461): parse, match, fetch, cache and publish policies
//	transport                    combinators: by domain, failover, limits, a record of each end
//	transport/smtp               to the recipient's mail host or a smart host, with channel floors
//	transport/dane               DANE: does the host show the certificate that signed DNS names
//	transport/httpapi            delivery over HTTPS
//	transport/dkim               DKIM signatures, key rotation by date, key records (RFC 6376, RFC 8463)
//	transport/tlsrpt             SMTP TLS reporting (RFC 8460): counts, daily reports, parser of reports
//	transport/posture            watches domains, remembers what their deliveries proved, alerts on a downgrade
//	transport/transporttest      conformance kit for Transport and Prober
//
// The consumer owns the interface: Mailer consumes them all, so they are declared in securemail, and every other
// package imports it, never the reverse. Siblings don't import each other. internal/archtest checks both.
//
// # How a message flows
//
//	Draft                        one message, many recipients
//	  |  Mailer.Send / SendTx    authorise, validate, Gates (who may be written to), Classifier (what it holds)
//	  v
//	Parcel, Parcel, ...          one per recipient, sealed at rest, in the queue: from here on nothing is lost
//	  |  Mailer.Run / RunDue     a lease; Archiver, where there is one; Gates again
//	  v
//	Policy.Decide(Facts)         asked again after the look-ups that it needs
//	  |
//	  v
//	Choice 1 --no key, floor not met--> Choice 2 --> ... --> Else: hold, bounce or drop
//	  |
//	  |  Encryptor, Signer; the Transport proves the floor, then records the intent
//	  v
//	the far end                  Receipt: who proved the name, TLS version and suite, key fingerprints
//	  |
//	  v
//	outcome and events           one commit; the Ledger and the Sinks read them at least once, each by its own cursor
//
// Encryption comes behind the queue, so that the decision rests on what is true when the message leaves, not when it
// was handed in.
//
// # Security promises
//
//   - Nothing leaves below the floor of the Choice that carries it. The zero value of every demand is the strictest,
//     of every piece of evidence the weakest; the zero Decision holds.
//   - "Not known right now" is never "there is none": a key server that is down never leads to a weaker method.
//   - When Send returns nil the mail survives power loss. Duplicates can arise only between recorded intent and
//     outcome, and each is reported.
//   - All that can hold personal data is sealed at rest, under keys kept apart from it.
//   - Personal data does not reach errors, logs, events' JSON or file names.
//
// SECURITY.md says against whom this holds and what counts as a vulnerability.
//
// # Compatibility promise
//
// From v1.0.0 on: what is exported stays; interfaces get no new methods (new abilities are optional interfaces);
// structs may get fields whose zero value changes nothing or is stricter; stored data of any v1 release is read by
// every later one; a security fix may break what relied on the hole. Before v1.0.0 anything may change, and
// CHANGELOG.md says what did. Packages under internal, the lanes and the examples promise nothing.
package postseal
