package bitcask

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// FuzzBatch: a batch from anywhere is parsed or refused, and what is parsed
// encodes to the same bytes again.
func FuzzBatch(f *testing.F) {
	var b Batch
	b.Reset(3, 99)
	_ = b.Put([]byte("key"), []byte("value"), 12345)
	_ = b.Delete([]byte("other"))
	f.Add(b.Bytes())
	f.Add([]byte{batchFormat})
	f.Fuzz(func(t *testing.T, data []byte) {
		again := bytes.Clone(data)
		if len(again) > batchHeaderBytes {
			again = again[:batchHeaderBytes]
		}
		err := eachRecord(data, func(_ int, r record) {
			again = appendRecord(again, r.flags, r.key, r.value, r.expireAt, r.version)
		})
		if err == nil && !bytes.Equal(again, data) {
			t.Fatalf("%x parses, and encodes to %x", data, again)
		}
	})
}

// FuzzFrames: any bytes after a segment's header are frames, the end, or damage;
// never a panic or a loop.
func FuzzFrames(f *testing.F) {
	var b Batch
	_ = b.Put([]byte("key"), []byte("value"), 0)
	h := frameHeader{index: 1, kind: KindData, count: 1}
	first := appendFrame(nil, &h, 7, segmentHeaderBytes, 7, b.Bytes(), nil)
	h2 := frameHeader{index: 2, kind: 5}
	f.Add(appendFrame(first, &h2, 7, segmentHeaderBytes+int64(len(first)), h.crc, []byte("data"), []byte("ext")))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := append(make([]byte, segmentHeaderBytes), data...)
		r := newFrameReader(bytes.NewReader(file), "fuzz", 7, int64(len(file)))
		for end := int64(segmentHeaderBytes); ; {
			fr, err := r.next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			if fr.offset != end || fr.end() <= end {
				t.Fatalf("a frame from %d to %d follows offset %d", fr.offset, fr.end(), end)
			}
			end = fr.end()
			seg := &segment{kind: logSegment}
			_, _ = parseFrame(seg, &fr)
		}
	})
}

// FuzzManifest: a manifest from anywhere is refused or valid, and a valid one encodes.
func FuzzManifest(f *testing.F) {
	m := manifest{Format: manifestFormat, StoreID: newUID(), NextID: 2, Active: 1, Segments: []segmentMeta{{ID: 1, Kind: logSegment}}}
	data, err := encodeManifest(&m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(data)
		if err != nil {
			return
		}
		if _, err := encodeManifest(m); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzHint: a hint file from anywhere is read or refused.
func FuzzHint(f *testing.F) {
	fs := vfs.NewMem()
	seg := &segment{id: 1, uid: newUID(), kind: logSegment}
	seg.size.Store(4096)
	w, err := newHintWriter(fs, ".", seg)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(w.addKey(hintKey{offset: 64, size: 40, version: 1, key: []byte("key")}), w.addPlace(1, place{8, 9}), w.finish(4096)); err != nil {
		f.Fatal(err)
	}
	data, err := vfs.ReadFile(fs, hintName(".", 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		fs := vfs.NewMem()
		if err := vfs.WriteFileSync(fs, hintName(".", 1), data); err != nil {
			t.Fatal(err)
		}
		h, err := openHint(fs, ".", seg)
		if err != nil {
			return
		}
		_ = h.each(func(k hintKey) {
			if len(k.key) == 0 {
				t.Fatal("a hint gave an empty key")
			}
		}, func(place) {})
		h.close()
	})
}

// FuzzStream: a snapshot's stream from anywhere is verified or refused.
func FuzzStream(f *testing.F) {
	f.Add([]byte(streamMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		fs := vfs.NewMem()
		s, err := Open("db", tinyOptions(fs))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		in, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(data); err == nil {
			_ = in.Verify()
		}
		in.Abort()
	})
}
