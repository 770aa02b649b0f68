package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/klauspost/compress/zstd"
)

// A snapshot on the wire is a row of blocks of blockBytes, the last one shorter:
//
//	length u32, little-endian; its highest bit says that the block is compressed | bytes
//
// Each block stands alone, and the receiver knows how many bytes there are in all, so that it never reads beyond the
// last one: the leader waits for the answer on the same connection. A block that zstd cannot shorten goes as it is.
//
// raft takes Size for the number of bytes on the wire. So Size is the most that they can be there, and Peers, which
// raft uses in snapshots of version 0 only, holds the real size (squeezedSize). A node says by gossip that it
// understands this; to others the stream goes as it is.
const (
	blockBytes      = 1 << 20
	blockHead       = 4
	blockCompressed = 1 << 31
	// pieceBytes are written at once: each piece has rpcTimeout, however slow the network is.
	pieceBytes = 64 << 10
	// worthReading is the share that a block has to lose, or it goes as it is: the receiver has work with it too.
	worthReading = 1.0 / 8
	// maxSkipped blocks are not tried after tries that did not pay. Values that are compressed already then cost one
	// try in 65 blocks.
	maxSkipped = 64

	squeezedMark = "raftcask-zstd\x00"
)

// squeezer sends a snapshot. It compresses a block if that is less time than it saves on the network: with both as
// fast as the last ones were. One goroutine uses it.
type squeezer struct {
	src       io.Reader
	encoder   *zstd.Encoder
	raw, wire *atomic.Uint64

	block, packed []byte // head and bytes: as it is, and compressed
	skip          int    // blocks that are not tried
	failed        int    // tries that failed, in a row
	// What compressing a byte and sending one took lately.
	compressing, sending pace
}

// pace is time for bytes; what is older counts half as much with each block.
type pace struct {
	seconds, bytes float64
}

func (p *pace) add(d time.Duration, bytes int) {
	p.seconds, p.bytes = p.seconds/2+d.Seconds(), p.bytes/2+float64(bytes)
}

func (p *pace) perByte() float64 { return p.seconds / max(p.bytes, 1) }

// newSqueezer counts what it takes in raw and what it gives in wire.
func newSqueezer(src io.Reader, raw, wire *atomic.Uint64) (*squeezer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("compress a snapshot: %w", err)
	}
	return &squeezer{src: src, encoder: encoder, block: make([]byte, blockHead+blockBytes), raw: raw, wire: wire}, nil
}

// squeezedBound is the most that size bytes can be on the wire.
func squeezedBound(size int64) int64 {
	return size + blockHead*((size+blockBytes-1)/blockBytes)
}

// squeezedSize packs and reads the mark in a request that a compressed stream follows.
func squeezedSize(size int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte(squeezedMark), uint64(size))
}

func readSqueezedSize(mark []byte) (size int64, ok bool) {
	if len(mark) != len(squeezedMark)+8 || string(mark[:len(squeezedMark)]) != squeezedMark {
		return 0, false
	}
	size = int64(binary.LittleEndian.Uint64(mark[len(squeezedMark):]))
	return size, size >= 0
}

// Read is here because raft wants an io.Reader. It sends by WriteTo, through io.Copy.
func (s *squeezer) Read([]byte) (int, error) {
	return 0, errors.New("a compressed snapshot is sent by WriteTo")
}

// WriteTo implements io.WriterTo.
func (s *squeezer) WriteTo(w io.Writer) (total int64, err error) {
	for {
		n, err := io.ReadFull(s.src, s.block[blockHead:])
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return total, err
		}
		out := s.pack(s.block[:blockHead+n])
		start := time.Now()
		for rest := out; len(rest) > 0; {
			sent, err := w.Write(rest[:min(len(rest), pieceBytes)])
			total += int64(sent)
			rest = rest[sent:]
			if err != nil {
				return total, err
			}
		}
		s.sending.add(time.Since(start), len(out))
		s.raw.Add(uint64(n))
		s.wire.Add(uint64(len(out)))
	}
}

// pack gives a block as it is to be sent.
func (s *squeezer) pack(block []byte) []byte {
	size := len(block) - blockHead
	binary.LittleEndian.PutUint32(block, uint32(size))
	if s.skip > 0 {
		s.skip--
		return block
	}
	start := time.Now()
	s.packed = s.encoder.EncodeAll(block[blockHead:], append(s.packed[:0], make([]byte, blockHead)...))
	s.compressing.add(time.Since(start), size)
	length := len(s.packed) - blockHead
	saved := float64(size-length) / float64(size)
	s.failed++
	s.skip = min(1<<min(s.failed, 16), maxSkipped)
	if saved < worthReading {
		return block
	}
	if s.sending.bytes == 0 || s.compressing.perByte() < saved*s.sending.perByte() {
		s.failed, s.skip = 0, 0
	}
	binary.LittleEndian.PutUint32(s.packed, uint32(length)|blockCompressed)
	return s.packed
}

// Close frees the encoder.
func (s *squeezer) Close() error { return s.encoder.Close() }

// unsqueezer gives back what went into a squeezer: left bytes, and then io.EOF. One goroutine uses it.
type unsqueezer struct {
	src     io.Reader
	left    int64
	in, out []byte
	next    []byte // of out, to be read
	err     error
}

func newUnsqueezer(src io.Reader, size int64) *unsqueezer {
	return &unsqueezer{src: src, left: size}
}

// decoders are shared: each holds buffers.
var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(blockBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return err // the options are constant
	}
	return d
}}

// Read implements io.Reader.
func (u *unsqueezer) Read(p []byte) (int, error) {
	if len(u.next) == 0 {
		if u.err == nil {
			u.err = u.fill()
		}
		if u.err != nil {
			return 0, u.err
		}
	}
	n := copy(p, u.next)
	u.next = u.next[n:]
	return n, nil
}

// fill reads the next block. Lengths are checked before they are trusted.
func (u *unsqueezer) fill() error {
	if u.left == 0 {
		return io.EOF
	}
	var head [blockHead]byte
	if _, err := io.ReadFull(u.src, head[:]); err != nil {
		return cutShort(err)
	}
	length := binary.LittleEndian.Uint32(head[:])
	compressed := length&blockCompressed != 0
	length &^= blockCompressed
	want := int(min(u.left, blockBytes))
	if int(length) > want || (!compressed && int(length) != want) {
		return fmt.Errorf("a snapshot's block claims %d bytes, %d are to come", length, want)
	}
	if u.in == nil {
		u.in, u.out = make([]byte, blockBytes), make([]byte, 0, blockBytes)
	}
	block := u.in[:length]
	if _, err := io.ReadFull(u.src, block); err != nil {
		return cutShort(err)
	}
	if compressed {
		var err error
		if block, err = inflate(block, u.out[:0:want]); err != nil {
			return fmt.Errorf("a snapshot's block is damaged: %w", err)
		}
		if len(block) != want {
			return fmt.Errorf("a snapshot's block has %d bytes, it should have %d", len(block), want)
		}
	}
	u.next = block
	u.left -= int64(len(block))
	return nil
}

func inflate(block, out []byte) ([]byte, error) {
	d, ok := decoders.Get().(*zstd.Decoder)
	if !ok {
		return nil, errors.New("there is no decoder")
	}
	defer decoders.Put(d)
	return d.DecodeAll(block, out)
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// squeeze makes a request and its stream ready for a node that understands compressed ones.
func squeeze(req *raft.InstallSnapshotRequest, data io.Reader, counters *counters) (*raft.InstallSnapshotRequest, *squeezer, error) {
	s, err := newSqueezer(data, &counters.snapshotRaw, &counters.snapshotWire)
	if err != nil {
		return nil, nil, err
	}
	squeezed := *req
	squeezed.Peers, squeezed.Size = squeezedSize(req.Size), squeezedBound(req.Size)
	return &squeezed, s, nil
}

// unsqueeze undoes squeeze on a request that arrived.
func unsqueeze(rpc *raft.RPC) {
	req, ok := rpc.Command.(*raft.InstallSnapshotRequest)
	if !ok {
		return
	}
	size, ok := readSqueezedSize(req.Peers)
	if !ok || req.Size != squeezedBound(size) {
		return
	}
	req.Size, req.Peers = size, nil
	rpc.Reader = newUnsqueezer(rpc.Reader, size)
}
