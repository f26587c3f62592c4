// Package witness holds the audit log's client of witnesses against a witness that others wrote, that of transparency-dev. It is a
// module of its own, so that the library does not depend on it.
package witness
