package httpapi_test

import (
	"io"
	"log"
	"testing"

	"go.uber.org/goleak"

	"github.com/postseal/postseal/transport/transporttest"
)

var discardLog = log.New(io.Discard, "", 0)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKit(t *testing.T) {
	for name, m := range mappings {
		t.Run(name, func(t *testing.T) { transporttest.Run(t, transporttest.Harness{New: rig(m)}) })
	}
}
