// Package transport combines Transports: [ByDomain] sends each recipient's mail the way of its domain, [Failover] tries
// several ways in turn, [Limit] gives no domain more than it takes - by all nodes
// together with [LimitStore] - and [Record] tells of each delivery's end. The ways
// themselves are in the packages below: transport/smtp to mail hosts and smart hosts, transport/httpapi to providers over
// HTTPS; a host program may write its own and test it with transport/transporttest. [STSStore] keeps MTA-STS policies for
// mtasts.Cache in the host's database, [TLSRPTStore] the counts of transport/tlsrpt, and [MailReports] sends its reports by a
// Transport. [DKIM] makes a securemail.Signer of transport/dkim.
//
// The combinators keep the contract of securemail.Transport: they never send twice what a far end may have accepted, and
// a floor that one way misses is met by another or not at all.
//
// # Who mail comes from, by tenant or stream
//
// All of these are given the Slip, which names the tenant, the labels (a stream is one) and the purpose:
//
//   - the source address and the EHLO name: smtp.Options.Identity;
//   - the return path: Draft.ReturnPath of one message, securemail.Config.ReturnPath of all others;
//   - the DKIM key and domain: [DKIMOptions].Choose;
//   - reports of delivery: smtp.Options.DSN.
//
// Deliveries of different identities share no connection. A relay or a provider for some domains is a [Router]'s; for some tenants a
// Transport of the host program's own that asks the Slip and calls one of several.
package transport
