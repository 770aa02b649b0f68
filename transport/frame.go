package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

const (
	frameHeadBytes  = 4 + 8 + 4
	frameFixedBytes = 8 + 4 // of what the length counts: id and tag

	maxFramePayload = math.MaxUint32 - frameFixedBytes

	probeID = 0 // ids of calls begin at 1
)

// Tags of replies.
const (
	statusOK    uint32 = 0
	statusError uint32 = 1 // the payload is the text of the handler's error
	statusLost  uint32 = 2 // handled, but the answer cannot be sent; the payload says why
)

// frame is one request or one reply.
type frame struct {
	id      uint64
	tag     uint32
	payload []byte
}

func appendFrame(dst []byte, f frame) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(frameFixedBytes+len(f.payload)))
	dst = binary.BigEndian.AppendUint64(dst, f.id)
	dst = binary.BigEndian.AppendUint32(dst, f.tag)
	return append(dst, f.payload...)
}

// readFrame reads one frame. The payload is fresh memory, taken only after its length was checked against maxPayload.
func readFrame(r io.Reader, head *[frameHeadBytes]byte, maxPayload int) (frame, error) {
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	length := int64(binary.BigEndian.Uint32(head[0:]))
	if length < frameFixedBytes || length-frameFixedBytes > int64(maxPayload) {
		return frame{}, fmt.Errorf("frame of %d bytes, %d to %d are allowed", length, frameFixedBytes, int64(maxPayload)+frameFixedBytes)
	}
	f := frame{id: binary.BigEndian.Uint64(head[4:]), tag: binary.BigEndian.Uint32(head[12:])}
	f.payload = make([]byte, length-frameFixedBytes)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, fmt.Errorf("frame is cut off: %w", err)
	}
	return f, nil
}

// patienceTag encodes how long a caller will wait: ms, rounded up so that a live caller never sends 0, which
// means for ever.
func patienceTag(d time.Duration) uint32 {
	ms := max(d, 0) / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	return uint32(min(max(ms, 1), math.MaxUint32))
}
