package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"
	"time"
)

func TestHugeFrameIsRefusedBeforeAllocation(t *testing.T) {
	const limit = 1 << 10
	for _, length := range []uint32{math.MaxUint32, limit + frameFixedBytes + 1, frameFixedBytes - 1, 0} {
		b := binary.BigEndian.AppendUint32(nil, length)
		b = append(b, make([]byte, frameHeadBytes-4)...)
		var head [frameHeadBytes]byte
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readFrame(bytes.NewReader(b), &head, limit)
		runtime.ReadMemStats(&after)
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("frame of %d bytes: %v, want a refusal", length, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("frame of %d bytes: %d bytes of memory were taken", length, took)
		}
	}
}

// A peer that announces a huge frame loses its connection, and nobody else notices.
func TestHugeFrameEndsTheConnection(t *testing.T) {
	checkLeaks(t)
	p := listenPeer(t, "n1")
	p.Handle(KindConfirm, echo)
	servePeer(t, p)
	conn := dialHello(t, p, Hello{ClusterID: testCluster, NodeID: "n2", Kind: KindConfirm})
	head := binary.BigEndian.AppendUint32(nil, math.MaxUint32)
	if _, err := conn.Write(append(head, make([]byte, frameHeadBytes-4)...)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("got %x, %v, want a closed connection", got, err)
	}
	if _, err := newPeer(t, "n3").Call(short(t), p.Addr().String(), KindConfirm, 0, nil); err != nil {
		t.Errorf("a call on another connection: %v", err)
	}
}

func TestPatienceIsNeverRoundedToForever(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		-time.Second: 1, 0: 1, time.Nanosecond: 1, time.Millisecond: 1, 1500 * time.Microsecond: 2,
		time.Second: 1000, math.MaxInt64: math.MaxUint32,
	} {
		if got := patienceTag(d); got != want {
			t.Errorf("patience of %v is sent as %d ms, want %d", d, got, want)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{id: 1, tag: 2, payload: []byte("abc")}))
	f.Add(appendFrame(appendFrame(nil, frame{}), frame{id: math.MaxUint64, payload: make([]byte, 100)}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		r := bytes.NewReader(b)
		var head [frameHeadBytes]byte
		var encoded []byte
		for {
			fr, err := readFrame(r, &head, limit)
			if err != nil {
				break
			}
			if len(fr.payload) > limit {
				t.Fatalf("payload of %d bytes passed the limit", len(fr.payload))
			}
			encoded = appendFrame(encoded, fr)
		}
		if !bytes.HasPrefix(b, encoded) {
			t.Fatalf("%x was decoded from %x", encoded, b)
		}
	})
}
