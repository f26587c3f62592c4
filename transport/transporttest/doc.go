// Package transporttest is the conformance kit for [securemail.Transport] and, where there is one,
// [securemail.Prober]. A contributor who writes a Transport of his own writes one [Harness] and one line:
//
//	func TestKit(t *testing.T) { transporttest.Run(t, transporttest.Harness{New: newRig}) }
//
// The Harness holds a constructor, not an instance: for each case the kit asks for a fresh Transport wired to a fresh
// far end that behaves as the case needs ([Setup.Behaviour]), lets the Transport deliver a message of its own making,
// and compares what the Transport says with what the far end saw ([Recorder]). What the protocol can't express the
// constructor refuses with [errors.ErrUnsupported]; such a case is skipped aloud and listed at the end. Some
// behaviours can't be skipped: see [Behaviour].
//
// These rules are checked on every delivery, whatever the case is about:
//
//   - nil error: the receipt is there, complete, true (its TLS facts are those of the connection that the far end saw,
//     it claims no more than the wire gave, it meets the floor), Intend was called, and the far end took exactly these
//     octets for exactly this recipient, with the parcel's ReturnPath as sender;
//   - ErrChannel: no octet of the envelope's recipient or of the message left, and Intend was not called;
//   - any other error: its fate is true. What the far end took is never called retry or permanent, and nothing is
//     called uncertain before Intend;
//   - each reader of the message that was opened is closed;
//   - the parcel is unchanged, and canaries planted in local part, display name, subject and body, which the far end
//     also echoes in its answers, show up in no error of the tree, no reason, no receipt and no log line.
//
// Each failure names the rule and where it is written. [PKI] makes the certificates that the behaviours need.
//
// [Run] swaps [log/slog]'s default logger while it runs, so it does not belong into parallel tests. [Check] is the same
// without a *testing.T, for those who test broken transports of their own, as this package does with its own list.
package transporttest
