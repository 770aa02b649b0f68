package bitcask

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Damage is a place on disk that does not read as it was written.
type Damage struct {
	File   string `json:"file"`            // path
	Offset int64  `json:"offset"`          // bytes from the start of File
	Bytes  int64  `json:"bytes,omitempty"` // up to the next frame that reads; 0 when that is not known
	Reason string `json:"reason"`
}

func (d Damage) String() string {
	return fmt.Sprintf("%s at offset %d: %s", d.File, d.Offset, d.Reason)
}

// damageOf makes a Damage of the error that opening or reading a file gave.
func damageOf(name string, err error) Damage {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return Damage{File: corrupt.File, Offset: corrupt.Offset, Reason: corrupt.Reason}
	}
	return Damage{File: name, Reason: err.Error()}
}

// walker reads every frame of a segment that can be read, also behind damage: a frame's header
// has a CRC of its own, bound to file and offset, so the next one can be found again. It
// changes nothing. Set the exported half, then call walk once.
type walker struct {
	seg   *segment
	limit int64 // of the bytes that may hold frames
	// tail says that this is the active segment: bytes that are no frame end it, unless they
	// lie before synced or a later frame promises that they were synced (see judgeTail).
	tail   bool
	synced int64

	spend  func(bytes int64) error                      // nil: no budget
	frame  func(f *frame, p *pendingEntry) error        // each good frame, valid during the call
	damage func(d Damage, readable *pendingEntry) error // each bad place; readable is what still is, nil for nothing

	r *frameReader
	// prevs are the CRCs that the next frame may chain from: one on a sound path, the stored and the
	// computed one behind a frame that is damaged, none when it is not known.
	prevs []uint32
	again int64 // the offset that was read twice already, in a tail
}

// walk returns the offset after the last frame.
func (w *walker) walk() (end int64, err error) {
	w.r = newFrameReader(w.seg.file, w.seg.name, w.seg.seed, w.limit)
	w.prevs = []uint32{w.seg.seed}
	for w.r.offset < w.limit {
		from := w.r.offset
		more, err := w.step()
		if err != nil {
			return from, err
		}
		if !more {
			break
		}
		if w.spend != nil {
			if err := w.spend(w.r.offset - from); err != nil {
				return from, err
			}
		}
	}
	return w.r.offset, nil
}

// step takes one frame, or one damaged place; more is false at the end of the log.
func (w *walker) step() (more bool, err error) {
	if len(w.prevs) == 1 {
		w.r.crc = w.prevs[0]
		if f, err := w.r.next(); err == nil {
			w.prevs[0] = f.crc
			return true, w.deliver(&f)
		}
	}
	offset := w.r.offset
	h, raw, cause := w.readFrame(offset)
	if cause == nil {
		f := w.frameOf(h, raw, offset)
		if w.chains(h, raw) || (len(w.prevs) == 0 && w.parses(&f)) {
			w.goOn(f.end(), h.crc)
			return true, w.deliver(&f)
		}
		cause = errors.New("frame checksum is wrong")
	}
	if w.tail {
		if over, err := w.endsAt(offset); err != nil || over {
			return false, err
		}
		if w.again != offset { // it may have been written while we looked
			w.again, w.r.buf = offset, nil
			return true, nil
		}
	}
	return true, w.skip(offset, h, raw, cause)
}

// goOn continues at an offset, behind a frame with one of these CRCs.
func (w *walker) goOn(offset int64, prevs ...uint32) {
	w.r.offset, w.r.buf, w.prevs = offset, nil, prevs
}

// skip reports a damaged place and goes on behind it.
func (w *walker) skip(offset int64, h *frameHeader, raw []byte, cause error) error {
	if h == nil {
		next, err := w.findFrame(offset + frameAlign)
		if err != nil {
			return err
		}
		w.goOn(next)
		return w.damage(Damage{File: w.seg.name, Offset: offset, Bytes: next - offset, Reason: cause.Error()}, nil)
	}
	prevs := []uint32{h.crc}
	var readable *pendingEntry
	if raw != nil {
		readable = w.readable(h, raw, offset)
		for _, prev := range w.prevs {
			prevs = append(prevs, chainCRC(prev, raw)) // right when only the CRC field is damaged
		}
	}
	w.goOn(offset+h.size(), prevs...)
	return w.damage(Damage{File: w.seg.name, Offset: offset, Bytes: h.size(), Reason: cause.Error()}, readable)
}

// deliver hands a frame on whose checksum is right.
func (w *walker) deliver(f *frame) error {
	p, err := parseFrame(w.seg, f)
	if err != nil {
		d := Damage{File: w.seg.name, Offset: f.offset, Bytes: f.size(), Reason: err.Error()}
		return w.damage(d, nil)
	}
	return w.frame(f, p)
}

func (w *walker) chains(h *frameHeader, raw []byte) bool {
	return slices.ContainsFunc(w.prevs, func(prev uint32) bool { return chainCRC(prev, raw) == h.crc })
}

// parses tells whether every record of a frame has the right CRC.
func (w *walker) parses(f *frame) bool {
	_, err := parseFrame(w.seg, f)
	return err == nil
}

// readFrame reads one frame alone, so that an unreadable place behind it does no harm. The
// header is nil when it is damaged, the bytes are when they cannot be read.
func (w *walker) readFrame(offset int64) (*frameHeader, []byte, error) {
	if w.limit-offset < frameHeaderBytes {
		return nil, nil, fmt.Errorf("%d bytes are no frame", w.limit-offset)
	}
	var b [frameHeaderBytes]byte
	if err := w.readAt(b[:], offset); err != nil {
		return nil, nil, err
	}
	h, err := parseFrameHeader(b[:], w.seg.seed, offset)
	if err != nil {
		return nil, nil, err
	}
	if h.size() > w.limit-offset {
		return nil, nil, fmt.Errorf("a frame of %d bytes does not fit the %d that are left", h.size(), w.limit-offset)
	}
	raw := make([]byte, h.size())
	if err := w.readAt(raw, offset); err != nil {
		return &h, nil, err
	}
	return &h, raw, nil
}

func (w *walker) readAt(b []byte, offset int64) error {
	if n, err := w.seg.file.ReadAt(b, offset); n < len(b) {
		if errors.Is(err, io.EOF) {
			return errors.New("the file ends before its recorded size")
		}
		return fmt.Errorf("it cannot be read: %w", err)
	}
	return nil
}

func (w *walker) frameOf(h *frameHeader, raw []byte, offset int64) frame {
	payload := raw[frameHeaderBytes : frameHeaderBytes+int(h.length)]
	split := len(payload) - int(h.extLen)
	return frame{frameHeader: *h, offset: offset, data: payload[:split:split], ext: payload[split:]}
}

// unreadableBytes is how much is left out when a disk refuses a read: a page.
const unreadableBytes = 4096

// findFrame looks for the next header from an offset on; the limit when there is none.
func (w *walker) findFrame(from int64) (int64, error) {
	buf := make([]byte, mib+frameHeaderBytes)
	for at := from; at <= w.limit-frameHeaderBytes; {
		b, step := buf[:min(int64(len(buf)), w.limit-at)], int64(mib)
		if w.readAt(b, at) != nil {
			// Page by page, until the bad one is passed.
			if b, step = b[:min(len(b), unreadableBytes+frameHeaderBytes)], unreadableBytes; w.readAt(b, at) != nil {
				at += step
				continue
			}
		}
		for i := int64(0); i < step && i+frameHeaderBytes <= int64(len(b)); i += frameAlign {
			if _, err := parseFrameHeader(b[i:i+frameHeaderBytes], w.seg.seed, at+i); err == nil {
				return at + i, nil
			}
		}
		if w.spend != nil {
			if err := w.spend(step); err != nil {
				return 0, err
			}
		}
		at += step
	}
	return w.limit, nil
}

// endsAt tells whether the log of the active segment ends here: nothing says that these bytes
// were ever synced, so they are a torn write or were never written. The writer may cut its file
// meanwhile: what is gone was preallocated, or an entry that is not committed.
func (w *walker) endsAt(offset int64) (bool, error) {
	for {
		size, err := w.seg.file.Size()
		if err != nil {
			return false, fmt.Errorf("size of %s: %w", w.seg.name, err)
		}
		if w.limit = min(w.limit, size); offset < w.synced {
			return false, nil
		}
		promised, err := promiseBeyond(w.seg, offset, w.limit)
		if !errors.Is(err, io.EOF) {
			return !promised, err
		}
	}
}

// readable finds the records of a damaged frame that have the right CRC.
func (w *walker) readable(h *frameHeader, raw []byte, offset int64) *pendingEntry {
	f := w.frameOf(h, raw, offset)
	p := &pendingEntry{index: f.index, term: f.term, segment: w.seg, start: offset, end: f.end()}
	off := 0
	switch {
	case f.kind == kindMerged && w.seg.kind == mergedSegment:
	case f.kind == KindData && w.seg.kind == logSegment:
		if term, ok := BatchTerm(f.data); !ok || (term != 0 && term != f.term) {
			return p
		}
		off = batchHeaderBytes
	default:
		return p
	}
	for off < len(f.data) {
		r, err := parseRecord(f.data[off:])
		if err != nil {
			if off = recordAfter(f.data, off); off < 0 {
				break
			}
			continue
		}
		if r.flags&flagClear == 0 || off == batchHeaderBytes {
			version := f.index
			if f.kind == kindMerged {
				version = r.version
			}
			p.records = append(p.records, pendingRecord{
				flags: r.flags &^ flagVersion, key: r.key, offset: uint32(offset + frameHeaderBytes + int64(off)), size: uint32(r.size),
				expireAt: r.expireAt, version: version,
			})
		}
		off += r.size
	}
	return p
}

// recordAfter is where the record behind a damaged one begins, -1 when that cannot be
// told: the lengths are damaged too unless they lead to a record, or exactly to the end.
func recordAfter(data []byte, off int) int {
	if len(data)-off < recordHeaderBytes {
		return -1
	}
	next := off + claimedRecordBytes(data[off:])
	if next == len(data) {
		return next
	}
	if next < len(data) {
		if _, err := parseRecord(data[next:]); err == nil {
			return next
		}
	}
	return -1
}
