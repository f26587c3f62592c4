// Package encrypttest is the conformance kit for [securemail.Encryptor] and [securemail.KeySource]. A contributor writes one
// harness and one line for each:
//
//	func TestKit(t *testing.T) { encrypttest.Run(t, encrypttest.Harness{New: newRig}) }
//	func TestKeys(t *testing.T) { encrypttest.RunKeys(t, encrypttest.KeyHarness{New: newKeyRig}) }
//
// A harness holds a constructor, not an instance: for each case the kit asks for a fresh [Rig], an Encryptor together with
// the keys of one recipient and an opener that does what he does. The kit seals messages of its own making in the shapes that
// mail has (8-bit, encoded and raw subjects, attachments, signed, empty, long) and looks at what comes out.
//
// These rules are checked on every call, whatever the case is about:
//
//   - nil error: there is a message that is fit for a wire, its Message-ID is the original's, Protection names the algorithm
//     and the keys, its header is that of [encrypt.Outer] ([Rig].Notice: shows even less), no canary of subject, body, file name or Bcc is in its octets in any
//     usual encoding, no digest of them either, each Open gives the same octets, and the opener gives back subject, addresses and body, octet by octet;
//   - any error: there is no message beside it;
//   - the Job, its keys, factors and message are as before, and canaries show up in no error of the tree, no evidence and no
//     log line.
//
// Each failure names the rule and where it is written. A method that seals nothing ([Rig].Plain) or needs no key skips what
// does not apply, aloud. [Check] and [CheckKeys] are the same without a *testing.T, for broken implementations.
//
// [Run] and [RunKeys] swap [log/slog]'s default logger while they run, so they do not belong into parallel tests.
package encrypttest
