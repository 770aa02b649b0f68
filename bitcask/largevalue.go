package bitcask

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Large values come from a reader and go to one. A value that is put is in memory once, in the frame that is written: its
// checksums stand before it on disk. A value that is read is never in memory as a whole.

// PutFrom sets key to the next size bytes of r; ttl 0 means for ever. It reads all of them before it takes a lock, so a slow r
// holds nobody up, and takes memory for one copy. If r ends early the error is io.ErrUnexpectedEOF, if it
// fails its own, and nothing was applied. Otherwise as Put.
func (s *Store) PutFrom(key []byte, r io.Reader, size int64, ttl time.Duration) error {
	if s.opts.Replicated {
		return ErrReplicated
	}
	if err := errors.Join(checkKey(key), s.writable()); err != nil {
		return err
	}
	if limit := s.opts.MaxValueBytes; size < 0 || size > int64(limit) {
		return fmt.Errorf("%w: value of %d bytes, the limit is %d (Options.MaxValueBytes)", ErrTooLarge, size, limit)
	}
	if ttl < 0 {
		return fmt.Errorf("bitcask: time to live %s is not positive", ttl)
	}
	var flags recordFlags
	var expireAt int64
	if ttl > 0 {
		flags, expireAt = flagExpiry, s.Now()+max(1, ttl.Milliseconds())
	}
	f, err := frameFrom(flags, key, r, int(size), expireAt)
	if err != nil {
		return err
	}
	s.space.stall.wait(s.ctx)
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	err = s.writeFrameLocked(f)
	s.makeRoomAfter(err)
	return err
}

// soloFrame is the frame of a batch of one record, complete but for its header, for which it has room.
type soloFrame struct {
	bytes      []byte
	flags      recordFlags
	key        []byte
	expireAt   int64
	recordSize int
}

// frameFrom reads a value to where it will be written from.
func frameFrom(flags recordFlags, key []byte, r io.Reader, size int, expireAt int64) (*soloFrame, error) {
	const recordAt = frameHeaderBytes + batchHeaderBytes
	f := &soloFrame{flags: flags, key: key, expireAt: expireAt, recordSize: recordHeaderBytes + len(key) + size}
	if flags&flagExpiry != 0 {
		f.recordSize += 8
	}
	b := make([]byte, recordAt, frameBytes(batchHeaderBytes+f.recordSize))
	b[frameHeaderBytes] = batchFormat
	binary.LittleEndian.PutUint32(b[frameHeaderBytes+4:], 1)
	b = appendRecord(b, flags, key, nil, expireAt, 0)
	binary.LittleEndian.PutUint32(b[recordAt+8:], uint32(size))
	valueAt := len(b)
	b = b[:valueAt+size]
	if n, err := io.ReadFull(r, b[valueAt:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("bitcask: put: the reader gave %d of %d bytes, nothing was applied: %w", n, size, err)
	}
	binary.LittleEndian.PutUint32(b[recordAt:], crc32.Checksum(b[recordAt+4:], castagnoli))
	f.bytes = b
	return f, nil
}

// writeFrameLocked appends f, as durable as the store's writes are, and shows it.
func (s *Store) writeFrameLocked(f *soloFrame) error {
	a := &s.appender
	if err := errors.Join(s.writable(), s.roomForWrites()); err != nil {
		return err
	}
	need := frameBytes(len(f.bytes) - frameHeaderBytes)
	if s.sealsBefore(a.active.size.Load(), need) {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	at, index := a.active.size.Load(), s.nextIndex()
	if err := s.reserve(at + need); err != nil {
		return err
	}
	h := frameHeader{
		length: uint32(len(f.bytes) - frameHeaderBytes), index: index, kind: KindData, count: 1,
		applied: s.committer.point.Load().index, synced: uint64(a.active.synced.Load()),
	}
	b := h.sealFrame(f.bytes, a.active.seed, at, a.crc)
	if err := s.writeActive(b, at); err != nil {
		return s.undoWrite(at, fmt.Errorf("write segment %d at %d: %w", a.active.id, at, err))
	}
	a.active.size.Store(at + need)
	a.crc = h.crc
	if s.opts.Durability == Always {
		if err := s.syncActiveLocked(); err != nil {
			return err
		}
	}
	s.show(index, at, f.flags, s.published.Load().keys.Prefetch(f.key), f.key, f.expireAt, f.recordSize)
	s.writeBackSoon()
	s.watchSpace()
	s.succeedWrite()
	return nil
}

// ValueReader reads one value as it was when GetReader returned, whatever is written, merged or closed meanwhile. It is not
// safe for concurrent use. Close it: until then the value's file is kept.
type ValueReader struct {
	store *Store
	seg   *segment
	item  Item

	start, at, end int64 // of the value in the segment; at is what comes next
	headSum        uint32
	sum, want      uint32 // CRC32C of the record up to at, and of all of it
}

// valueBufferBytes is what a ValueReader takes of memory, for a short time.
const valueBufferBytes = 256 << 10

// GetReader is Get for values that are better not held in memory: the record is read once to check it, 256 KiB at a
// time, before the first byte is given out, and its checksum is taken again of what is given out.
func (s *Store) GetReader(key []byte) (*ValueReader, error) {
	l := s.readers.enter()
	it, seg, err := s.find(key)
	if err != nil {
		l.leave()
		return nil, err
	}
	seg.acquire() // the lane kept it so far
	l.leave()
	r := &ValueReader{store: s, seg: seg, item: itemOf(seg, key, it)}
	if r.item.ExpireAt != 0 && r.item.Expired(s.Now()) {
		_ = r.Close() // never fails
		return nil, ErrNotFound
	}
	r.end = int64(it.Offset) + int64(it.Size)
	r.start = r.end - int64(r.item.ValueLen)
	if err := r.open(int64(it.Offset), key); err != nil {
		_ = r.Close() // never fails
		return nil, err
	}
	return r, nil
}

// open checks the whole record, and goes back to the beginning of the value.
func (r *ValueReader) open(recordAt int64, key []byte) error {
	head := make([]byte, r.start-recordAt)
	if _, err := r.seg.file.ReadAt(head, recordAt); err != nil {
		return fmt.Errorf("bitcask: read %s at offset %d: %w", r.seg.name, recordAt, err)
	}
	if !bytes.Equal(head[len(head)-len(key):], key) || int(binary.LittleEndian.Uint32(head[8:])) != r.item.ValueLen {
		return &CorruptError{File: r.seg.name, Offset: recordAt, Reason: "it is the record of another key"}
	}
	r.want = binary.LittleEndian.Uint32(head)
	r.headSum = crc32.Checksum(head[4:], castagnoli)
	r.rewind()
	if _, err := r.WriteTo(io.Discard); err != nil {
		return err
	}
	r.rewind()
	return nil
}

func (r *ValueReader) rewind() { r.at, r.sum = r.start, r.headSum }

// Size of the value in bytes.
func (r *ValueReader) Size() int64 { return r.end - r.start }

// Item is what the keydir knew of the value.
func (r *ValueReader) Item() Item { return r.item }

// Read implements io.Reader. If the last bytes of the value turn out not to be what was written, it is ErrCorrupt, not io.EOF.
func (r *ValueReader) Read(p []byte) (int, error) {
	if r.seg == nil {
		return 0, ErrClosed
	}
	if r.at < r.end && len(p) > 0 {
		p = p[:min(int64(len(p)), r.end-r.at)]
		n, err := r.seg.file.ReadAt(p, r.at)
		r.sum = crc32.Update(r.sum, castagnoli, p[:n])
		r.at += int64(n)
		if n < len(p) {
			return n, fmt.Errorf("bitcask: read %s at offset %d: %w", r.seg.name, r.at, noEOF(err))
		}
		return n, r.check()
	}
	if err := r.check(); err != nil || r.at < r.end {
		return 0, err
	}
	return 0, io.EOF
}

// noEOF: the end of a file within a value is no good end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// check compares checksums at the end of the value.
func (r *ValueReader) check() error {
	if r.at == r.end && r.sum != r.want {
		return &CorruptError{File: r.seg.name, Offset: r.start, Reason: fmt.Sprintf("record checksum is %08x, should be %08x", r.sum, r.want)}
	}
	return nil
}

// WriteTo implements io.WriterTo: io.Copy takes 256 KiB at a time.
func (r *ValueReader) WriteTo(w io.Writer) (n int64, err error) {
	buf := make([]byte, min(valueBufferBytes, max(1, r.Size())))
	for {
		m, err := r.Read(buf)
		if m > 0 {
			written, writeErr := w.Write(buf[:m])
			n += int64(written)
			if err = errors.Join(err, writeErr); writeErr == nil && written < m {
				err = io.ErrShortWrite
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// Close lets go of the value's file. It may be called twice.
func (r *ValueReader) Close() error {
	if r.seg != nil {
		r.seg.release(r.store.fs, r.store.path)
		r.seg = nil
	}
	return nil
}
