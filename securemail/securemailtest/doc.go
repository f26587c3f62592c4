// Package securemailtest is for the tests of programs that send with securemail: a Mailer on a memory queue whose
// Transport is scripted and records what left, driven by RunDue, on a clock of the test's own or under testing/synctest.
//
//	k := securemailtest.New(t, nil)
//	k.Transport.Script("example.net", securemailtest.Answer{Wire: securemailtest.Clear()})
//	... the code under test sends through k.Mailer ...
//	k.Pass(t)
//	k.Transport.RequireSent(t, "anna@example.org")
//	k.Transport.RequireSecret(t, "Anna's diagnosis")
//
// Nothing here is durable and nothing leaves the process. It is no substitute for a conformance kit: implementers of a
// Transport test with transporttest, of an Encryptor with encrypttest.
package securemailtest
