package bitcask

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Kind of a log entry. KindData carries an encoded Batch; all other kinds up to
// MaxKind are opaque to the engine, which only keeps them.
type Kind uint8

const (
	// KindData is an entry whose Data is an encoded Batch.
	KindData Kind = 0
	// MaxKind is the largest kind a caller may use.
	MaxKind Kind = 127

	kindMerged Kind = 255 // a group of records in a merged segment
)

const (
	frameHeaderBytes = 56
	frameAlign       = 8
	// maxFrameBytes bounds what one length field may claim: the largest value
	// in a batch of its own, a full batch beside it, and headers.
	maxFrameBytes = hardMaxValueBytes + 16*mib
)

// frameHeader is the fixed part of a frame; the package comment draws it.
type frameHeader struct {
	length  uint32 // payload: data, then extension
	extLen  uint32
	index   uint64
	term    uint64
	applied uint64 // highest index known committed when the frame was written
	synced  uint64 // offset in this file known synced when the frame was written
	kind    Kind
	count   uint32 // records
	crc     uint32 // chained from the frame before
}

// size on disk, padding included.
func (h *frameHeader) size() int64 { return frameBytes(int(h.length)) }

func frameBytes(payload int) int64 {
	return int64(frameHeaderBytes+payload+frameAlign-1) &^ (frameAlign - 1)
}

// headerCRC binds a header to its file (seed) and its place in it, so that
// neither stale bytes nor a copy elsewhere in the file can pass for a header.
func headerCRC(seed uint32, offset int64, header []byte) uint32 {
	var place [12]byte
	binary.LittleEndian.PutUint32(place[:], seed)
	binary.LittleEndian.PutUint64(place[4:], uint64(offset))
	return crc32.Update(shortCRC(place[:]), castagnoli, header[:48])
}

// shortCRC is crc32.Checksum for a few bytes on the stack, where that would move them to the heap.
func shortCRC(b []byte) uint32 {
	crc := ^uint32(0)
	for _, v := range b {
		crc = castagnoli[byte(crc)^v] ^ crc>>8
	}
	return ^crc
}

// appendFrame encodes a frame that will stand at offset of the segment with
// this seed, after a frame whose CRC was prev. It fills in h.crc.
func appendFrame(dst []byte, h *frameHeader, seed uint32, offset int64, prev uint32, data, ext []byte) []byte {
	h.length, h.extLen = uint32(len(data)+len(ext)), uint32(len(ext))
	start := len(dst)
	var b [frameHeaderBytes]byte
	h.put(b[:], seed, offset)
	dst = append(dst, b[:]...)
	dst = append(dst, data...)
	dst = append(dst, ext...)
	for (len(dst)-start)%frameAlign != 0 {
		dst = append(dst, 0)
	}
	h.crc = chainCRC(prev, dst[start:])
	binary.LittleEndian.PutUint32(dst[start+52:], h.crc)
	return dst
}

// sealFrame fills in the header of a frame whose payload stands in b already, after
// room for the header: appendFrame without a copy.
func (h *frameHeader) sealFrame(b []byte, seed uint32, offset int64, prev uint32) []byte {
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	h.put(b, seed, offset)
	h.crc = chainCRC(prev, b)
	binary.LittleEndian.PutUint32(b[52:], h.crc)
	return b
}

// put encodes all of the header but the chained CRC.
func (h *frameHeader) put(b []byte, seed uint32, offset int64) {
	binary.LittleEndian.PutUint32(b[0:], h.length)
	binary.LittleEndian.PutUint32(b[4:], h.extLen)
	binary.LittleEndian.PutUint64(b[8:], h.index)
	binary.LittleEndian.PutUint64(b[16:], h.term)
	binary.LittleEndian.PutUint64(b[24:], h.applied)
	binary.LittleEndian.PutUint64(b[32:], h.synced)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.kind))
	binary.LittleEndian.PutUint32(b[44:], h.count)
	binary.LittleEndian.PutUint32(b[48:], headerCRC(seed, offset, b))
}

// chainCRC covers the frame but for the CRC field itself.
func chainCRC(prev uint32, frame []byte) uint32 {
	return crc32.Update(crc32.Update(prev, castagnoli, frame[:52]), castagnoli, frame[frameHeaderBytes:])
}

// parseFrameHeader checks a header alone: what it claims is in bounds and its
// own CRC is right. It says nothing about the payload.
func parseFrameHeader(b []byte, seed uint32, offset int64) (frameHeader, error) {
	if len(b) < frameHeaderBytes {
		return frameHeader{}, fmt.Errorf("frame header cut off after %d bytes", len(b))
	}
	if got, want := headerCRC(seed, offset, b), binary.LittleEndian.Uint32(b[48:]); got != want {
		return frameHeader{}, fmt.Errorf("frame header checksum is %08x, should be %08x", got, want)
	}
	h := frameHeader{
		length:  binary.LittleEndian.Uint32(b[0:]),
		extLen:  binary.LittleEndian.Uint32(b[4:]),
		index:   binary.LittleEndian.Uint64(b[8:]),
		term:    binary.LittleEndian.Uint64(b[16:]),
		applied: binary.LittleEndian.Uint64(b[24:]),
		synced:  binary.LittleEndian.Uint64(b[32:]),
		kind:    Kind(b[40]),
		count:   binary.LittleEndian.Uint32(b[44:]),
		crc:     binary.LittleEndian.Uint32(b[52:]),
	}
	if h.length > maxFrameBytes || h.extLen > h.length || b[41]|b[42]|b[43] != 0 {
		return frameHeader{}, fmt.Errorf("frame of %d bytes (%d of extension) is out of bounds", h.length, h.extLen)
	}
	return h, nil
}

// frame is one that was read back. Data and ext alias the reader's buffer.
type frame struct {
	frameHeader
	offset int64
	data   []byte
	ext    []byte
}

// end is the offset after the frame.
func (f *frame) end() int64 { return f.offset + f.size() }

// frameReader walks the frames of one segment in order, verifying the chain.
type frameReader struct {
	src    io.ReaderAt
	name   string // of the file, for errors
	seed   uint32
	offset int64 // of the next frame
	limit  int64 // frames end at or before it
	ahead  int64 // bytes to read at once
	crc    uint32
	buf    []byte
	bufAt  int64 // offset of buf[0]
}

// newFrameReader starts after the segment's header. limit is the end of the
// bytes that may hold frames.
func newFrameReader(src io.ReaderAt, name string, seed uint32, limit int64) *frameReader {
	return &frameReader{src: src, name: name, seed: seed, offset: segmentHeaderBytes, limit: limit, ahead: mib, crc: seed}
}

// next returns the next frame, io.EOF at the limit, a *CorruptError when the
// bytes are no frame, and other errors when the disk could not be read. The
// frame is valid until the following call.
func (r *frameReader) next() (frame, error) {
	if r.offset >= r.limit {
		return frame{}, io.EOF
	}
	b, err := r.peek(frameHeaderBytes)
	if err != nil {
		return frame{}, err
	}
	h, err := parseFrameHeader(b, r.seed, r.offset)
	if err != nil {
		return frame{}, r.corrupt(err.Error())
	}
	b, err = r.peek(h.size())
	if err != nil {
		return frame{}, err
	}
	if got := chainCRC(r.crc, b); got != h.crc {
		return frame{}, r.corrupt(fmt.Sprintf("frame checksum is %08x, should be %08x", got, h.crc))
	}
	payload := b[frameHeaderBytes : frameHeaderBytes+int(h.length)]
	split := len(payload) - int(h.extLen)
	f := frame{frameHeader: h, offset: r.offset, data: payload[:split:split], ext: payload[split:]}
	r.offset += h.size()
	r.crc = h.crc
	return f, nil
}

// buffered tells whether the next frame was read already, so that reading it leaves those before it valid.
func (r *frameReader) buffered() bool {
	have := r.bufAt + int64(len(r.buf)) - r.offset
	if r.offset < r.bufAt || have < frameHeaderBytes {
		return false
	}
	return have >= frameBytes(int(binary.LittleEndian.Uint32(r.buf[r.offset-r.bufAt:])))
}

// peek returns n bytes at r.offset, reading ahead for the frames to come.
func (r *frameReader) peek(n int64) ([]byte, error) {
	if n > r.limit-r.offset {
		return nil, r.corrupt(fmt.Sprintf("a frame of %d bytes does not fit the %d that are left", n, r.limit-r.offset))
	}
	have := r.bufAt + int64(len(r.buf)) - r.offset
	if have >= n && r.offset >= r.bufAt {
		at := r.offset - r.bufAt
		return r.buf[at : at+n], nil
	}
	want := min(max(n, r.ahead), r.limit-r.offset)
	if int64(cap(r.buf)) < want {
		r.buf = make([]byte, want)
	}
	r.buf = r.buf[:want]
	if _, err := r.src.ReadAt(r.buf, r.offset); err != nil {
		r.buf = r.buf[:0]
		if err == io.EOF {
			return nil, r.corrupt("the file ends before its recorded size")
		}
		return nil, &readError{r.name, r.offset, err}
	}
	r.bufAt = r.offset
	return r.buf[:n], nil
}

// readError says that the disk did not give the bytes of a segment: they are not known to be wrong.
type readError struct {
	file   string
	offset int64
	err    error
}

func (e *readError) Error() string {
	return fmt.Sprintf("read %s at offset %d: %v", e.file, e.offset, e.err)
}
func (e *readError) Unwrap() error { return e.err }

// lastByte is the offset after the last byte between from and to that is not zero, from for none. What cannot be read counts
// as zeros: it is for a message only.
func lastByte(src io.ReaderAt, from, to int64) int64 {
	for buf := make([]byte, min(mib, to-from)); to > from; to -= int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), to-from)]
		if _, err := src.ReadAt(buf, to-int64(len(buf))); err != nil {
			continue
		}
		if n := len(bytes.TrimRight(buf, "\x00")); n > 0 {
			return to - int64(len(buf)) + int64(n)
		}
	}
	return from
}

func (r *frameReader) corrupt(reason string) error {
	return &CorruptError{File: r.name, Offset: r.offset, Reason: reason}
}
