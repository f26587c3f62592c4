// Package mtasts is SMTP MTA Strict Transport Security (RFC 8461) for senders, and what a domain needs to publish its own
// policy. It imports nothing else of this module and can be used alone.
//
// # Which type when
//
// A sender makes one [Cache] for the whole process, with a [Store] that survives a restart, and asks [Cache.Lookup] before
// each delivery. [Cache.Recheck] comes before a failure that would be final (RFC 8461 section 5.1). [Cache.Run] fetches
// policies again before they expire. [ParseRecord], [ParsePolicy], [Policy.Match] and [Client] are the parts, for tools.
// A domain that receives mail serves its policy with [Handler], and prints its DNS record with [Record.Line].
//
// # What it promises
//
//   - A valid cached policy is used until it expires, whatever happens to DNS, to HTTPS or to the Store: a changed id with a
//     blocked fetch, a record that vanished, SERVFAIL, a restart, a Store that can't be written.
//   - "Not known now" is never "there is none": where DNS or the Store fail and nothing is cached, Lookup returns an error
//     and the caller must defer.
//   - A policy comes only from a response of status 200, type text/plain, at most 64 KiB, over TLS 1.2 or better with a
//     certificate of the policy host that the trust anchors vouch for. Redirects are not followed, proxies, cookies and
//     compression not used.
//   - The domain of a recipient is chosen by strangers, and so is the address of its policy host. Addresses that are not
//     public unicast are refused when the connection is made, so a policy fetch can't be turned against the inner network.
//   - Memory and the rate of questions are bounded.
//
// # What it does not do
//
// It does not validate the TLS session with a mail host: see RFC 8461 section 4 for what the caller must check when
// [State.Enforced] is true, and section 2 for DANE, which stands beside it: a policy never excuses a host from DANE.
// The first contact with a domain rests on unsigned DNS: who can suppress the record then is not noticed. Unicode names
// are converted, but policies hold A-labels only, as the RFC demands.
package mtasts
