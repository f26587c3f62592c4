package main

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// accept measures how many messages of 4 KB a second are durable, sealed and indexed, each with its audit entry: by
// queue.Put, and by the whole of Send. The peers are the database alone, one transaction an insert of the same octets; an
// append with fsync; bbolt; and on PostgreSQL river.
func (d *durability) accept(ctx context.Context, st store) error {
	put := func(n int) contender {
		return at(st, func(ctx context.Context, p *place) (float64, error) { return d.putRate(ctx, p, n) })
	}
	send := func(n int) contender {
		return at(st, func(ctx context.Context, p *place) (float64, error) { return d.sendRate(ctx, p, n) })
	}
	bare := func(n int) contender {
		return at(st, func(ctx context.Context, p *place) (float64, error) { return d.insertRate(ctx, p, st, n) })
	}
	type peer struct {
		name  string
		does  func(producers int) contender
		floor map[int]float64 // by producers; those who are not named don't compete
	}
	peers := []peer{{"bare INSERT", bare, map[int]float64{1: 0.8, 64: 1}}}
	least := map[string]float64{"Put": 10000}
	if st.name == "sqlite" {
		peers = append(peers, peer{"write+fsync", d.syncRate, map[int]float64{1: 0.8}},
			peer{"bbolt", d.boltRate, map[int]float64{1: 0.8, 64: 1}})
		least = map[string]float64{"Put": 20000, "Send": 6000}
	} else {
		peers = append(peers, peer{"river Insert", func(n int) contender {
			return at(st, func(ctx context.Context, p *place) (float64, error) { return d.riverInserts(ctx, p, n) })
		}, map[int]float64{1: 0.5, 64: 1}})
	}
	for _, producers := range []int{1, 64} {
		cs := []contender{put(producers), send(producers)}
		var there []peer
		for _, p := range peers {
			if p.floor[producers] > 0 {
				there, cs = append(there, p), append(cs, p.does(producers))
			}
		}
		figures, err := d.compete(ctx, cs...)
		if err != nil {
			return err
		}
		for j, what := range []string{"Put", "Send"} {
			name := fmt.Sprintf("%s %s, %d producers", st.name, what, producers)
			if producers > 1 && least[what] > 0 {
				d.goal(name, "msg/s", figures[j], least[what])
			}
			for k, p := range there {
				d.row(Result{Name: name, Unit: "msg/s", Peer: p.name, Floor: p.floor[producers]}, figures[j], figures[2+k])
			}
		}
	}
	return nil
}

// openQueue opens a queue and what it needs on p.
func openQueue(ctx context.Context, p *place) (*queue.Queue, func(), error) {
	ring, err := keyring.OpenFile(p.file+".key", nil)
	if err != nil {
		return nil, nil, err
	}
	q, err := queue.New(ctx, p.db, ring, nil)
	if err != nil {
		return nil, nil, errors.Join(err, ring.Close())
	}
	return q, func() { _ = ring.Close() }, nil
}

func (d *durability) putRate(ctx context.Context, p *place, producers int) (float64, error) {
	q, closer, err := openQueue(ctx, p)
	if err != nil {
		return 0, err
	}
	defer closer()
	m, err := securemail.NewMessage(securemail.Bytes(message()))
	if err != nil {
		return 0, err
	}
	return produce(producers, d.messages, func() error {
		b, err := batchOf(m, 1)
		if err == nil {
			_, err = q.Put(ctx, b)
		}
		return err
	})
}

// batchOf is a Batch of n parcels of m, as Send makes it.
func batchOf(m *securemail.Message, n int) (*securemail.Batch, error) {
	now := time.Now()
	to, err := securemail.ParseAddress(recipient)
	if err != nil {
		return nil, err
	}
	by := securemail.Actor{ID: "bench", Kind: "service"}
	b := &securemail.Batch{Submission: newID(now)}
	for range n {
		s := securemail.Slip{
			ID: securemail.ParcelID(newID(now)), Submission: b.Submission, Actor: by, From: securemail.Mailbox(sender),
			Recipient: securemail.Contact{Address: to}, Size: m.Size(), Purpose: securemail.PurposeTreatment, Submitted: now,
		}
		b.Parcels = append(b.Parcels, &securemail.Parcel{Slip: s, Message: m})
		b.Events = append(b.Events, event(by, securemail.Status{Slip: s, State: securemail.StateAccepted, Changed: now}))
	}
	return b, nil
}

func event(by securemail.Actor, st securemail.Status) securemail.Event {
	return securemail.Event{ID: newID(st.Changed), Kind: string(st.State), Time: st.Changed, By: by, Status: st}
}

// newID sorts by time, as the ids of the Mailer do.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(b[6:])
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

func (d *durability) sendRate(ctx context.Context, p *place, producers int) (float64, error) {
	m, closer, err := mailer(ctx, p)
	if err != nil {
		return 0, err
	}
	defer closer()
	return produce(producers, d.messages, func() error {
		_, err := m.Send(ctx, draft())
		return err
	})
}

// draft is a message of 4 KB for the far end.
func draft() *securemail.Draft {
	return &securemail.Draft{
		From: securemail.Mailbox("Clinic <" + sender + ">"), To: securemail.To(recipient), Subject: "Your appointment",
		Text:    strings.Repeat("Please come on Tuesday at ten to room four and bring your card.\n", messageSize/64),
		Purpose: securemail.PurposeTreatment,
	}
}

// insertRate is the database alone. SQLite gets one connection: more would only wait for each other.
func (d *durability) insertRate(ctx context.Context, p *place, st store, producers int) (float64, error) {
	if st.name == "sqlite" {
		p.db.SetMaxOpenConns(1)
	}
	if _, err := p.db.ExecContext(ctx, "CREATE TABLE bare (id TEXT PRIMARY KEY, body "+st.blob+" NOT NULL)"); err != nil {
		return 0, err
	}
	body := noise()
	return produce(producers, d.messages, func() error {
		tx, err := p.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO bare VALUES ($1, $2)", newID(time.Now()), body); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
}

func noise() []byte {
	body := make([]byte, messageSize)
	_, _ = rand.Read(body)
	return body
}

// syncRate appends the octets to a file of each producer's own, with an fsync each.
func (d *durability) syncRate(producers int) contender {
	return func(context.Context) (float64, error) {
		files := make(chan *os.File, producers)
		for range producers {
			f, err := os.CreateTemp(d.dir, "append")
			if err != nil {
				return 0, err
			}
			defer f.Close()
			defer os.Remove(f.Name())
			files <- f
		}
		body := noise()
		return produce(producers, d.messages, func() error {
			f := <-files
			defer func() { files <- f }()
			if _, err := f.Write(body); err != nil {
				return err
			}
			return f.Sync()
		})
	}
}

// boltRate is bbolt's Update for one producer, and its Batch for many.
func (d *durability) boltRate(producers int) contender {
	return func(context.Context) (rate float64, err error) {
		db, err := bolt.Open(filepath.Join(d.dir, rand.Text()+".bolt"), 0o600, nil)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		bucket, body := []byte("bare"), noise()
		if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
			return 0, err
		}
		write := db.Update
		if producers > 1 {
			write = db.Batch
		}
		return produce(producers, d.messages, func() error {
			id := []byte(newID(time.Now()))
			return write(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(id, body) })
		})
	}
}

// mailer is a Mailer on p that delivers nothing.
func mailer(ctx context.Context, p *place) (*securemail.Mailer, func(), error) {
	q, closer, err := openQueue(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	m, err := securemail.New(securemail.Config{
		Policy: securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
			return securemail.Decision{Policy: "hold"}, nil
		}),
		Transport: securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
			return nil, errors.New("bench delivers nothing")
		}),
		Encryptors: []securemail.Encryptor{encrypt.TLSOnly{}}, Queue: q, Outbox: q, Ledger: noLedger{}, Service: securemail.Actor{ID: "bench", Kind: "service"},
	})
	if err != nil {
		closer()
		return nil, nil, err
	}
	return m, closer, nil
}

// noLedger forgets all events: Send does not wait for a ledger.
type noLedger struct{}

// Emit implements securemail.Ledger.
func (noLedger) Emit(context.Context, securemail.Event) error { return nil }

// Prove implements securemail.Ledger.
func (noLedger) Prove(context.Context, string) ([]byte, error) {
	return nil, errors.New("bench has no ledger")
}
