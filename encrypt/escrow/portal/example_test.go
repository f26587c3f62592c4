package portal_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// A host mounts the portal on its mux; the Sender is its *securemail.Mailer.
func ExamplePortal() {
	dir, err := os.MkdirTemp("", "portal")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ring, err := keyring.OpenFile(filepath.Join(dir, "ring.key"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Close()

	e, err := escrow.New(context.Background(), db, ring, &escrow.Options{BaseURL: "https://mail.clinic.example"})
	if err != nil {
		log.Fatal(err)
	}
	mailer := portal.SenderFunc(func(context.Context, *securemail.Draft) (*securemail.Submission, error) {
		return &securemail.Submission{}, nil
	})
	p, err := portal.New(&portal.Options{Escrow: e, Sender: mailer})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(p.Pattern(), p)

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://mail.clinic.example/m/0123456789abcdefghijklmnopqrstuv", nil))
	fmt.Println(p.Pattern(), w.Code, w.Header().Get("Cache-Control"))
	// Output: /m/ 200 no-store
}
