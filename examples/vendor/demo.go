package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// request is one thing that a clinic's desk does, and what must come of it.
type request struct {
	what, token, path string
	form              url.Values
	status            int
	mail              bool
}

func booking(id, from, patient string) url.Values {
	return url.Values{"id": {id}, "from": {from}, "patient": {patient}, "starts": {"Thursday 9:30"}}
}

func full(v url.Values) url.Values {
	v.Set("full", "yes")
	return v
}

func requests() []request {
	north, south := "token-of-north", "token-of-south"
	return []request{
		{"north books", north, "/appointments", booking("n1", "desk@north.example", "anna@patients.example"), 201, true},
		{"south books", south, "/appointments", booking("s1", "desk@south.example", "ben@patients.example"), 201, true},
		{"the day is full: roll-back", north, "/appointments", full(booking("n2", "desk@north.example", "carla@patients.example")), 409, false},
		{"south writes as north", south, "/appointments", booking("s2", "desk@north.example", "dora@patients.example"), 403, false},
		{"a stranger", "guess", "/appointments", booking("x1", "desk@north.example", "emil@patients.example"), 401, false},
		{"a malformed address", north, "/appointments", booking("n3", "desk@north.example", "nobody"), 400, false},
		{"a patient opts out of north", north, "/opt-outs", url.Values{"patient": {"frida@patients.example"}}, 204, false},
		{"north books for her", north, "/appointments", booking("n4", "desk@north.example", "frida@patients.example"), 201, false},
		{"south may still write to her", south, "/appointments", booking("s3", "desk@south.example", "frida@patients.example"), 201, true},
	}
}

// demo drives the application over HTTP and compares what the patients' mail host received.
func demo(ctx context.Context, out io.Writer, a *app, far *farEnd) error {
	web := httptest.NewServer(a.handler())
	defer web.Close()
	want := make(map[string]int)
	for _, r := range requests() {
		status, err := post(ctx, web.URL+r.path, r.token, r.form)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-28s %d\n", r.what, status)
		if status != r.status {
			return fmt.Errorf("%s: status %d, not %d", r.what, status, r.status)
		}
		if r.mail {
			want[r.form.Get("from")+" "+r.form.Get("patient")]++
		}
	}
	if err := settle(ctx, a, len(want)); err != nil {
		return err
	}
	for _, m := range far.peer.Messages() {
		key := m.From + " " + strings.Join(m.Rcpts, ",")
		if want[key]--; want[key] < 0 || m.TLS == nil {
			return errors.New("a mail left that should not have, or without TLS")
		}
		fmt.Fprintf(out, "delivered over TLS: from %s\n", m.From)
	}
	for _, n := range want {
		if n != 0 {
			return errors.New("a mail did not arrive")
		}
	}
	return nil
}

// settle waits until both clinics together have as many delivered parcels as were committed.
func settle(ctx context.Context, a *app, n int) error {
	for {
		delivered := 0
		for _, clinic := range []string{"north", "south"} {
			ctx := securemail.WithActor(ctx, securemail.Actor{Tenant: clinic, ID: "desk", Kind: "person"})
			q := securemail.Query{States: []securemail.State{securemail.StateDelivered}}
			for _, err := range a.mail.Find(ctx, q) {
				if err != nil {
					return err
				}
				delivered++
			}
		}
		if delivered >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("not everything was delivered in time")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func post(ctx context.Context, link, token string, form url.Values) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, link, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
