package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary be the sink and the filler of a queue, as the command is.
func TestMain(m *testing.M) {
	is, err := child(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if is {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestAreas measures a little in each area: every figure is there, and the far end counted each message.
func TestAreas(t *testing.T) {
	for name, measure := range areas() {
		t.Run(name, func(t *testing.T) {
			n := 0
			err := measure(t.Context(), settings{messages: 16, rounds: 1}, func(r Result) {
				n++
				if r.Area != name || r.Name == "" || r.Unit == "" || r.Value <= 0 {
					t.Errorf("incomplete: %+v", r)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				t.Error("no figures")
			}
		})
	}
}

func TestUnknownArea(t *testing.T) {
	if err := run(t.Context(), []string{"nosuch"}); err == nil {
		t.Error("no error")
	}
}

func TestCompare(t *testing.T) {
	more := Result{Value: 20, PeerValue: 10, Unit: "msg/s", Floor: 1.5}.compare()
	less := Result{Value: 20, PeerValue: 10, Unit: "us", Floor: 1}.compare()
	if more.Ratio != 2 || !more.Met || less.Ratio != 0.5 || less.Met {
		t.Errorf("%+v %+v", more, less)
	}
	var b bytes.Buffer
	printer(&b, true)(more)
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"area", "name", "value", "unit", "peer", "peer_value", "ratio", "floor", "met"} {
		if _, ok := m[key]; !ok {
			t.Errorf("no %s", key)
		}
	}
}
