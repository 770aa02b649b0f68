package bitcask

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// TestFormatIsAsDocumented reads the golden files by the package comment alone: with its offsets, and none of the
// engine's code.
func TestFormatIsAsDocumented(t *testing.T) {
	for _, store := range []string{"embedded", "replicated"} {
		dir := filepath.Join(goldenDir, store)
		names := documentedManifest(t, filepath.Join(dir, "MANIFEST"))
		if len(names) < 2 {
			t.Fatalf("%s: the manifest names %d segments, too few for a test", store, len(names))
		}
		hints := 0
		for _, name := range names {
			segment := documentedSegment(t, filepath.Join(dir, name+".seg"))
			if hint, err := os.ReadFile(filepath.Join(dir, name+".hint")); err == nil {
				documentedHint(t, name, hint, segment)
				hints++
			}
		}
		if hints == 0 {
			t.Errorf("%s: no hint", store)
		}
	}
}

func crcOf(from uint32, b ...byte) uint32 {
	return crc32.Update(from, crc32.MakeTable(crc32.Castagnoli), b)
}

func u16(b []byte, at int) int    { return int(binary.LittleEndian.Uint16(b[at:])) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// documentedManifest returns the names of the segments.
func documentedManifest(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	var length int
	var sum uint32
	if _, err := fmt.Sscanf(string(b), "raftcask manifest 1 length %d crc32c %x\n", &length, &sum); err != nil {
		t.Fatalf("first line of %s: %v", name, err)
	}
	body := b[len(b)-length:]
	if crcOf(0, body...) != sum {
		t.Errorf("%s: its CRC is wrong", name)
	}
	var m struct {
		Segments []struct {
			ID uint32 `json:"id"`
		} `json:"segments"`
	}
	must(t, json.Unmarshal(body, &m))
	var names []string
	for _, s := range m.Segments {
		names = append(names, fmt.Sprintf("%08d", s.ID))
	}
	return names
}

// documentedFile is a segment, and where its records and frames are.
type documentedFile struct {
	bytes   []byte
	merged  bool
	records map[uint32]string // keys by the record's offset
	frames  map[uint32]uint32 // CRC of the frame before, by offset
}

func documentedSegment(t *testing.T, name string) documentedFile {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	f := documentedFile{bytes: b, merged: b[10] == 2, records: map[uint32]string{}, frames: map[uint32]uint32{}}
	seed := crcOf(0, b[:60]...)
	if string(b[:8]) != "RCASKSEG" || u16(b, 8) != 1 || b[10] < 1 || b[10] > 2 || !zeros(b[11:16]) || !zeros(b[56:60]) || u32(b, 60) != seed {
		t.Fatalf("%s: header % x", name, b[:64])
	}
	crc, at := seed, 64
	for at+56 <= len(b) && !zeros(b[at:at+56]) {
		h := b[at : at+56]
		bound := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, seed), uint64(at))
		if u32(h, 48) != crcOf(crcOf(0, bound...), h[:48]...) || !zeros(h[41:44]) {
			t.Fatalf("%s: frame header at %d: % x", name, at, h)
		}
		f.frames[uint32(at)] = crc
		data, ext := int(u32(h, 0)-u32(h, 4)), int(u32(h, 4))
		end := at + 56 + data + ext
		padded := (end + 7) / 8 * 8
		if crc = crcOf(crcOf(crc, h[:52]...), b[at+56:padded]...); crc != u32(h, 52) {
			t.Fatalf("%s: the frame at %d has CRC %x, not %x", name, at, u32(h, 52), crc)
		}
		records, count := at+56, int(u32(h, 44))
		switch kind := h[40]; {
		case kind == 0:
			if b[records] != 1 || !zeros(b[records+1:records+4]) || int(u32(b, records+4)) != count {
				t.Fatalf("%s: batch at %d: % x", name, records, b[records:records+24])
			}
			records += 24
		case kind == 255 && f.merged:
		default:
			count = 0 // opaque
		}
		for range count {
			records = f.record(t, name, records)
		}
		if count > 0 && records != at+56+data {
			t.Fatalf("%s: the records of the frame at %d end at %d, its data at %d", name, at, records, at+56+data)
		}
		at = padded
	}
	if !zeros(b[at:]) {
		t.Errorf("%s: there are bytes behind the last frame, at %d", name, at)
	}
	if len(f.records) == 0 {
		t.Errorf("%s: no record", name)
	}
	return f
}

// record notes the record at an offset and returns its end.
func (f *documentedFile) record(t *testing.T, name string, at int) int {
	t.Helper()
	b, fixed := f.bytes, 12
	flags := b[at+4]
	if flags&2 != 0 {
		fixed += 8
	}
	if flags&8 != 0 {
		fixed += 8
	}
	if f.merged != (flags&8 != 0) {
		t.Errorf("%s: the record at %d has flags %b", name, at, flags)
	}
	key := at + fixed
	end := key + u16(b, at+6) + int(u32(b, at+8))
	if b[at+5] != 0 || crcOf(0, b[at+4:end]...) != u32(b, at) {
		t.Fatalf("%s: record at %d: % x", name, at, b[at:key])
	}
	f.records[uint32(at)] = string(b[key : key+u16(b, at+6)])
	return end
}

func documentedHint(t *testing.T, name string, b []byte, segment documentedFile) {
	t.Helper()
	if string(b[:8]) != "RCASKHNT" || u16(b, 8) != 1 || string(b[16:32]) != string(segment.bytes[16:32]) || u64(b, 96) != uint64(len(b)) || crcOf(0, b[:124]...) != u32(b, 124) {
		t.Fatalf("hint %s: header % x", name, b[:128])
	}
	keys, places := uint64(0), uint64(0)
	for at := 128; at < len(b); {
		payload := b[at+12 : at+12+int(u32(b, at))]
		if crcOf(crcOf(0, b[at:at+8]...), payload...) != u32(b, at+8) {
			t.Fatalf("hint %s: block at %d", name, at)
		}
		switch kind := u32(b, at+4); kind {
		case 1:
			for p := 0; p < len(payload); keys++ {
				key := string(payload[p+27 : p+27+u16(payload, p+1)])
				if got, ok := segment.records[u32(payload, p+3)]; !ok || got != key {
					t.Errorf("hint %s: key %.40q at %d is %.40q (%v) in the segment", name, key, u32(payload, p+3), got, ok)
				}
				p += 27 + len(key)
			}
		case 2:
			for p := 0; p < len(payload); p, places = p+8, places+1 {
				if before, ok := segment.frames[u32(payload, p)*8]; !ok || before != u32(payload, p+4) {
					t.Errorf("hint %s: no frame at %d after CRC %x", name, u32(payload, p)*8, u32(payload, p+4))
				}
			}
		default:
			t.Errorf("hint %s: block of kind %d", name, kind)
		}
		at += 12 + len(payload)
	}
	if keys != u64(b, 40) || places != u64(b, 48) {
		t.Errorf("hint %s: %d keys and %d places, its header says %d and %d", name, keys, places, u64(b, 40), u64(b, 48))
	}
}
