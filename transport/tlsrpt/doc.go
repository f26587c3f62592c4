// Package tlsrpt is SMTP TLS Reporting (RFC 8460): it counts how sessions with mail hosts went, and tells each domain that
// asks for it, once a day, what worked and what failed.
//
// A delivery agent calls [Collector.Add] once for each SMTP session.
package tlsrpt
