package durable

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// An append-only file is a sequence of frames:
//
//	length of the payload (4, big-endian) || CRC-32C of these 4 octets (4) || payload
//
// The CRC guards the length only, so that a flipped length can't pass for a torn tail; the payload must prove itself (a
// sealed text, a MAC).
const frameHeader = 8

// MaxFrame bounds a payload, in octets.
const MaxFrame = 1 << 30

// ErrCorrupt says that a file of frames holds what no crash can have left.
var ErrCorrupt = errors.New("durable: damaged file")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendFrame appends payload, at most MaxFrame octets, to dst as one frame.
func AppendFrame(dst, payload []byte) []byte {
	var h [frameHeader]byte
	binary.BigEndian.PutUint32(h[:4], uint32(len(payload)))
	binary.BigEndian.PutUint32(h[4:], crc32.Checksum(h[:4], castagnoli))
	return append(append(dst, h[:]...), payload...)
}

// Scan calls f with each payload in data, in order, and returns how many octets at the start are whole frames that f
// took. What is behind them is a tail that a crash tore: cut it off before appending. An append that was cut short leaves
// a beginning of its frame or, after a power cut, zeros in place of its end. Anything else that is no frame, or that f
// refuses, is ErrCorrupt. f's payload is valid during the call only.
func Scan(data []byte, f func(payload []byte) error) (whole int, err error) {
	for whole < len(data) {
		rest := data[whole:]
		if len(rest) < frameHeader {
			return whole, nil
		}
		n := int(binary.BigEndian.Uint32(rest[:4]))
		if crc32.Checksum(rest[:4], castagnoli) != binary.BigEndian.Uint32(rest[4:frameHeader]) || n > MaxFrame {
			return whole, tornOr(ErrCorrupt, rest)
		}
		if len(rest)-frameHeader < n {
			return whole, nil
		}
		if err := f(rest[frameHeader : frameHeader+n]); err != nil {
			if len(rest) == frameHeader+n {
				err = tornOr(err, rest)
			}
			return whole, err
		}
		whole += frameHeader + n
	}
	return whole, nil
}

// tornOr is nil where rest, the last frame of a file, ends in zeros as an append does whose last block never reached the
// disk. A whole sealed text or MAC ends so once in 2^128.
func tornOr(err error, rest []byte) error {
	const proof = 16
	if len(rest) < proof {
		return err
	}
	for _, b := range rest[len(rest)-proof:] {
		if b != 0 {
			return err
		}
	}
	return nil
}
