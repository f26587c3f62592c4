package alert_test

import (
	"context"
	"fmt"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
)

// The Watcher goes among the Mailer's sinks; here events are fed to it by hand.
func ExampleNew() {
	outbox := &box{} // stands for the queue
	w, err := alert.New(outbox, &alert.Options{
		Rules: append(alert.Defaults(), alert.Rule{ID: "bounces-now", Kinds: []string{"bounced"}, Count: 3, Window: time.Minute}),
		Notify: func(_ context.Context, a alert.Alert) {
			fmt.Printf("page somebody: %s of %q, %d events since %s\n", a.Rule, a.Tenant, a.Count, a.Since.Format(time.TimeOnly))
		},
	})
	if err != nil {
		panic(err)
	}
	for i := range 5 {
		e := securemail.Event{
			ID: fmt.Sprint("event-", i), Kind: "bounced", Time: start.Add(time.Duration(i) * time.Second), By: securemail.Actor{Tenant: "clinic"},
		}
		if err := w.Emit(context.Background(), e); err != nil {
			panic(err)
		}
	}
	fmt.Println(outbox.events[0].Kind, outbox.events[0].Detail["rule"], outbox.events[0].Detail["event"])
	// Output:
	// page somebody: bounces-now of "clinic", 3 events since 12:00:00
	// alert bounces-now event-2
}
