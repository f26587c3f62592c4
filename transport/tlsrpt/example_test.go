package tlsrpt_test

import (
	"context"
	"fmt"
	"time"

	"github.com/postseal/postseal/transport/tlsrpt"
)

// A delivery agent adds a Result for each session. A day later the Reporter sends what was counted.
func Example() {
	ctx := context.Background()
	store := &tlsrpt.Memory{}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }

	counts, err := tlsrpt.NewCollector(store, &tlsrpt.CollectorOptions{Now: clock})
	if err != nil {
		fmt.Println(err)
		return
	}
	counts.Add(ctx, tlsrpt.Result{Domain: "example.com", Type: tlsrpt.STS, Failure: tlsrpt.CertificateExpired})
	if err := counts.Flush(ctx); err != nil { // or Run
		fmt.Println(err)
		return
	}

	dns := zone{"_smtp._tls.example.com": {"v=TLSRPTv1; rua=mailto:tls@example.com"}}
	reports, err := tlsrpt.NewReporter(store, dns, &tlsrpt.ReporterOptions{
		Organization: "Sender", Contact: "https://sender.example/tls", Submitter: "sender.example", Now: clock,
		Mail: &tlsrpt.MailOptions{
			From: "tlsrpt@sender.example",
			Sign: func(context.Context, []byte) ([]byte, error) { return []byte("DKIM-Signature: v=1; b=...\r\n"), nil }, // transport/dkim
			Send: func(_ context.Context, m tlsrpt.Mail) error {
				fmt.Println("to", m.To)
				return nil
			},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	now = now.AddDate(0, 0, 1)
	n, err := reports.SendDue(ctx) // or Run
	fmt.Println(n, err)
	// Output:
	// to tls@example.com
	// 1 <nil>
}

func ExampleParseReport() {
	r, err := tlsrpt.ParseReport([]byte(`{
		"organization-name": "Sender", "report-id": "1",
		"date-range": {"start-datetime": "2026-11-24T00:00:00Z", "end-datetime": "2026-11-24T23:59:59Z"},
		"policies": [{"policy": {"policy-type": "sts", "policy-domain": "example.com"},
			"summary": {"total-successful-session-count": 10, "total-failure-session-count": 1},
			"failure-details": [{"result-type": "certificate-expired", "failed-session-count": 1}]}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	p := r.Policies[0]
	fmt.Println(p.Policy.Domain, p.Summary.Success, p.Summary.Failure, p.Details[0].Type)
	// Output: example.com 10 1 certificate-expired
}
