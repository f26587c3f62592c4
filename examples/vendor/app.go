package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/postseal/postseal/securemail"
)

// makeTables makes the host's own schema. It lives beside the library's tables in one database.
func makeTables(ctx context.Context, db *sql.DB) error {
	for _, q := range []string{
		`CREATE TABLE IF NOT EXISTS clinics (id TEXT PRIMARY KEY, token TEXT NOT NULL, sender TEXT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS appointments (id TEXT PRIMARY KEY, clinic TEXT NOT NULL, starts TEXT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS opt_outs (clinic TEXT NOT NULL, address TEXT NOT NULL, PRIMARY KEY (clinic, address))`,
		`DELETE FROM appointments`, `DELETE FROM opt_outs`, `DELETE FROM clinics`,
		`INSERT INTO clinics VALUES ('north', 'token-of-north', '@north.example'), ('south', 'token-of-south', '@south.example')`,
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// app is the vendor's web application.
type app struct {
	db   *sql.DB
	mail *securemail.Mailer
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /appointments", a.book)
	mux.HandleFunc("POST /opt-outs", a.optOut)
	return a.signIn(mux)
}

// signIn is the one place that knows who calls: it puts the Actor into the context, and the library scopes everything
// by it.
func (a *app) signIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var clinic string
		err := a.db.QueryRowContext(r.Context(), `SELECT id FROM clinics WHERE token = $1`, r.Header.Get("Authorization")).Scan(&clinic)
		if err != nil {
			http.Error(w, "sign in first", http.StatusUnauthorized)
			return
		}
		actor := securemail.Actor{Tenant: clinic, ID: "desk", Kind: "person"}
		next.ServeHTTP(w, r.WithContext(securemail.WithActor(r.Context(), actor)))
	})
}

// book stores the appointment and its reminder in one transaction.
func (a *app) book(w http.ResponseWriter, r *http.Request) {
	actor, _ := securemail.ActorOf(r.Context())
	tx, err := a.db.BeginTx(r.Context(), nil)
	if err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	id, starts := r.FormValue("id"), r.FormValue("starts")
	if _, err := tx.ExecContext(r.Context(), `INSERT INTO appointments VALUES ($1, $2, $3)`, id, actor.Tenant, starts); err != nil {
		http.Error(w, "not booked", http.StatusConflict)
		return
	}
	_, err = a.mail.SendTx(r.Context(), tx, &securemail.Draft{
		Key:  "appointment-" + id,
		From: securemail.Mailbox(r.FormValue("from")), To: securemail.To(r.FormValue("patient")),
		Subject: "Your appointment", Text: "We expect you on " + starts + ".\n",
		Purpose: securemail.PurposeTreatment, Labels: map[string]string{"appointment": id},
	})
	switch {
	case errors.Is(err, securemail.ErrRefused):
		// The patient has opted out of mail: the booking stands all the same.
	case errors.Is(err, securemail.ErrTenant):
		http.Error(w, "not your clinic", http.StatusForbidden)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest) // its text names places and rules, never content
		return
	}
	if r.FormValue("full") != "" { // the host finds out late that the day is full: booking and mail vanish together
		http.Error(w, "the day is full", http.StatusConflict)
		return
	}
	if err := tx.Commit(); err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (a *app) optOut(w http.ResponseWriter, r *http.Request) {
	actor, _ := securemail.ActorOf(r.Context())
	address := securemail.Mailbox(r.FormValue("patient")).Address
	_, err := a.db.ExecContext(r.Context(), `INSERT INTO opt_outs VALUES ($1, $2)`, actor.Tenant, fold(address))
	if err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fold is how this host stores an address it must only recognise.
func fold(a securemail.Address) string {
	sum := sha256.Sum256([]byte(a.Reveal()))
	return hex.EncodeToString(sum[:])
}

// row reads through the transaction that the library was called in, if there is one.
func row(ctx context.Context, db *sql.DB, query string, args ...any) *sql.Row {
	if tx, ok := securemail.TxOf(ctx); ok {
		return tx.QueryRowContext(ctx, query, args...)
	}
	return db.QueryRowContext(ctx, query, args...)
}

// clinics is the host's table of tenants, as the library asks for it.
type clinics struct{ db *sql.DB }

// Tenant implements securemail.Tenants.
func (c clinics) Tenant(ctx context.Context, id string) (securemail.Tenant, error) {
	var sender string
	err := row(ctx, c.db, `SELECT sender FROM clinics WHERE id = $1`, id).Scan(&sender)
	if errors.Is(err, sql.ErrNoRows) {
		return securemail.Tenant{}, securemail.ErrTenant
	}
	return securemail.Tenant{ID: id, From: []string{sender}}, err
}

// optOuts is the host's Gate.
type optOuts struct{ db *sql.DB }

// Allow implements securemail.Gate.
func (o optOuts) Allow(ctx context.Context, p *securemail.Parcel) error {
	var n int
	err := row(ctx, o.db, `SELECT COUNT(*) FROM opt_outs WHERE clinic = $1 AND address = $2`,
		p.Actor.Tenant, fold(p.Recipient.Address)).Scan(&n)
	if err == nil && n > 0 {
		return securemail.ErrRefused
	}
	return err
}
