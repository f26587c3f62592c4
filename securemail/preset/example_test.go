package preset_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// The whole wiring of a program: one file, safe defaults. Explain says what would happen to a mail, and sends nothing.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	sys, err := preset.Open(ctx, filepath.Join(dir, "mail.db"), &preset.Options{
		BaseURL: "https://mail.example.org", Brand: "Example Clinic",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sys.Close()
	es, err := sys.Explain(ctx, &securemail.Draft{
		From: securemail.Mailbox("clinic@example.org"), To: securemail.To("anna@example.invalid"),
		Subject: "Your result", Text: "Please pick it up.\n", Purpose: securemail.PurposeTreatment,
		Escalate: securemail.EscalateEscrow,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(es[0].Use.Method)
	// Output:
	// escrow
}
