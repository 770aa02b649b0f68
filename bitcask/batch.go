package bitcask

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// MaxKeyBytes is 64 KiB - 1: a record keeps the key's length in a uint16.
const MaxKeyBytes = 64<<10 - 1

const (
	batchHeaderBytes  = 24
	recordHeaderBytes = 12
	batchFormat       = 1
)

// recordFlags say what a record does. A delete is a flag, never a magic value.
type recordFlags uint8

const (
	flagDelete  recordFlags = 1 << iota // the key is gone
	flagExpiry                          // an 8-byte expiry time follows the header
	flagClear                           // every key older than this entry is gone; no key, first in its batch
	flagVersion                         // an 8-byte version follows (merged segments)

	knownFlags = flagDelete | flagExpiry | flagClear | flagVersion
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch collects the records of one log entry: they become visible together or
// not at all. The zero value is an empty batch that is valid in any term. When a
// key occurs twice the later record wins. A Batch is not safe for concurrent use.
type Batch struct {
	buf      []byte // header and records, as on disk
	count    int
	maxValue int // the largest value, bytes
}

// Reset empties the batch, and sets the Raft term in which it is valid (0: any)
// and the leader's time in milliseconds since 1970. The memory that Bytes gave
// out is reused; call Detach first to keep it.
func (b *Batch) Reset(term uint64, now int64) {
	b.buf = append(b.buf[:0], make([]byte, batchHeaderBytes)...)
	b.buf[0] = batchFormat
	binary.LittleEndian.PutUint64(b.buf[8:], term)
	binary.LittleEndian.PutUint64(b.buf[16:], uint64(now))
	b.count, b.maxValue = 0, 0
}

// Detach gives the encoding to the caller and leaves an empty batch behind.
func (b *Batch) Detach() []byte {
	data := b.Bytes()
	*b = Batch{}
	return data
}

// Put adds a record that sets key to value. expireAt is in milliseconds since
// 1970; 0 means never. Key and value are copied.
func (b *Batch) Put(key, value []byte, expireAt int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > hardMaxValueBytes {
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", ErrTooLarge, len(value), hardMaxValueBytes)
	}
	var flags recordFlags
	if expireAt != 0 {
		flags = flagExpiry
	}
	b.add(flags, key, value, expireAt)
	b.maxValue = max(b.maxValue, len(value))
	return nil
}

// Delete adds a record that removes key.
func (b *Batch) Delete(key []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	b.add(flagDelete, key, nil, 0)
	return nil
}

// Clear adds a record that removes every key, the earlier ones of this batch
// included.
func (b *Batch) Clear() {
	b.lazyInit()
	b.buf = b.buf[:batchHeaderBytes]
	b.count, b.maxValue = 0, 0
	b.add(flagClear, nil, nil, 0)
}

// Len is the number of records.
func (b *Batch) Len() int { return b.count }

// Size is the length of the encoding so far, in bytes.
func (b *Batch) Size() int { return max(len(b.buf), batchHeaderBytes) }

// Bytes is the encoding: the payload of a KindData entry. It aliases the batch.
func (b *Batch) Bytes() []byte {
	b.lazyInit()
	binary.LittleEndian.PutUint32(b.buf[4:], uint32(b.count))
	return b.buf
}

func (b *Batch) lazyInit() {
	if len(b.buf) == 0 {
		b.Reset(0, 0)
	}
}

func (b *Batch) add(flags recordFlags, key, value []byte, expireAt int64) {
	b.lazyInit()
	b.buf = appendRecord(b.buf, flags, key, value, expireAt, 0)
	b.count++
}

// clears tells whether the batch begins with a clear record.
func (b *Batch) clears() bool {
	return b.count > 0 && recordFlags(b.buf[batchHeaderBytes+4])&flagClear != 0
}

// BatchTerm is the term in which an encoded batch is valid; ok is false when
// data is no batch.
func BatchTerm(data []byte) (term uint64, ok bool) {
	if len(data) < batchHeaderBytes || data[0] != batchFormat {
		return 0, false
	}
	return binary.LittleEndian.Uint64(data[8:]), true
}

func batchTime(data []byte) int64   { return int64(binary.LittleEndian.Uint64(data[16:])) }
func batchCount(data []byte) uint32 { return binary.LittleEndian.Uint32(data[4:]) }

func checkKey(key []byte) error {
	if len(key) == 0 {
		return ErrEmptyKey
	}
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: key of %d bytes, the limit is %d", ErrTooLarge, len(key), MaxKeyBytes)
	}
	return nil
}

// record is one decoded record. Key and value alias the bytes it came from.
type record struct {
	flags    recordFlags
	key      []byte
	value    []byte
	expireAt int64
	version  uint64 // only with flagVersion
	size     int    // encoded bytes
}

// appendRecord encodes one record. The CRC covers all that follows it, so that
// a record can be checked alone.
func appendRecord(dst []byte, flags recordFlags, key, value []byte, expireAt int64, version uint64) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(flags), 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint16(dst[start+6:], uint16(len(key)))
	binary.LittleEndian.PutUint32(dst[start+8:], uint32(len(value)))
	if flags&flagExpiry != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(expireAt))
	}
	if flags&flagVersion != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, version)
	}
	dst = append(dst, key...)
	dst = append(dst, value...)
	binary.LittleEndian.PutUint32(dst[start:], crc32.Checksum(dst[start+4:], castagnoli))
	return dst
}

// parseRecord decodes the record at the start of b. Every length is checked
// against b before it is used.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordHeaderBytes {
		return record{}, fmt.Errorf("record header cut off after %d bytes", len(b))
	}
	flags := recordFlags(b[4])
	if flags&^knownFlags != 0 || b[5] != 0 {
		return record{}, fmt.Errorf("unknown record flags %#x", b[4])
	}
	keyLen := int(binary.LittleEndian.Uint16(b[6:]))
	valueLen := int(binary.LittleEndian.Uint32(b[8:]))
	at := recordHeaderBytes
	if flags&flagExpiry != 0 {
		at += 8
	}
	if flags&flagVersion != 0 {
		at += 8
	}
	size := at + keyLen + valueLen
	if valueLen > len(b) || size > len(b) {
		return record{}, fmt.Errorf("record of %d bytes is longer than the %d there are", size, len(b))
	}
	if got, want := crc32.Checksum(b[4:size], castagnoli), binary.LittleEndian.Uint32(b); got != want {
		return record{}, fmt.Errorf("record checksum is %08x, should be %08x", got, want)
	}
	r := record{flags: flags, size: size, key: b[at : at+keyLen : at+keyLen], value: b[at+keyLen : size : size]}
	at = recordHeaderBytes
	if flags&flagExpiry != 0 {
		r.expireAt = int64(binary.LittleEndian.Uint64(b[at:]))
		at += 8
	}
	if flags&flagVersion != 0 {
		r.version = binary.LittleEndian.Uint64(b[at:])
	}
	if (keyLen == 0) != (flags&flagClear != 0) {
		return record{}, fmt.Errorf("record has a key of %d bytes and flags %#x", keyLen, flags)
	}
	return r, nil
}

// valueLen of a live record from what the keydir knows: its size and its key.
func valueLen(size uint32, keyLen int, expireAt int64, merged bool) int {
	n := int(size) - recordHeaderBytes - keyLen
	if expireAt != 0 {
		n -= 8
	}
	if merged {
		n -= 8
	}
	return n
}

// eachRecord walks the records of an encoded batch. off is the record's offset
// within data.
func eachRecord(data []byte, fn func(off int, r record)) error {
	if len(data) < batchHeaderBytes {
		return fmt.Errorf("batch header cut off after %d bytes", len(data))
	}
	if data[0] != batchFormat || data[1]|data[2]|data[3] != 0 {
		return fmt.Errorf("unknown batch format % x", data[:4])
	}
	off, count := batchHeaderBytes, batchCount(data)
	for n := uint32(0); n < count; n++ {
		r, err := parseRecord(data[off:])
		if err != nil {
			return fmt.Errorf("record %d of %d: %w", n, count, err)
		}
		if r.flags&flagClear != 0 && n != 0 {
			return fmt.Errorf("record %d of %d: a clear must come first", n, count)
		}
		fn(off, r)
		off += r.size
	}
	if off != len(data) {
		return fmt.Errorf("batch has %d bytes after its %d records", len(data)-off, count)
	}
	return nil
}

// claimedRecordBytes is how long the record at the start of b says it is. Its CRC was
// not checked.
func claimedRecordBytes(b []byte) int {
	n := recordHeaderBytes + int(binary.LittleEndian.Uint16(b[6:])) + int(binary.LittleEndian.Uint32(b[8:]))
	if recordFlags(b[4])&flagExpiry != 0 {
		n += 8
	}
	if recordFlags(b[4])&flagVersion != 0 {
		n += 8
	}
	return n
}
