// Package export turns entries of the audit log into what other people's programs and desks take: a report a message, FHIR
// AuditEvents, OCSF events, and JSON lines. Each takes what audit.Log.Search yields, so a search is the filter.
//
//	report, err := export.Summarise(log.Search(ctx, audit.Search{From: monday, Until: sunday}))
//	err = report.HTML(w, &export.Options{Title: "Week 47"})
//
// # The forms
//
//   - [Report]: one row a parcel, as CSV (RFC 4180), JSON, or an HTML page to print: state, method, what protected the copy, the
//     policy that decided, times, and totals.
//   - [FHIR]: HL7 FHIR R4 (4.0.1) AuditEvent, one a line (application/fhir+ndjson), with the profiles of IHE BALP 1.1.
//   - [OCSF]: OCSF 1.8.0 events, one a line: Email Activity (4009), API Activity (6003), Entity Management (3004).
//   - [Lines]: the entries as they are, one a line.
//
// # Security properties
//
// No form holds more than the entries do: people are pseudonyms, wherever a form asks for an address or a patient. In CSV a
// cell that a spreadsheet would take for a formula has an apostrophe in front; HTML is escaped, runs no script and loads nothing.
//
// # What it does not do
//
// It proves nothing: an export can be changed by whoever holds it. What must stand against doubt is a bundle of audit.Log.Evidence.
// It asks nobody whether the reader may have it: the host does.
package export
