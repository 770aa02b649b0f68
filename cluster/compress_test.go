package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/raft"
)

// snapshotLike is size bytes of which about a share can be compressed.
func snapshotLike(rng *rand.Rand, size int, compressible float64) []byte {
	b := make([]byte, 0, size)
	for len(b) < size {
		if rng.Float64() < compressible {
			b = fmt.Appendf(b, `{"id":%d,"name":"customer number %d","city":"Springfield"}`, rng.IntN(1e6), rng.IntN(1e6))
			continue
		}
		for range 8 {
			b = append(b, byte(rng.Uint32()))
		}
	}
	return b[:size]
}

// squeezeAll compresses for a network that is slow enough.
func squeezeAll(t testing.TB, data []byte) []byte {
	t.Helper()
	var raw, wire atomic.Uint64
	s, err := newSqueezer(iotest.HalfReader(bytes.NewReader(data)), &raw, &wire)
	if err != nil {
		t.Fatal(err)
	}
	s.sending = pace{1e9, 1}
	var wireBytes bytes.Buffer
	if _, err := io.Copy(&wireBytes, s); err != nil {
		t.Fatal(err)
	}
	out := wireBytes.Bytes()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if raw.Load() != uint64(len(data)) || wire.Load() != uint64(len(out)) {
		t.Errorf("counted %d and %d bytes, there were %d and %d", raw.Load(), wire.Load(), len(data), len(out))
	}
	if bound := squeezedBound(int64(len(data))); int64(len(out)) > bound {
		t.Errorf("%d bytes became %d, more than the bound %d: the receiver would cut them off", len(data), len(out), bound)
	}
	return out
}

func TestSqueezedSnapshotComesOutAsItWas(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{0, 1, 1000, blockBytes - 1, blockBytes, blockBytes + 1, 2*blockBytes + 17} {
		for _, share := range []float64{0, 0.1, 0.9, 1} {
			data := snapshotLike(rng, size, share)
			out := squeezeAll(t, data)
			// What follows on the connection must not be touched.
			src := io.MultiReader(bytes.NewReader(out), iotest.ErrReader(errors.New("read beyond the end")))
			got, err := io.ReadAll(newUnsqueezer(src, int64(size)))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %.1f compressible: %d came out, %v", size, share, len(got), err)
			}
			if share == 1 && size > 1000 && size <= blockBytes && len(out) > size/4 {
				t.Errorf("%d compressible bytes became %d", size, len(out))
			}
		}
	}
}

// TestRandomDataIsHardlyTried: compressing what cannot be compressed costs time and brings nothing.
func TestRandomDataIsHardlyTried(t *testing.T) {
	random := bytes.Repeat(snapshotLike(rand.New(rand.NewPCG(2, 2)), blockBytes, 0), 100)
	var raw, wire atomic.Uint64
	s, err := newSqueezer(bytes.NewReader(random), &raw, &wire)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	if s.failed > 10 {
		t.Errorf("%d of 100 blocks were tried", s.failed)
	}
}

// TestCompressionHasToBeFasterThanTheNetwork: on a fast network the same data goes as it is, but for a look now and then.
func TestCompressionHasToBeFasterThanTheNetwork(t *testing.T) {
	text := snapshotLike(rand.New(rand.NewPCG(7, 7)), blockBytes, 1)
	for _, secondsPerByte := range []float64{0, 1} {
		var raw, wire atomic.Uint64
		s, err := newSqueezer(nil, &raw, &wire)
		if err != nil {
			t.Fatal(err)
		}
		compressed := 0
		for range 20 {
			s.sending = pace{secondsPerByte, 1}
			block := append(make([]byte, blockHead), text...)
			if len(s.pack(block)) < len(block) {
				compressed++
			}
		}
		if slow := secondsPerByte > 0; slow && compressed != 20 || !slow && (compressed > 6 || compressed < 2) {
			t.Errorf("%v s for a byte: %d of 20 blocks were compressed", secondsPerByte, compressed)
		}
	}
}

// TestSqueezedStreamThatIsCutOrDamaged: it is an error at every byte, never a shorter snapshot or a panic.
func TestSqueezedStreamThatIsCutOrDamaged(t *testing.T) {
	data := snapshotLike(rand.New(rand.NewPCG(3, 3)), 2*blockBytes+5000, 0.7)
	out := squeezeAll(t, data)
	for cut := 0; cut < len(out); cut += 1 + len(out)/50 {
		if _, err := io.ReadAll(newUnsqueezer(bytes.NewReader(out[:cut]), int64(len(data)))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d of %d bytes: %v", cut, len(out), err)
		}
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for range 40 {
		bad := bytes.Clone(out)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		got, err := io.ReadAll(newUnsqueezer(bytes.NewReader(bad), int64(len(data))))
		if err == nil && len(got) != len(data) {
			t.Fatalf("%d bytes came out, %d were sent", len(got), len(data))
		}
	}
}

func FuzzUnsqueezer(f *testing.F) {
	for _, share := range []float64{0, 1} {
		f.Add(squeezeAll(f, snapshotLike(rand.New(rand.NewPCG(5, 5)), 3000, share)), int64(3000))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size int64) {
		size = max(size, 0) % (3 * blockBytes)
		got, err := io.ReadAll(newUnsqueezer(bytes.NewReader(stream), size))
		if err == nil && int64(len(got)) != size {
			t.Fatalf("%d bytes came out of a stream of %d", len(got), size)
		}
	})
}

// snapshotPair is a transport that sends snapshots and one that receives them.
func snapshotPair(t *testing.T) (sender, receiver *transport) {
	t.Helper()
	noLeaks(t)
	receiver, _ = testTransport(t)
	sender, _ = testTransport(t)
	return sender, receiver
}

func (t *transport) send(to *transport, data io.Reader, size int64) error {
	req := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: size, RPCHeader: raft.RPCHeader{ProtocolVersion: 3}}
	return t.InstallSnapshot("r", to.LocalAddr(), req, &raft.InstallSnapshotResponse{}, data)
}

// installLikeRaft does what raft's main thread does with a snapshot that arrives.
func installLikeRaft(rpc raft.RPC, to io.Writer) (int64, error) {
	req := rpc.Command.(*raft.InstallSnapshotRequest)
	n, err := io.Copy(to, struct{ io.Reader }{rpc.Reader}) // raft counts the bytes by a reader of its own
	if err == nil && n != req.Size {
		err = fmt.Errorf("short read: %d of %d", n, req.Size)
	}
	_, _ = io.Copy(io.Discard, rpc.Reader)
	rpc.Respond(&raft.InstallSnapshotResponse{Success: err == nil}, err)
	return n, err
}

func TestSnapshotTravelsCompressedToThoseWhoUnderstand(t *testing.T) {
	sender, receiver := snapshotPair(t)
	data := snapshotLike(rand.New(rand.NewPCG(6, 6)), 3*blockBytes+1, 1)
	for _, understands := range []bool{false, true} {
		sender.addrs.squeezed.Store(&map[raft.ServerID]bool{"r": understands})
		sent := make(chan error, 1)
		go func() { sent <- sender.send(receiver, bytes.NewReader(data), int64(len(data))) }()
		var got bytes.Buffer
		if _, err := installLikeRaft(<-receiver.Consumer(), &got); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Fatalf("%d of %d bytes, %v", got.Len(), len(data), err)
		}
		raw, wire := sender.counters.snapshotRaw.Swap(0), sender.counters.snapshotWire.Swap(0)
		if raw != uint64(len(data)) || understands != (wire < raw) { // at least the first block, whatever the network's pace
			t.Errorf("understands: %t; %d bytes became %d", understands, raw, wire)
		}
	}
}

// TestLeaderThatFallsSilentInASnapshot: raft's main thread must get free again; it has a vote.
func TestLeaderThatFallsSilentInASnapshot(t *testing.T) {
	sender, receiver := snapshotPair(t)
	receiver.snapshotIdle = 50 * time.Millisecond
	silence := make(chan struct{})
	half := io.MultiReader(bytes.NewReader(make([]byte, 300<<10)), blockedReader{silence})
	sent := make(chan error, 1)
	go func() { sent <- sender.send(receiver, half, 1<<20) }()
	if _, err := installLikeRaft(<-receiver.Consumer(), io.Discard); !errors.Is(err, errSnapshotIdle) {
		t.Errorf("the receiver got %v", err)
	}
	close(silence)
	if err := <-sent; err == nil {
		t.Error("the sender was not told")
	}
}

type blockedReader struct{ until chan struct{} }

func (r blockedReader) Read([]byte) (int, error) {
	<-r.until
	return 0, io.EOF
}

// TestRefusedSnapshotIsNotReadToItsEnd: the receiver's disk is full, say, and gigabytes are to come.
func TestRefusedSnapshotIsNotReadToItsEnd(t *testing.T) {
	sender, receiver := snapshotPair(t)
	var taken atomic.Int64
	endless := readerFunc(func(p []byte) (int, error) { taken.Add(int64(len(p))); return len(p), nil })
	sent := make(chan error, 1)
	go func() { sent <- sender.send(receiver, endless, 1<<50) }()
	full := writerFunc(func([]byte) (int, error) { return 0, errors.New("disk full") })
	if _, err := installLikeRaft(<-receiver.Consumer(), full); err == nil {
		t.Error("no error")
	}
	if err := <-sent; err == nil {
		t.Error("the sender was not told")
	}
	if sent := taken.Load(); sent > 256<<20 { // what sockets and buffers hold is less
		t.Errorf("the sender sent %d bytes before it was told", sent)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestSlowRequestGetsItsAnswer: raft's deadline begins before a request is sent. A request that takes longer than that
// to send, on a network that goes on moving, must still get its answer.
func TestSlowRequestGetsItsAnswer(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	conn := &streamConn{Conn: near, owner: &stream{conns: map[*streamConn]struct{}{}}}
	if err := conn.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(far, far) }() // answers what was asked
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("the answer: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}
