// Package preset is batteries included: one call wires queue, keys at rest, audit log, TLS, PGP and escrow into a Mailer
// with safe defaults, on one SQLite file or on the host's own database.
//
//	sys, err := preset.Open(ctx, "mail.db", nil)
//	...
//	defer sys.Close()
//	go sys.Run(ctx)
//	sub, err := sys.Send(ctx, &securemail.Draft{...})
//
// # What it chooses
//
// The HIPAA policy of package policy: TLS with a proved name, else PGP, else pick-up from escrow; never in clear, and never
// TLS to a peer that only claims its name. Without [Options].BaseURL there is no escrow: mail that would go there is held,
// Explain says so, and one log line does.
//
// With direct delivery MTA-STS policies, what was learned of domains, and (with [Options].TLSReports) counts of TLS sessions
// are kept in the database, so that they bind, and are reported, after a restart too. examples/channel shows them at work.
//
// DANE, and so the strongest proof that a mail host can give, needs DNS answers that DNSSEC proved, which the system's resolver
// does not tell. With a resolver that validates, such as unbound, on loopback:
//
//	dns, err := smtp.DNS("127.0.0.1:53", &smtp.DNSOptions{TrustAD: true})
//	...
//	sys, err := preset.Open(ctx, "mail.db", &preset.Options{SMTP: &smtp.Options{Resolver: dns}})
//
// # Files
//
// Beside the database file PATH lie PATH.key with PATH.key.epoch, PATH.key.scopes and PATH.key.lock (the key ring: without it
// all stored mail is unreadable; see package keyring on back-ups), PATH.blobs (sealed bodies over 64 KiB) and PATH.audit (the
// log, with PATH.audit.key, its signing key, and PATH.audit.key.seen, its newest checkpoint). Each is made once, for its
// owner only.
//
// # What it does not do
//
// It starts no goroutine: call [System.Run], or [System.RunDue] and [System.Upkeep] from timers. It serves nothing: mount [System.Handler]
// behind TLS. It has one tenant, "", unless Options.Override sets securemail.Config.Tenants.
package preset
