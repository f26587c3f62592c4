package sqldb

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
)

// maxPrepared bounds the statements that are kept; more run as they come.
const maxPrepared = 64

// prepared are the statements of one DB that SQLite need not parse again, which costs more than running them.
// PostgreSQL's drivers do this by themselves, or must not, behind a pooler.
type prepared struct {
	mu     sync.Mutex // guards what follows
	ready  map[string]*sql.Stmt
	wanted map[string]bool
}

// newPrepared is closed with d.
func newPrepared(d *DB) *prepared {
	p := &prepared{ready: make(map[string]*sql.Stmt), wanted: make(map[string]bool)}
	runtime.AddCleanup(d, func(p *prepared) { p.close() }, p)
	return p
}

func (p *prepared) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.ready {
		_ = s.Close()
	}
}

// get is query's statement, or nil where it is not prepared yet; the next transaction prepares it.
func (p *prepared) get(query string) *sql.Stmt {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.ready[query]
	if s == nil && len(p.ready)+len(p.wanted) < maxPrepared {
		p.wanted[query] = true
	}
	return s
}

// prepare makes ready what was wanted. It takes a connection, so it must not be called by one who holds one, and it holds
// no lock while it waits. What can't be prepared now is run as it comes.
func (p *prepared) prepare(ctx context.Context, db *sql.DB) {
	p.mu.Lock()
	var queries []string
	for query := range p.wanted {
		queries = append(queries, query)
	}
	clear(p.wanted)
	p.mu.Unlock()
	for _, query := range queries {
		s, err := db.PrepareContext(ctx, query)
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.ready[query] == nil {
			p.ready[query], s = s, nil
		}
		p.mu.Unlock()
		if s != nil { // another was faster
			_ = s.Close()
		}
	}
}

// Tx runs statements inside a transaction of [DB.Tx] or [DB.Commit]. On SQLite each text is kept prepared, so there
// should be few.
type Tx struct {
	*sql.Tx
	d *DB
}

// Prepared wraps the transaction of a Func of d.
func (d *DB) Prepared(tx *sql.Tx) *Tx { return &Tx{tx, d} }

func (t *Tx) stmt(ctx context.Context, query string) *sql.Stmt {
	if t.d.Dialect != SQLite {
		return nil
	}
	if s := t.d.prepared.get(query); s != nil {
		return t.StmtContext(ctx, s)
	}
	return nil
}

// ExecContext is that of [sql.Tx].
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if s := t.stmt(ctx, query); s != nil {
		return s.ExecContext(ctx, args...)
	}
	return t.Tx.ExecContext(ctx, query, args...)
}

// QueryContext is that of [sql.Tx].
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := t.stmt(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return t.Tx.QueryContext(ctx, query, args...)
}

// QueryRowContext is that of [sql.Tx].
func (t *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := t.stmt(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return t.Tx.QueryRowContext(ctx, query, args...)
}
