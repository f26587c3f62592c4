package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverJob is a job whose arguments are as long as a message.
type riverJob struct {
	Body []byte `json:"body"`
}

// Kind implements river.JobArgs.
func (riverJob) Kind() string { return "bench" }

// riverWorker does nothing.
type riverWorker struct {
	river.WorkerDefaults[riverJob]
	done *atomic.Int64
}

// Work implements river.Worker.
func (w *riverWorker) Work(context.Context, *river.Job[riverJob]) error {
	w.done.Add(1)
	return nil
}

// riverWorkers is how many jobs river works on at once.
const riverWorkers = 1000

// openRiver makes river's tables and a client; where done is given it works.
func openRiver(ctx context.Context, p *place, done *atomic.Int64) (*river.Client[pgx.Tx], func(), error) {
	conf, err := pgxpool.ParseConfig(p.dsn)
	if err != nil {
		return nil, nil, errors.New("POSTSEAL_PG_DSN must be a postgres:// URL")
	}
	conf.MaxConns = 32
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	c := &river.Config{Logger: quiet}
	if done != nil {
		c.Workers = river.NewWorkers()
		river.AddWorker(c.Workers, &riverWorker{done: done})
		c.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), c)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return client, pool.Close, nil
}

// riverInserts is river's Insert, a transaction each.
func (d *durability) riverInserts(ctx context.Context, p *place, producers int) (float64, error) {
	client, closer, err := openRiver(ctx, p, nil)
	if err != nil {
		return 0, err
	}
	defer closer()
	args := riverJob{noise()[:messageSize*3/4]} // base64 makes it 4 KB
	return produce(producers, d.messages, func() error {
		_, err := client.Insert(ctx, args, nil)
		return err
	})
}

// riverWork is river working off a backlog with a worker that does nothing.
func (d *durability) riverWork(ctx context.Context, p *place) (float64, error) {
	var done atomic.Int64
	client, closer, err := openRiver(ctx, p, &done)
	if err != nil {
		return 0, err
	}
	defer closer()
	n := d.backlog()
	args := riverJob{noise()[:messageSize*3/4]}
	many := make([]river.InsertManyParams, 0, leaseBatch)
	for left := n; left > 0; left -= len(many) {
		many = many[:0]
		for range min(left, leaseBatch) {
			many = append(many, river.InsertManyParams{Args: args})
		}
		if _, err := client.InsertManyFast(ctx, many); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	if err := client.Start(ctx); err != nil {
		return 0, err
	}
	for done.Load() < int64(n) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	return float64(n) / took.Seconds(), errors.Join(client.Stop(ctx), ctx.Err())
}
