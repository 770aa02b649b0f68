package bitcask

import (
	"slices"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// FuzzWalkerSurvivesAnyBytes: whatever a segment holds, a walk ends, what it reports covers the file from the first frame
// on without a gap, and no record reaches beyond its frame. patch is written over a sound segment at an offset.
func FuzzWalkerSurvivesAnyBytes(f *testing.F) {
	fs := vfs.NewMem()
	var prev uint32
	seg, err := createSegment(fs, "", 1, logSegment, newUID())
	if err != nil {
		f.Fatal(err)
	}
	sound, err := vfs.ReadFile(fs, seg.name)
	if err != nil {
		f.Fatal(err)
	}
	prev = seg.seed
	for i := uint64(1); i <= 5; i++ {
		e := dataEntry(i, 1, 1, "key", "some value")
		h := frameHeader{index: i, term: 1, kind: KindData, count: 1, synced: uint64(len(sound))}
		sound = appendFrame(sound, &h, seg.seed, int64(len(sound)), prev, e.Data, nil)
		prev = h.crc
	}
	if err := seg.file.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), []byte{}, false)
	f.Add(uint16(64), make([]byte, 60), false)
	f.Add(uint16(64+52), []byte{1, 2, 3, 4}, true)
	f.Add(uint16(64+56+30), []byte{0xff, 0xff, 0xff, 0xff}, false)
	f.Add(uint16(200), sound[64:190], true)
	f.Fuzz(func(t *testing.T, at uint16, patch []byte, tail bool) {
		data := slices.Clone(sound)
		if int(at) < len(data) {
			copy(data[at:], patch)
		}
		disk := vfs.NewMem()
		must(t, vfs.WriteFileSync(disk, "seg", data))
		file, err := disk.OpenRead("seg")
		must(t, err)
		next := int64(segmentHeaderBytes)
		w := &walker{seg: &segment{name: "seg", file: file, kind: logSegment, seed: seg.seed}, limit: int64(len(data)), tail: tail}
		w.frame = func(f *frame, p *pendingEntry) error {
			if f.offset != next {
				t.Fatalf("a frame at %d, the last thing ended at %d", f.offset, next)
			}
			next = f.end()
			checkRecords(t, p)
			return nil
		}
		w.damage = func(d Damage, p *pendingEntry) error {
			if d.Offset != next || d.Bytes <= 0 {
				t.Fatalf("%v over %d bytes, the last thing ended at %d", d, d.Bytes, next)
			}
			next += d.Bytes
			if p != nil {
				checkRecords(t, p)
			}
			return nil
		}
		end, err := w.walk()
		must(t, err)
		if end != next || end > int64(len(data)) || (!tail && end != int64(len(data))) {
			t.Fatalf("the walk ended at %d of %d, what it gave ends at %d", end, len(data), next)
		}
		must(t, file.Close())
	})
}

func checkRecords(t *testing.T, p *pendingEntry) {
	t.Helper()
	for _, r := range p.records {
		if int64(r.offset) < p.start+frameHeaderBytes || int64(r.offset)+int64(r.size) > p.end {
			t.Fatalf("a record at %d of %d bytes in a frame from %d to %d", r.offset, r.size, p.start, p.end)
		}
	}
}
