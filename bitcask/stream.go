package bitcask

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A checkpoint travels as one stream:
//
//	"RCASKSTM" | format u32 | length u32 | JSON of streamHeader | CRC32C u32 of all before
//	then for each segment: its bytes | CRC32C u32 | its hint's bytes | CRC32C u32
//
// A segment without a hint has no hint bytes and no CRC for them.

const (
	streamMagic      = "RCASKSTM"
	streamFormat     = 1
	streamFixedBytes = 16
	maxStreamHeader  = 64 << 20
)

type streamHeader struct {
	Checkpoint checkpointMeta `json:"checkpoint"`
	HintBytes  []int64        `json:"hint_bytes"` // for each segment, 0 for none
}

// Stream is a checkpoint on its way out. It reads the files as they are.
type Stream struct {
	io.Reader
	size       int64
	checkpoint *Checkpoint
	hints      []*hintReader
}

// Size is the exact length of the stream in bytes.
func (st *Stream) Size() int64 { return st.size }

// Close releases the checkpoint.
func (st *Stream) Close() error {
	for _, h := range st.hints {
		h.close()
	}
	st.checkpoint.Release()
	return nil
}

// Stream opens the checkpoint for sending, and takes it over: closing the stream
// releases it.
func (c *Checkpoint) Stream() (*Stream, error) {
	st := &Stream{checkpoint: c}
	header := streamHeader{Checkpoint: c.meta, HintBytes: make([]int64, len(c.segments))}
	var parts []io.Reader
	for i, seg := range c.segments {
		size := c.meta.Segments[i].Size
		parts = append(parts, sumReader(io.NewSectionReader(seg.file, 0, size)))
		st.size += size + 4
		if seg.size.Load() != size {
			continue // a part of a segment: its hint would say too much
		}
		h, err := openHint(c.store.fs, c.store.path, seg)
		if err != nil {
			continue // the receiver makes one from the segment
		}
		st.hints = append(st.hints, h)
		parts = append(parts, sumReader(io.NewSectionReader(h.file, 0, h.fileSize)))
		header.HintBytes[i] = h.fileSize
		st.size += h.fileSize + 4
	}
	head, err := encodeStreamHeader(&header)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	st.size += int64(len(head))
	st.Reader = io.MultiReader(append([]io.Reader{bytes.NewReader(head)}, parts...)...)
	return st, nil
}

func encodeStreamHeader(h *streamHeader) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the stream's header: %w", err)
	}
	b := append([]byte(streamMagic), make([]byte, 8)...)
	binary.LittleEndian.PutUint32(b[8:], streamFormat)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func decodeStreamHeader(b []byte) (*streamHeader, error) {
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, errors.New("the stream's header has a wrong checksum")
	}
	h := new(streamHeader)
	if err := json.Unmarshal(b[streamFixedBytes:end], h); err != nil {
		return nil, fmt.Errorf("the stream's header is damaged: %w", err)
	}
	if len(h.HintBytes) != len(h.Checkpoint.Segments) {
		return nil, fmt.Errorf("the stream's header has %d segments and %d hints", len(h.Checkpoint.Segments), len(h.HintBytes))
	}
	for i, m := range h.Checkpoint.Segments {
		if m.Size < segmentHeaderBytes || m.Size > maxSegmentBytes+maxFrameBytes || h.HintBytes[i] < 0 || (m.Kind != logSegment && m.Kind != mergedSegment) {
			return nil, fmt.Errorf("the stream's header has a segment of kind %d, %d bytes and %d of hint", m.Kind, m.Size, h.HintBytes[i])
		}
	}
	return h, nil
}

// summed appends the CRC32C of what was read.
type summed struct {
	src  io.Reader
	sum  uint32
	tail []byte
	done bool
}

func sumReader(src io.Reader) io.Reader { return &summed{src: src} }

func (r *summed) Read(p []byte) (int, error) {
	if !r.done {
		n, err := r.src.Read(p)
		r.sum = crc32.Update(r.sum, castagnoli, p[:n])
		if err != io.EOF {
			return n, err
		}
		r.done = true
		r.tail = binary.LittleEndian.AppendUint32(nil, r.sum)
		if n > 0 {
			return n, nil
		}
	}
	if len(r.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.tail)
	r.tail = r.tail[n:]
	return n, nil
}
