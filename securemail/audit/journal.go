package audit

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/postseal/postseal/internal/durable"
)

// A journal is a file of frames (internal/durable) named by the number of its first entry. Each frame is
//
//	number of the entry (8, big-endian) || entry || MAC (16) over the file's first number, the entry's, and the entry
//
// Once a checkpoint covers all of it, a new one takes its place.
type journal struct {
	file  *os.File
	key   *macs
	start int64 // number of the first entry
	next  int64 // number of the next one
	size  int64 // octets
}

const (
	journalPrefix = "journal-"
	journalLabel  = "postseal/audit@v1 journal"
	journalMAC    = 16
)

// errSync says that whether octets are on the disk is unknown, and that asking again would not tell.
var errSync = errors.New("audit: journal: sync, open the log anew")

func journalPath(dir string, start int64) string {
	return filepath.Join(dir, journalPrefix+strconv.FormatInt(start, 10))
}

func createJournal(dir string, key *macs, start int64) (*journal, error) {
	f, err := os.OpenFile(journalPath(dir, start), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), durable.SyncDir(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("audit: journal: %w", err)
	}
	return &journal{file: f, key: key, start: start, next: start}, nil
}

func (j *journal) mac(number int64, entry []byte) []byte {
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], uint64(j.start))
	binary.BigEndian.PutUint64(n[8:], uint64(number))
	return j.key.sum(journalLabel, n[:], entry)[:journalMAC]
}

// append writes items as the next entries and syncs them. On an error none counts.
func (j *journal) append(items []*item) error {
	var b, payload []byte
	for i, it := range items {
		number := j.next + int64(i)
		payload = binary.BigEndian.AppendUint64(payload[:0], uint64(number))
		payload = append(append(payload, it.data...), j.mac(number, it.data)...)
		b = durable.AppendFrame(b, payload)
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		// What is left, if it can't be cut off, is a torn tail.
		return fmt.Errorf("audit: journal: %w", errors.Join(err, j.file.Truncate(j.size)))
	}
	if err := j.file.Sync(); err != nil {
		return errors.Join(errSync, err, j.file.Truncate(j.size))
	}
	j.size += int64(len(b))
	j.next += int64(len(items))
	return nil
}

// replay calls f with each entry of the journal's octets, and sets where it ends; what is behind was torn by a crash.
func (j *journal) replay(b []byte, f func(number int64, entry []byte)) error {
	j.next = j.start
	whole, err := durable.Scan(b, func(p []byte) error {
		if len(p) < 8+journalMAC {
			return ErrCorrupt
		}
		entry := p[8 : len(p)-journalMAC]
		ok := hmac.Equal(j.mac(j.next, entry), p[len(p)-journalMAC:])
		if !ok || binary.BigEndian.Uint64(p) != uint64(j.next) {
			return ErrCorrupt
		}
		f(j.next, entry)
		j.next++
		return nil
	})
	j.size = int64(whole)
	if errors.Is(err, durable.ErrCorrupt) {
		err = ErrCorrupt
	}
	if err != nil {
		return fmt.Errorf("audit: journal: %w", err)
	}
	return nil
}

// journals lists the first numbers of the journals in dir, ascending.
func journals(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: journal: %w", err)
	}
	var out []int64
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), journalPrefix); ok {
			n, err := strconv.ParseInt(name, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("audit: journal: %w", ErrCorrupt)
			}
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// recoverJournals reads all journals and returns the entries from number size on, and the journal to go on with.
func recoverJournals(dir string, key *macs, size int64) (entries [][]byte, j *journal, err error) {
	starts, err := journals(dir)
	if err != nil {
		return nil, nil, err
	}
	if len(starts) == 0 && size > 0 {
		return nil, nil, fmt.Errorf("audit: journal missing: %w", ErrCorrupt)
	}
	next := size
	for _, start := range starts {
		if start > next {
			return nil, nil, fmt.Errorf("audit: journal missing: %w", ErrCorrupt)
		}
		b, err := os.ReadFile(journalPath(dir, start))
		if err != nil {
			return nil, nil, fmt.Errorf("audit: journal: %w", err)
		}
		j = &journal{key: key, start: start}
		err = j.replay(b, func(number int64, entry []byte) {
			if number == next {
				entries = append(entries, slices.Clone(entry))
				next++
			}
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if j == nil || j.next != next {
		j, err = createJournal(dir, key, next)
		return entries, j, err
	}
	return entries, j, j.reopen(dir)
}

// reopen cuts off a torn tail and makes the journal ready for append.
func (j *journal) reopen(dir string) error {
	f, err := os.OpenFile(journalPath(dir, j.start), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("audit: journal: %w", err)
	}
	if err := errors.Join(f.Truncate(j.size), f.Sync()); err != nil {
		return errors.Join(fmt.Errorf("audit: journal: %w", err), f.Close())
	}
	j.file = f
	return nil
}
