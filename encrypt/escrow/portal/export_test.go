package portal

import "time"

// View and Look let external tests render a message without a deposit.
type View = view

var (
	Look  = look
	Frame = frame
)

// FileName is the name under which an attachment named s of that type, the n-th part, is offered.
func FileName(s, kind string, n int) string { return fileName(s, &part{n: n, kind: kind}) }

// Download is the type an attachment of that type is served as.
func Download(kind string) string { return (&part{kind: kind}).download() }

// Disposition is the Content-Disposition of a download.
var Disposition = disposition

// LongestLimit is the longest window in which tries of a way of proof count while a code is out.
func (p *Portal) LongestLimit(way string) (longest time.Duration) {
	now := p.o.Now()
	v := &visit{p: p, loc: noLocator, now: now}
	for _, l := range v.tryLimits(way, &session{code: []byte{1}, codeUntil: now.Add(codeFor)}) {
		longest = max(longest, l.window)
	}
	return longest
}
