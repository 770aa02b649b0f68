package bitcask

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/raftcask/raftcask/internal/vfs"
)

// A hint file holds what the keydir needs of one sealed segment, so that Open
// need not read values. It exists only for segments whose every entry is
// committed, and it can always be made again from the segment.

const (
	hintMagic       = "RCASKHNT"
	hintFormat      = 1
	hintHeaderBytes = 128
	hintBlockBytes  = 64 << 10 // payload of a full block
	hintKeyBytes    = 27       // fixed part of a key entry
	hintPlaceBytes  = 8

	hintBlockKeys   = 1
	hintBlockPlaces = 2
	hintBlockHeader = 12 // length, kind, CRC
)

// hintHeader is the start of the file. It is written last.
type hintHeader struct {
	uid          uid
	segmentSize  int64
	keys, places uint64
	firstPlace   uint64 // index of the first place
	cleared      uint64 // the segment's last clear record
	lastTerm     uint64
	time         int64 // highest leader time
	fileSize     int64
}

// hintKey is one record as the keydir sees it. key is valid during a callback.
type hintKey struct {
	flags        recordFlags // flagDelete or none
	offset, size uint32
	version      uint64
	expireAt     int64
	key          []byte
}

func (h *hintHeader) encode() []byte {
	b := make([]byte, hintHeaderBytes)
	copy(b, hintMagic)
	binary.LittleEndian.PutUint16(b[8:], hintFormat)
	copy(b[16:], h.uid[:])
	for i, v := range []uint64{uint64(h.segmentSize), h.keys, h.places, h.firstPlace, h.cleared, h.lastTerm, uint64(h.time), 0, uint64(h.fileSize)} {
		binary.LittleEndian.PutUint64(b[32+8*i:], v)
	}
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
	return b
}

func decodeHintHeader(b []byte) (hintHeader, error) {
	var h hintHeader
	if len(b) < hintHeaderBytes || string(b[:8]) != hintMagic {
		return h, fmt.Errorf("it does not begin with %s", hintMagic)
	}
	if crc32.Checksum(b[:124], castagnoli) != binary.LittleEndian.Uint32(b[124:]) {
		return h, fmt.Errorf("header checksum is wrong")
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != hintFormat {
		return h, fmt.Errorf("hint format %d is not known to this version", v)
	}
	copy(h.uid[:], b[16:])
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[32+8*i:]) }
	h.segmentSize, h.keys, h.places, h.firstPlace = int64(word(0)), word(1), word(2), word(3)
	h.cleared, h.lastTerm, h.time, h.fileSize = word(4), word(5), int64(word(6)), int64(word(8))
	return h, nil
}

// hintWriter writes the hint of one segment beside it, under a temporary name
// until it is complete.
type hintWriter struct {
	fs     vfs.FS
	dir    string
	id     uint32
	file   vfs.File
	header hintHeader
	keys   []byte // the open key block
	places []byte // the open place block
	at     int64
	writes writeOut
	spend  func(bytes int64) error // of the segment that the hint is made from; nil: no budget
}

func newHintWriter(fs vfs.FS, dir string, seg *segment) (*hintWriter, error) {
	w := &hintWriter{fs: fs, dir: dir, id: seg.id, at: hintHeaderBytes}
	w.header.uid = seg.uid
	_ = fs.Remove(w.tmpName()) // left from a crash
	file, err := fs.Create(w.tmpName())
	if err != nil {
		return nil, fmt.Errorf("create the hint of segment %d: %w", seg.id, err)
	}
	w.file, w.writes = file, writeOut{file: file}
	return w, nil
}

func (w *hintWriter) tmpName() string { return hintName(w.dir, w.id) + ".tmp" }

func (w *hintWriter) addKey(k hintKey) error {
	w.keys = append(w.keys, byte(k.flags))
	w.keys = binary.LittleEndian.AppendUint16(w.keys, uint16(len(k.key)))
	w.keys = binary.LittleEndian.AppendUint32(w.keys, k.offset)
	w.keys = binary.LittleEndian.AppendUint32(w.keys, k.size)
	w.keys = binary.LittleEndian.AppendUint64(w.keys, k.version)
	w.keys = binary.LittleEndian.AppendUint64(w.keys, uint64(k.expireAt))
	w.keys = append(w.keys, k.key...)
	w.header.keys++
	if len(w.keys) >= hintBlockBytes {
		return w.flush(hintBlockKeys, &w.keys)
	}
	return nil
}

func (w *hintWriter) addPlace(index uint64, at place) error {
	if w.header.places == 0 {
		w.header.firstPlace = index
	}
	w.places = binary.LittleEndian.AppendUint32(w.places, at.offset)
	w.places = binary.LittleEndian.AppendUint32(w.places, at.prev)
	w.header.places++
	if len(w.places) >= hintBlockBytes {
		return w.flush(hintBlockPlaces, &w.places)
	}
	return nil
}

func (w *hintWriter) flush(kind uint32, block *[]byte) error {
	if len(*block) == 0 {
		return nil
	}
	var head [hintBlockHeader]byte
	binary.LittleEndian.PutUint32(head[0:], uint32(len(*block)))
	binary.LittleEndian.PutUint32(head[4:], kind)
	binary.LittleEndian.PutUint32(head[8:], crc32.Update(crc32.Checksum(head[:8], castagnoli), castagnoli, *block))
	if _, err := w.file.WriteAt(append(head[:], *block...), w.at); err != nil {
		return fmt.Errorf("write the hint of segment %d: %w", w.id, err)
	}
	w.at += int64(hintBlockHeader + len(*block))
	*block = (*block)[:0]
	if err := w.writes.upTo(w.at); err != nil {
		return fmt.Errorf("write the hint of segment %d: %w", w.id, err)
	}
	return nil
}

// finish makes the hint durable, all but its name: the caller syncs the directory.
func (w *hintWriter) finish(segmentSize int64) error {
	err := w.flush(hintBlockKeys, &w.keys)
	if err == nil {
		err = w.flush(hintBlockPlaces, &w.places)
	}
	if err == nil {
		w.header.segmentSize, w.header.fileSize = segmentSize, w.at
		_, err = w.file.WriteAt(w.header.encode(), 0)
	}
	if err != nil {
		w.abort()
		return err
	}
	if err := w.file.Sync(); err != nil {
		w.abort()
		return &syncError{fmt.Errorf("sync the hint of segment %d: %w", w.id, err)}
	}
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("close the hint of segment %d: %w", w.id, err)
	}
	if err := w.fs.Rename(w.tmpName(), hintName(w.dir, w.id)); err != nil {
		_ = w.fs.Remove(w.tmpName()) // else the next Open does it
		return fmt.Errorf("rename the hint of segment %d: %w", w.id, err)
	}
	return nil
}

func (w *hintWriter) abort() {
	_ = w.file.Close()
	_ = w.fs.Remove(w.tmpName())
}

// hintReader reads a hint file whose header fits its segment.
type hintReader struct {
	hintHeader
	file vfs.File
	name string
	// inMemory: the disk had no room for the file; it is made when there is.
	inMemory bool
}

// openHint fails when the hint is missing, damaged at its start, or of another
// segment; the segment is scanned then.
func openHint(fs vfs.FS, dir string, seg *segment) (*hintReader, error) {
	return openHintThat(fs, dir, seg.id, func(h *hintHeader) bool { return h.uid == seg.uid && h.segmentSize == seg.size.Load() })
}

// openHintThat is openHint for a hint of whose segment more or less is known.
func openHintThat(fs vfs.FS, dir string, id uint32, fits func(*hintHeader) bool) (*hintReader, error) {
	name := hintName(dir, id)
	file, err := fs.OpenRead(name)
	if err != nil {
		return nil, err
	}
	r := &hintReader{file: file, name: name}
	b := make([]byte, hintHeaderBytes)
	if _, err = file.ReadAt(b, 0); err == nil {
		r.hintHeader, err = decodeHintHeader(b)
	}
	if err == nil && !fits(&r.hintHeader) {
		err = fmt.Errorf("it belongs to segment %s of %d bytes", r.uid, r.segmentSize)
	}
	var size int64
	if err == nil {
		size, err = file.Size()
	}
	if err == nil && size != r.fileSize {
		err = fmt.Errorf("it has %d bytes, should have %d", size, r.fileSize)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("hint %s: %w", name, err)
	}
	return r, nil
}

func (r *hintReader) close() { _ = r.file.Close() }

// each reads the whole file: keys to onKey, places to onPlace (both may be nil).
func (r *hintReader) each(onKey func(hintKey), onPlace func(place)) error {
	var keys, places uint64
	in := io.NewSectionReader(r.file, hintHeaderBytes, r.fileSize-hintHeaderBytes)
	block := make([]byte, 0, hintBlockBytes+hintKeyBytes+MaxKeyBytes)
	for {
		kind, b, err := readHintBlock(in, block)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("hint %s: %w", r.name, err)
		}
		switch kind {
		case hintBlockKeys:
			n, err := eachHintKey(b, onKey)
			if err != nil {
				return fmt.Errorf("hint %s: %w", r.name, err)
			}
			keys += n
		case hintBlockPlaces:
			places += uint64(len(b) / hintPlaceBytes)
			for ; onPlace != nil && len(b) >= hintPlaceBytes; b = b[hintPlaceBytes:] {
				onPlace(place{offset: binary.LittleEndian.Uint32(b), prev: binary.LittleEndian.Uint32(b[4:])})
			}
		}
	}
	if keys != r.keys || places != r.places {
		return fmt.Errorf("hint %s: it has %d keys and %d places, should have %d and %d", r.name, keys, places, r.keys, r.places)
	}
	return nil
}

func readHintBlock(in io.Reader, buf []byte) (kind uint32, block []byte, err error) {
	var head [hintBlockHeader]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("block header cut off")
		}
		return 0, nil, err
	}
	length := binary.LittleEndian.Uint32(head[0:])
	kind = binary.LittleEndian.Uint32(head[4:])
	if int(length) > cap(buf) || length == 0 || (kind != hintBlockKeys && kind != hintBlockPlaces) {
		return 0, nil, fmt.Errorf("block of %d bytes and kind %d is out of bounds", length, kind)
	}
	block = buf[:length]
	if _, err := io.ReadFull(in, block); err != nil {
		return 0, nil, fmt.Errorf("block of %d bytes: %w", length, err)
	}
	if crc32.Update(crc32.Checksum(head[:8], castagnoli), castagnoli, block) != binary.LittleEndian.Uint32(head[8:]) {
		return 0, nil, fmt.Errorf("block checksum is wrong")
	}
	return kind, block, nil
}

func eachHintKey(b []byte, onKey func(hintKey)) (n uint64, err error) {
	for len(b) > 0 {
		if len(b) < hintKeyBytes {
			return n, fmt.Errorf("key entry cut off after %d bytes", len(b))
		}
		k := hintKey{
			flags:   recordFlags(b[0]),
			offset:  binary.LittleEndian.Uint32(b[3:]),
			size:    binary.LittleEndian.Uint32(b[7:]),
			version: binary.LittleEndian.Uint64(b[11:]), expireAt: int64(binary.LittleEndian.Uint64(b[19:])),
		}
		end := hintKeyBytes + int(binary.LittleEndian.Uint16(b[1:]))
		if end > len(b) || end == hintKeyBytes {
			return n, fmt.Errorf("key of %d bytes is out of bounds", end-hintKeyBytes)
		}
		k.key = b[hintKeyBytes:end:end]
		if onKey != nil {
			onKey(k)
		}
		b = b[end:]
		n++
	}
	return n, nil
}

// buildHint writes the hint of a sealed, wholly committed segment by scanning it.
func (s *Store) buildHint(dir string, seg *segment) error { return s.buildHintPaced(dir, seg, nil) }

// buildHintPaced is buildHint that spends what it reads; nil is for no budget.
func (s *Store) buildHintPaced(dir string, seg *segment, spend func(bytes int64) error) error {
	w, err := newHintWriter(s.fs, dir, seg)
	if err != nil {
		return err
	}
	w.spend = spend
	if err := scanInto(w, seg); err != nil {
		w.abort()
		return err
	}
	if err := w.finish(seg.size.Load()); err != nil {
		return err
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return &syncError{fmt.Errorf("sync the directory of hint %d: %w", seg.id, err)}
	}
	seg.hinted.Store(true)
	return nil
}

// remakeHint builds a hint and opens it. On a full disk it is built in memory
// (30 bytes and the key for each record), for a store must open there too:
// nobody could read it or make room otherwise.
func (s *Store) remakeHint(dir string, seg *segment) (*hintReader, error) {
	err := s.buildHint(dir, seg)
	if err == nil {
		return openHint(s.fs, dir, seg)
	}
	if !isNoSpace(err) {
		return nil, err
	}
	s.logger.Warn("disk full: a hint is made in memory only", "segment", seg.name, "error", err)
	memory := vfs.NewMem()
	if err := memory.MkdirAll(dir); err != nil {
		return nil, err
	}
	w, err := newHintWriter(memory, dir, seg)
	if err != nil {
		return nil, err
	}
	if err := scanInto(w, seg); err != nil {
		return nil, err
	}
	if err := w.finish(seg.size.Load()); err != nil {
		return nil, err
	}
	h, err := openHint(memory, dir, seg)
	if err != nil {
		return nil, err
	}
	h.inMemory = true
	return h, nil
}

func scanInto(w *hintWriter, seg *segment) error {
	return scanSegment(seg, func(f frame, prev uint32, p *pendingEntry) error {
		if w.spend != nil {
			if err := w.spend(f.size()); err != nil {
				return err
			}
		}
		w.header.time = max(w.header.time, p.time)
		w.header.lastTerm = f.term
		if seg.kind == logSegment {
			if err := w.addPlace(f.index, place{offset: uint32(f.offset / frameAlign), prev: prev}); err != nil {
				return err
			}
		}
		for i := range p.records {
			r := &p.records[i]
			if r.flags&flagClear != 0 {
				w.header.cleared = r.version
				continue
			}
			k := hintKey{flags: r.flags & flagDelete, offset: r.offset, size: r.size, version: r.version, expireAt: r.expireAt, key: r.key}
			if err := w.addKey(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// scanSegment walks the frames of a segment with their records parsed. What fn
// is given is valid during the call; the next reuses it.
func scanSegment(seg *segment, fn func(f frame, prev uint32, p *pendingEntry) error) error {
	r := seg.frames()
	p := new(pendingEntry)
	for {
		prev := r.crc
		f, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.parseFrame(seg, &f); err != nil {
			return &CorruptError{File: seg.name, Offset: f.offset, Reason: err.Error()}
		}
		if err := fn(f, prev, p); err != nil {
			return err
		}
	}
}
