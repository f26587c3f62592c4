package mtasts_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/postseal/postseal/mtasts"
)

// dns and web stand for the world outside.
type dns map[string][]string

func (d dns) LookupTXT(_ context.Context, name string) ([]string, error) { return d[name], nil }

type web map[string]string

func (w web) Fetch(_ context.Context, domain string) ([]byte, error) { return []byte(w[domain]), nil }

func ExampleCache() {
	// A program that sends gives transport.STSStore instead of NewMemory, and leaves Resolver and Fetcher out.
	cache, err := mtasts.New(mtasts.NewMemory(nil), &mtasts.Options{
		Resolver: dns{"_mta-sts.example.net.": {"v=STSv1; id=20261125;"}},
		Fetcher:  web{"example.net": "version: STSv1\nmode: enforce\nmx: *.example.net\nmax_age: 604800\n"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, domain := range []string{"example.net", "example.org"} {
		state, err := cache.Lookup(context.Background(), domain)
		switch {
		case err != nil:
			fmt.Println(domain, "defer:", err)
		case state.Enforced():
			fmt.Println(domain, "only to", state.Policy.MX, "- mx.evil.example:", state.Policy.Match("mx.evil.example"))
		default:
			fmt.Println(domain, "no policy")
		}
	}
	// Output:
	// example.net only to [*.example.net] - mx.evil.example: false
	// example.org no policy
}

func ExampleHandler() {
	policy := mtasts.Policy{Mode: mtasts.Testing, MX: []string{"mx.example.com"}, MaxAge: 24 * time.Hour}
	h, err := mtasts.NewHandler(map[string]mtasts.Policy{"example.com": policy})
	if err != nil {
		fmt.Println(err)
		return
	}
	// http.ListenAndServeTLS with a certificate for mta-sts.example.com would serve it.
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://mta-sts.example.com/.well-known/mta-sts.txt", nil))
	fmt.Print(w.Body)
	id := mtasts.NewID(policy, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	line, err := mtasts.Record{ID: id}.Line("example.com")
	fmt.Println(line, err)
	// Output:
	// version: STSv1
	// mode: testing
	// mx: mx.example.com
	// max_age: 86400
	// _mta-sts.example.com. IN TXT "v=STSv1; id=20261125120000929256083eca;" <nil>
}
