package bitcask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// frameOffsets of a segment that is not damaged.
func frameOffsets(t *testing.T, fs vfs.FS, m segmentMeta) []int64 {
	t.Helper()
	seg, err := openSegment(readOnlyFS{fs}, "db", m)
	must(t, err)
	var list []int64
	must(t, scanSegment(seg, func(f frame, _ uint32, _ *pendingEntry) error {
		list = append(list, f.offset)
		return nil
	}))
	must(t, seg.file.Close())
	return list
}

// damageMiddle flips a byte in the payload of a frame in the middle of a sealed log segment, and names the frame.
func damageMiddle(t *testing.T, fs vfs.FS) (file string, offset int64) {
	t.Helper()
	m, err := readManifest(fs, "db")
	must(t, err)
	for _, sm := range m.Segments {
		if sm.ID == m.Active || sm.Kind != logSegment {
			continue
		}
		if frames := frameOffsets(t, fs, sm); len(frames) >= 3 {
			at := frames[len(frames)/2]
			flip(t, fs, segmentName("db", sm.ID), at+frameHeaderBytes+batchHeaderBytes+recordHeaderBytes)
			return segmentName("db", sm.ID), at
		}
	}
	t.Fatal("no sealed log segment with three frames")
	return "", 0
}

func removeHints(fs vfs.FS) error {
	names, err := fs.List("db")
	for _, name := range names {
		if strings.HasSuffix(name, ".hint") {
			err = errors.Join(err, fs.Remove(filepath.Join("db", name)))
		}
	}
	return err
}

// TestScrubNamesAndKeepsADamagedSegment: a flipped byte in a sealed segment is found with file and offset, is in
// Stats, and the segment outlives every merge, its other values readable.
func TestScrubNamesAndKeepsADamagedSegment(t *testing.T) {
	fs, want := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	name, at := damageMiddle(t, fs)
	report, err := s.Scrub(t.Context())
	must(t, err)
	if len(report.Damage) != 1 || report.Damage[0].File != name || report.Damage[0].Offset != at || report.Damage[0].Bytes == 0 {
		t.Fatalf("scrub found %v, want %s at %d", report.Damage, name, at)
	}
	if st := s.Stats().Scrub; st.Passes != 1 || st.Bytes != report.Bytes || len(st.Damage) != 1 || st.Damage[0] != report.Damage[0] {
		t.Fatalf("Stats say %+v", st)
	}
	for key := range want { // make all of it dead, so that a merge would love to have it
		must(t, s.Put([]byte(key), []byte("new")))
	}
	must(t, s.Merge(t.Context()))
	must(t, s.Merge(t.Context()))
	if size, err := fileSize(fs, name); err != nil || size == 0 {
		t.Fatalf("the damaged segment is gone: %v", err)
	}
	if report, err = s.Scrub(t.Context()); err != nil || len(report.Damage) != 1 || len(s.Stats().Scrub.Damage) != 1 {
		t.Fatalf("the second pass found %v, %v", report.Damage, err)
	}
	for key := range want {
		if v, err := s.Get([]byte(key)); err != nil || string(v) != "new" {
			t.Fatalf("%s: %q, %v", key, v, err)
		}
	}
	must(t, s.Close())
}

// TestScrubFindsAnyFlippedByte of sealed segments and hints, and rebuilds the hints.
func TestScrubFindsAnyFlippedByte(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 7))
	fs, want := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	var bytes int64
	for _, seg := range sortedSegments(s.liveSegments()) {
		if !s.committed(seg) {
			continue
		}
		for at := rng.Int64N(3); at < seg.size.Load(); at += 1 + rng.Int64N(6) {
			flip(t, fs, seg.name, at)
			report, err := s.Scrub(t.Context())
			must(t, err)
			if len(report.Damage) == 0 || report.Damage[0].File != seg.name || report.Damage[0].Offset > at || at >= report.Damage[0].Offset+report.Damage[0].Bytes {
				t.Fatalf("%s, byte %d: scrub found %v", seg.name, at, report.Damage)
			}
			flip(t, fs, seg.name, at)
			bytes++
		}
		hint := hintName("db", seg.id)
		size, err := fileSize(fs, hint)
		must(t, err)
		for at := rng.Int64N(3); at < size; at += 1 + rng.Int64N(6) {
			flip(t, fs, hint, at)
			report, err := s.Scrub(t.Context())
			must(t, err)
			if len(report.Damage) > 0 || len(report.RebuiltHints) != 1 || report.RebuiltHints[0].File != hint || report.RebuiltHints[0].Offset > at {
				t.Fatalf("%s, byte %d: scrub found %+v", hint, at, report)
			}
			bytes++
		}
		must(t, fs.Remove(hint))
		if report, err := s.Scrub(t.Context()); err != nil || len(report.RebuiltHints) != 1 {
			t.Fatalf("without %s scrub found %+v, %v", hint, report, err)
		}
	}
	report, err := s.Scrub(t.Context())
	must(t, err)
	if len(report.Damage)+len(report.RebuiltHints)+len(s.Stats().Scrub.Damage) != 0 {
		t.Fatalf("in the end scrub finds %+v", report)
	}
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatal("the contents changed")
	}
	t.Logf("%d bytes flipped", bytes)
	must(t, s.Close())
}

// TestScrubReadsWhatOnlyACheckpointKeeps: it may be sent to a replica one day.
func TestScrubReadsWhatOnlyACheckpointKeeps(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	for i := range 8 {
		must(t, s.Put([]byte{byte(i)}, make([]byte, 500)))
	}
	must(t, s.Merge(t.Context()))
	must(t, saveCheckpoint(s, 1))
	for i := range 8 {
		must(t, s.Put([]byte{byte(i)}, []byte("new")))
	}
	must(t, s.Merge(t.Context()))
	if s.Stats().PinnedBytes == 0 {
		t.Fatal("nothing is pinned")
	}
	var name string
	for id := range s.disk.pinned {
		if s.liveSegments()[id] == nil {
			name = segmentName("db", id)
		}
	}
	flip(t, fs, name, 300)
	report, err := s.Scrub(t.Context())
	must(t, err)
	if len(report.Damage) != 1 || report.Damage[0].File != name {
		t.Fatalf("scrub found %v", report.Damage)
	}
	must(t, s.Close())
}

// TestScrubKeepsItsBudget: in the background a pass takes at least its bytes over the budget, and comes every Interval.
func TestScrubKeepsItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		o := tinyOptions(fs)
		o.SegmentBytes = 1 << 20
		o.Scrub = ScrubPolicy{BytesPerSecond: 64 << 10, Interval: time.Hour}
		s := mustOpen(t, fs, o)
		for i := range 70 {
			must(t, s.Put(fmt.Append(nil, "k", i), make([]byte, 64<<10)))
		}
		must(t, s.buildHints(s.ctx))
		sealed := int64(0)
		for _, seg := range s.liveSegments() {
			if s.committed(seg) {
				sealed += seg.size.Load()
			}
		}
		takes := time.Duration(float64(sealed) / float64(64<<10) * float64(time.Second))
		if takes < 40*time.Second {
			t.Fatalf("the pass would take %s", takes)
		}
		time.Sleep(firstScrubAfter + takes - 5*time.Second)
		synctest.Wait()
		if st := s.Stats().Scrub; st.Passes != 0 || st.Bytes == 0 {
			t.Fatalf("shortly before its budget allows: %+v", st)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := s.Stats().Scrub; st.Passes != 1 || st.Bytes != sealed {
			t.Fatalf("after %s: %+v, want one pass over %d bytes", takes, st, sealed)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := s.Stats().Scrub; st.Passes != 2 {
			t.Fatalf("an hour later: %+v", st)
		}
		time.Sleep(time.Hour - takes/2) // in the middle of a pass
		must(t, s.Close())              // ends it
	})
}

func TestScrubCanBeStopped(t *testing.T) {
	fs, _ := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Scrub(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	must(t, s.Close())
	if _, err := s.Scrub(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// TestUnreadableSectorIsDamageAndNotTheEnd: EIO in the middle of a segment is named, and what is behind is read.
func TestUnreadableSectorIsDamageAndNotTheEnd(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 64 << 10
	s := mustOpen(t, fs, o)
	for i := range 200 {
		must(t, s.Put(fmt.Append(nil, "k", i), make([]byte, 500)))
	}
	must(t, s.buildHints(s.ctx))
	seg := sortedSegments(s.liveSegments())[0]
	bad := int64(20 << 10)
	seg.file = &badSector{File: seg.file, at: bad}
	report, err := s.Scrub(t.Context())
	must(t, err)
	if len(report.Damage) != 1 || report.Damage[0].File != seg.name || report.Damage[0].Offset > bad || report.Damage[0].Bytes > 6000 {
		t.Fatalf("scrub found %v", report.Damage)
	}
	must(t, s.Close())
}

// badSector fails reads that touch one byte.
type badSector struct {
	vfs.File
	at int64
}

func (b *badSector) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.at && b.at < off+int64(len(p)) {
		return 0, errors.New("input/output error")
	}
	return b.File.ReadAt(p, off)
}
