package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
)

// numbersOf yields the numbers of the entries, below size, that may be of parcel: their octets name it.
func (l *Log) numbersOf(ctx context.Context, parcel string, size int64) iter.Seq2[int64, error] {
	name, err := json.Marshal(parcel)
	return func(yield func(int64, error) bool) {
		if err != nil {
			yield(0, err)
			return
		}
		field := append([]byte(`"parcel":`), name...)
		for n, data := range l.scan(ctx, size, &err) {
			if bytes.Contains(data, field) && !yield(n, nil) {
				return
			}
		}
		if err != nil {
			yield(0, err)
		}
	}
}

// scan yields the published entries below size with their numbers, a bundle at a time, and leaves in err why it ended early.
func (l *Log) scan(ctx context.Context, size int64, err *error) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for n := int64(0); n*tileWidth < size; n++ {
			if *err = ctx.Err(); *err != nil {
				return
			}
			var entries [][]byte
			if entries, *err = readBundle(l.dir, n, size); *err != nil {
				return
			}
			for i, data := range entries {
				if !yield(n*tileWidth+int64(i), data) {
					return
				}
			}
		}
	}
}
