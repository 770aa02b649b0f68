package bitcask

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// deadSegments fills a store with n sealed segments, in each of which little is alive, and closes it.
func deadSegments(t *testing.T, fs vfs.FS, n int) {
	t.Helper()
	s := mustOpen(t, fs, tinyOptions(fs))
	for i := range n {
		must(t, s.Put(fmt.Append(nil, "stays", i), make([]byte, 20)))
		for range 5 {
			must(t, s.Put([]byte("k"), make([]byte, 100)))
		}
		seal(t, s)
	}
	must(t, s.Close())
}

// TestBackgroundMergesKeepToTheirWindow: over a whole day none begins outside of it, and the garbage goes within.
func TestBackgroundMergesKeepToTheirWindow(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		window MergeWindow
		inside func(hour int) bool
	}{
		{MergeWindow{}, func(int) bool { return true }},
		{MergeWindow{From: 2 * hour, To: 5 * hour}, func(h int) bool { return 2 <= h && h < 5 }},
		{MergeWindow{From: 22 * hour, To: 4 * hour}, func(h int) bool { return 22 <= h || h < 4 }},
		{MergeWindow{From: 22 * hour, To: 24 * hour}, func(h int) bool { return 22 <= h }},
		{MergeWindow{To: 1 * hour}, func(h int) bool { return h < 1 }},
	} {
		for h := range 24 {
			fs := vfs.NewMem()
			deadSegments(t, fs, 4)
			o := tinyOptions(fs)
			o.Merge.Window = c.window
			now := time.Date(2026, 3, 1, h, 30, 0, 0, time.Local)
			o.Now = func() time.Time { return now }
			s := mustOpen(t, fs, o)
			must(t, s.maintainOnce())
			if merged := s.Stats().Merges > 0; merged != c.inside(h) {
				t.Fatalf("window %v to %v, at %d:30: merged is %v", c.window.From, c.window.To, h, merged)
			}
			must(t, s.Merge(t.Context())) // whoever asks for it gets it at any time
			if s.Stats().Merges == 0 || s.Stats().DeadBytes > 200 {
				t.Fatalf("window %v to %v, at %d:30: a merge that was asked for left %d dead bytes", c.window.From, c.window.To, h, s.Stats().DeadBytes)
			}
			must(t, s.Close())
		}
	}
	for _, bad := range []MergeWindow{{From: hour, To: hour}, {From: -1}, {From: 24 * hour}, {To: 25 * hour}} {
		if _, err := Open("db", &Options{FS: vfs.NewMem(), Merge: MergePolicy{Window: bad}}); err == nil {
			t.Errorf("the window %+v was taken", bad)
		}
	}
}

// TestMergesAtStartAreNoStorm: a store that opens with much to merge does one merge at a time, and all of them together read
// no faster than the policy says.
func TestMergesAtStartAreNoStorm(t *testing.T) {
	fs := vfs.NewMem()
	deadSegments(t, fs, 40)
	synctest.Test(t, func(t *testing.T) {
		var bytes atomic.Int64
		counted := vfs.NewFaulty(fs, func(op vfs.Op) *vfs.Fault {
			if op.Kind == vfs.OpRead && op.Len > segmentHeaderBytes {
				bytes.Add(int64(op.Len))
			}
			return nil
		})
		o := tinyOptions(counted)
		const perSecond = 2000 // in the greatest haste, for nearly all is dead
		o.Merge = MergePolicy{BytesPerSecond: perSecond / maxMergeHaste}
		o.Scrub.Disabled = true
		s := mustOpen(t, fs, o)
		defer func() { must(t, s.Close()) }()
		synctest.Wait()
		opened, merges := bytes.Load(), s.Stats().Merges
		for second := range int64(60) {
			time.Sleep(time.Second)
			synctest.Wait()
			if limit, read := (second+2)*perSecond+4096, bytes.Load()-opened; read > limit {
				t.Fatalf("%d s after the opening merges have read %d bytes, at most %d were allowed", second+1, read, limit)
			}
		}
		if s.Stats().Merges == merges {
			t.Fatal("nothing was merged")
		}
	})
}

// TestMergesHurryWhenGarbageComesFaster: there is no haste up to half as many dead bytes as live ones, and it grows from there.
func TestMergesHurryWhenGarbageComesFaster(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 32 << 10
	s := mustOpen(t, fs, o)
	for n := range 200 {
		must(t, s.Put(fmt.Append(nil, "k", n), make([]byte, 1000)))
	}
	seal(t, s)
	last := s.mergeHaste()
	if last != 1 {
		t.Fatalf("a store without garbage is merged in haste %g", last)
	}
	for n := range 300 {
		must(t, s.Put(fmt.Append(nil, "k", n%200), make([]byte, 1000)))
		must(t, s.buildHints(s.ctx))
		st, haste := s.Stats(), s.mergeHaste()
		if haste < last || haste > maxMergeHaste || (st.DeadBytes < st.LiveBytes/2 && haste != 1) {
			t.Fatalf("with %d bytes dead and %d alive the haste goes from %g to %g", st.DeadBytes, st.LiveBytes, last, haste)
		}
		last = haste
	}
	if last != maxMergeHaste {
		t.Fatalf("with more dead than alive the haste is %g", last)
	}
	must(t, s.Close())
}
