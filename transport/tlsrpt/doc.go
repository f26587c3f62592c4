// Package tlsrpt is SMTP TLS Reporting (RFC 8460): it counts how sessions with mail hosts went, and tells each domain
// that asks for it, once a day, what worked and what failed. It also reads the reports that others send. It stands alone:
// a mail program of any kind can use it.
//
// A delivery agent calls [Collector.Add] once for each SMTP session; [Collector.Run] writes the counts to a [Store]. A
// [Reporter] on the same Store asks for each domain's record ([LookupRecord]) when its day is over, and sends the report
// by mail, by HTTPS, or both. [ParseMail] and [ParseReport] read reports; [Record] prints the record with which a domain
// asks for them.
//
// What is counted for a domain and a day is one [Account]: a policy each for MTA-STS, for each mail host with DANE, and
// for no policy. Where DANE is in use, the host's own domain gets a report as well, if it asks for one.
// transport.TLSRPTStore keeps accounts in SQL; [Memory] is for tests.
//
// # Security properties
//
// Reports hold names of domains and hosts and counts, no address of a person, and no text of the far end but the name in
// its greeting, if it is one. Memory is bounded: by domain, policy and failure. Destinations are strangers' wishes: at
// most 5 are used, private and loopback addresses are refused, redirects to other hosts are not followed, certificates
// are verified. What is read is bounded in size, depth and number of values.
//
// Reports are about the past and may be lost: a process that dies loses what it counted since the last flush, half a
// minute by default.
//
// # What it does not do
//
// It does not sign, send mail or verify signatures: it is given functions for the first two, and a caller of ParseMail
// checks the signature (transport/dkim) before he believes a report. It does not tell which failure a TLS error is; the
// delivery agent knows.
package tlsrpt
