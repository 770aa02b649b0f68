package bitcask

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

func replicatedOptions(fs vfs.FS) *Options {
	o := tinyOptions(fs)
	o.Replicated, o.noCommitNotes = true, true
	return o
}

func mustOpen(t *testing.T, fs vfs.FS, o *Options) *Store {
	t.Helper()
	s, err := Open("db", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dataEntry sets key to value; valid is the term that it was evaluated in.
func dataEntry(index, term, valid uint64, key, value string) Entry {
	var b Batch
	b.Reset(valid, int64(index))
	if value == "" {
		_ = b.Delete([]byte(key))
	} else {
		_ = b.Put([]byte(key), []byte(value), 0)
	}
	return Entry{Index: index, Term: term, Kind: KindData, Data: b.Detach()}
}

func TestAppendedEntryIsInvisibleUntilCommit(t *testing.T) {
	s := mustOpen(t, nil, replicatedOptions(vfs.NewMem()))
	defer func() { must(t, s.Close()) }()
	must(t, s.Append([]Entry{dataEntry(1, 1, 1, "a", "1"), dataEntry(2, 1, 1, "a", "2")}))
	if _, err := s.Get([]byte("a")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an uncommitted value is visible: %v", err)
	}
	must(t, s.Commit(1))
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Fatalf("after Commit(1): %q, %v", v, err)
	}
	must(t, s.Commit(2))
	must(t, s.Commit(1)) // again: changes nothing
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "2" {
		t.Fatalf("after Commit(2): %q, %v", v, err)
	}
	if err := s.Commit(3); err == nil {
		t.Fatal("an entry that is not there was committed")
	}
	if err := s.Put([]byte("a"), nil); !errors.Is(err, ErrReplicated) {
		t.Fatalf("a direct write gave %v", err)
	}
}

// TestEntryOfAnotherTermIsVoidForEver: a batch evaluated in term 1 and stored in
// term 2 has no effect when it is committed, reopened, hinted or merged.
func TestEntryOfAnotherTermIsVoidForEver(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	must(t, s.Append([]Entry{dataEntry(1, 1, 1, "a", "good"), dataEntry(2, 2, 1, "a", "void"), dataEntry(3, 2, 1, "b", "void")}))
	must(t, s.Commit(3))
	check := func(when string) {
		t.Helper()
		if got := contents(t, s); !maps.Equal(got, map[string]string{"a": "good"}) {
			t.Fatalf("%s: %v", when, got)
		}
	}
	check("committed")
	must(t, s.Close())
	s = mustOpen(t, fs, replicatedOptions(fs))
	check("reopened")
	s.ForgetBefore(4)
	must(t, s.Merge(context.Background()))
	check("merged")
	must(t, s.Close())
	s = mustOpen(t, fs, replicatedOptions(fs))
	check("merged and reopened")
	must(t, s.Close())
}

// logModel is what a replicated store should hold.
type logModel struct {
	entries   map[uint64]Entry
	last      uint64
	committed uint64
	forgotten uint64
}

func (m *logModel) contents(upTo uint64) map[string]string {
	out := map[string]string{}
	for i := uint64(1); i <= upTo; i++ {
		e := m.entries[i]
		if e.Kind != KindData {
			continue
		}
		if term, _ := BatchTerm(e.Data); term != e.Term {
			continue
		}
		_ = eachRecord(e.Data, func(_ int, r record) {
			switch {
			case r.flags&flagClear != 0:
				clear(out)
			case r.flags&flagDelete != 0:
				delete(out, string(r.key))
			default:
				out[string(r.key)] = string(r.value)
			}
		})
	}
	return out
}

func (m *logModel) clone() logModel {
	c := *m
	c.entries = maps.Clone(m.entries)
	return c
}

// checkReplicated compares a store with the model. synced is the last index whose
// Append returned; atLeast is the last one that must be known committed.
func checkReplicated(t *testing.T, s *Store, m *logModel, synced, atLeast uint64) {
	t.Helper()
	applied, _ := s.Applied()
	if applied < atLeast || applied > m.last {
		t.Fatalf("applied is %d, should be between %d and %d", applied, atLeast, m.last)
	}
	if got, want := contents(t, s), m.contents(applied); !maps.Equal(got, want) {
		t.Fatalf("at index %d the store holds\n%v\nshould hold\n%v", applied, got, want)
	}
	last := max(s.LastIndex(), applied)
	if last < synced {
		t.Fatalf("the log ends at %d, %d was stored", last, synced)
	}
	for i := s.FirstIndex(); i != 0 && i <= s.LastIndex(); i++ {
		e, err := s.Entry(i)
		want := m.entries[i]
		if err != nil || e.Term != want.Term || e.Kind != want.Kind || !bytes.Equal(e.Data, want.Data) || !bytes.Equal(e.Ext, want.Ext) {
			t.Fatalf("entry %d is %+v, %v; should be %+v", i, e, err, want)
		}
	}
	if f := s.FirstIndex(); f > m.forgotten+1 {
		t.Fatalf("the log begins at %d, only entries up to %d were forgotten", f, m.forgotten)
	}
}

// TestReplicatedLogCrashes drives Append, Commit, TruncateAfter, ForgetBefore, merges
// and checkpoints at random, and loses power before random file operations: what
// was stored is there, in order, and what was committed is visible.
func TestReplicatedLogCrashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	for range 4 {
		replicatedRun(t, rng, replicatedOptions, 200, func(op vfs.Op) bool { return op.Kind != vfs.OpRead && rng.IntN(15) == 0 })
	}
}

// replicatedRun returns how many crashes it took.
func replicatedRun(t *testing.T, rng *rand.Rand, options func(vfs.FS) *Options, steps int, choose func(vfs.Op) bool) (clones int) {
	disk := vfs.NewMem()
	m := &logModel{entries: map[uint64]Entry{}}
	var synced uint64
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if !choose(op) {
			return nil
		}
		clones++
		clone, was, stored := disk.CrashClone(rng), m.clone(), synced
		s, err := Open("db", options(clone))
		if err != nil {
			t.Fatalf("open after a crash: %v", err)
		}
		checkReplicated(t, s, &was, stored, 0)
		must(t, s.Commit(max(s.LastIndex(), stored)))
		checkReplicated(t, s, &was, stored, stored)
		must(t, s.Close())
		return nil
	})
	s := mustOpen(t, fs, options(fs))
	term := uint64(1)
	for n := range steps {
		switch r := rng.IntN(100); {
		case r < 55:
			batch := randomEntries(rng, m, n, term)
			for _, e := range batch {
				m.entries[e.Index], m.last = e, e.Index
			}
			must(t, s.Append(batch))
			synced = m.last
		case r < 75 && m.last > m.committed:
			m.committed += 1 + rng.Uint64N(m.last-m.committed)
			must(t, s.Commit(m.committed))
		case r < 82 && m.last > m.committed:
			synced = m.committed + rng.Uint64N(m.last-m.committed)
			term++
			must(t, s.TruncateAfter(synced))
			m.last = synced // only now: what is above may still be there after a crash
		case r < 86:
			m.forgotten = max(m.forgotten, rng.Uint64N(m.committed+1))
			s.ForgetBefore(m.forgotten + 1)
		case r < 90:
			must(t, s.Merge(context.Background()))
		case r < 94:
			must(t, saveCheckpoint(s, n))
		case r < 95 && m.last > 0: // its own state: all committed, and no log before it
			m.committed = m.last
			must(t, s.Commit(m.committed))
			m.forgotten = m.committed
			must(t, adoptCopy(s, n))
		case r < 97:
			must(t, s.Close())
			s = mustOpen(t, fs, options(fs))
		}
		checkReplicated(t, s, m, m.last, 0)
	}
	must(t, s.Close())
	return clones
}

func randomEntries(rng *rand.Rand, m *logModel, n int, term uint64) []Entry {
	var batch []Entry
	for i := range 1 + rng.IntN(4) {
		index := m.last + 1 + uint64(i)
		switch rng.IntN(12) {
		case 0:
			batch = append(batch, Entry{Index: index, Term: term, Kind: 5, Data: []byte("configuration"), Ext: []byte("x")})
		case 1:
			batch = append(batch, Entry{Index: index, Term: term, Kind: 1})
		case 2:
			var b Batch
			b.Reset(term, 0)
			b.Clear()
			_ = b.Put([]byte("k0"), []byte("cleared"), 0)
			batch = append(batch, Entry{Index: index, Term: term, Data: b.Detach()})
		case 3:
			batch = append(batch, dataEntry(index, term, term+7, "k"+strconv.Itoa(rng.IntN(8)), "void"))
		case 4:
			batch = append(batch, dataEntry(index, term, term, "k"+strconv.Itoa(rng.IntN(8)), ""))
		default:
			value := fmt.Sprintf("v%d-%d-%s", n, i, bytes.Repeat([]byte("y"), rng.IntN(150)))
			batch = append(batch, dataEntry(index, term, term, "k"+strconv.Itoa(rng.IntN(8)), value))
		}
	}
	return batch
}

// fillReplicated writes n committed entries, and a few more that stay uncommitted.
func fillReplicated(t *testing.T, s *Store, n, uncommitted uint64) {
	t.Helper()
	for i := uint64(1); i <= n+uncommitted; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 1, 1, "key"+strconv.FormatUint(i%17, 10), fmt.Sprintf("value %d", i))}))
	}
	must(t, s.Commit(n))
}

func receive(t *testing.T, to *Store, stream []byte) (*Staging, error) {
	t.Helper()
	in, err := to.Receive()
	must(t, err)
	if _, err := in.Write(stream); err != nil {
		return in, err
	}
	return in, in.Verify()
}

func streamOf(t *testing.T, s *Store) []byte {
	t.Helper()
	c, err := s.Checkpoint()
	must(t, err)
	st, err := c.Stream()
	must(t, err)
	var b bytes.Buffer
	n, err := copyAll(&b, st)
	must(t, err)
	must(t, st.Close())
	if n != st.Size() {
		t.Fatalf("the stream has %d bytes, Size said %d", n, st.Size())
	}
	return b.Bytes()
}

func TestCheckpointCarriesExactlyTheCommittedState(t *testing.T) {
	from := mustOpen(t, nil, replicatedOptions(vfs.NewMem()))
	fillReplicated(t, from, 100, 5)
	want := contents(t, from)
	stream := streamOf(t, from)

	fs := vfs.NewMem()
	to := mustOpen(t, nil, replicatedOptions(fs))
	fillReplicated(t, to, 10, 3)
	in, err := receive(t, to, stream)
	must(t, err)
	must(t, to.Adopt(in, "snapshot", []byte("info")))
	check := func(when string) {
		t.Helper()
		if got := contents(t, to); !maps.Equal(got, want) {
			t.Fatalf("%s: %v, should be %v", when, got, want)
		}
		if index, term := to.Applied(); index != 100 || term != 1 {
			t.Fatalf("%s: applied is %d of term %d", when, index, term)
		}
		if to.FirstIndex() != 0 || to.LastIndex() != 0 {
			t.Fatalf("%s: the log is %d to %d, should be empty", when, to.FirstIndex(), to.LastIndex())
		}
		if c := to.Checkpoints(); len(c) != 1 || c[0].Index != 100 || string(c[0].Info) != "info" {
			t.Fatalf("%s: checkpoints %+v", when, c)
		}
	}
	check("adopted")
	must(t, to.Close())
	to = mustOpen(t, nil, replicatedOptions(fs))
	check("reopened")
	must(t, to.Append([]Entry{dataEntry(101, 2, 2, "new", "entry")}))
	must(t, to.Commit(101))
	must(t, to.Close())
	must(t, from.Close())
}

// TestBrokenStreamLeavesTheStoreAlone cuts and flips a snapshot's stream at many
// places: it is refused, and the receiver is what it was.
func TestBrokenStreamLeavesTheStoreAlone(t *testing.T) {
	from := mustOpen(t, nil, replicatedOptions(vfs.NewMem()))
	fillReplicated(t, from, 40, 0)
	stream := streamOf(t, from)
	must(t, from.Close())
	fs := vfs.NewMem()
	to := mustOpen(t, nil, replicatedOptions(fs))
	fillReplicated(t, to, 5, 2)
	want := contents(t, to)
	for at := 0; at < len(stream); at += 13 {
		flipped := slices.Clone(stream)
		flipped[at] ^= 0x40
		for _, bad := range [][]byte{stream[:at], flipped} {
			in, err := receive(t, to, bad)
			if err == nil {
				t.Fatalf("a stream broken at byte %d of %d was accepted", at, len(stream))
			}
			if err := to.Adopt(in, "x", nil); err == nil {
				t.Fatal("an unverified staging was adopted")
			}
			in.Abort()
		}
	}
	in, err := receive(t, to, append(slices.Clone(stream), 0))
	if err == nil {
		t.Fatal("bytes after the end were accepted")
	}
	in.Abort()
	must(t, to.Close())
	to = mustOpen(t, nil, replicatedOptions(fs))
	if got := contents(t, to); !maps.Equal(got, want) {
		t.Fatalf("the store holds %v, should hold %v", got, want)
	}
	must(t, to.Close())
}

// TestNodeStartsAfterPowerLossDuringATruncation: half of the dropped entries may still be on disk. Those that are
// must not accuse the missing ones of being damage.
func TestNodeStartsAfterPowerLossDuringATruncation(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	for range 6 {
		disk := vfs.NewMem()
		clones := 0
		truncating := false
		fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
			if !truncating || op.Kind == vfs.OpRead {
				return nil
			}
			for range 6 {
				clone := disk.CrashClone(rng)
				s, err := Open("db", replicatedOptions(clone))
				if err != nil {
					t.Fatalf("open after a crash: %v", err)
				}
				if last := s.LastIndex(); last < 5 {
					t.Fatalf("the log ends at %d, 5 was kept", last)
				}
				must(t, s.Close())
				clones++
			}
			return nil
		})
		options := replicatedOptions(fs)
		options.SegmentBytes = 1 << 20 // one segment holds all
		s := mustOpen(t, fs, options)
		for i := uint64(1); i <= 20; i++ {
			must(t, s.Append([]Entry{dataEntry(i, 1, 1, "k", strings.Repeat("v", rng.IntN(400)))}))
		}
		must(t, s.Commit(3))
		truncating = true
		must(t, s.TruncateAfter(5))
		truncating = false
		must(t, s.Append([]Entry{dataEntry(6, 2, 2, "k", "new")}))
		if last := s.LastIndex(); last != 6 {
			t.Fatalf("the log ends at %d, not 6", last)
		}
		must(t, s.Close())
		if clones == 0 {
			t.Fatal("no file operation was seen")
		}
	}
}

// TestWriteForgottenBeforeItsCommitStaysReadable: a log that is told to forget more than is committed, as a manifest of a crashed
// process may tell it, keeps what is not committed from merges.
func TestWriteForgottenBeforeItsCommitStaysReadable(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	key := func(i uint64) string { return fmt.Sprint("key", i%20) }
	for i := uint64(1); i <= 60; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 1, 1, key(i), strings.Repeat("v", 100)+fmt.Sprint(i))}))
	}
	must(t, s.Commit(10))
	s.ForgetBefore(51)
	must(t, s.maintainOnce())
	must(t, s.Merge(t.Context()))
	must(t, s.Commit(60))
	for i := uint64(41); i <= 60; i++ {
		if v, err := s.Get([]byte(key(i))); err != nil || string(v) != strings.Repeat("v", 100)+fmt.Sprint(i) {
			t.Fatalf("%s: %.20q, %v", key(i), v, err)
		}
	}
	must(t, s.Close())
}

// TestSnapshotAfterACutAtTheForgottenEndIsWhole: after a restart a segment has places only for entries that are still
// needed as log. A cut of all those does not make it an empty segment.
func TestSnapshotAfterACutAtTheForgottenEndIsWhole(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	for i := uint64(1); i <= 10; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 1, 1, fmt.Sprint("key", i), "value")}))
	}
	must(t, s.Commit(8))
	s.ForgetBefore(9)
	must(t, saveCheckpoint(s, 1)) // a manifest that knows it
	must(t, s.Close())
	s = mustOpen(t, fs, replicatedOptions(fs))
	must(t, s.TruncateAfter(8))
	must(t, s.Append([]Entry{dataEntry(9, 2, 2, "key9", "other")}))
	must(t, s.Commit(9))
	check := func(s *Store) {
		t.Helper()
		for i := 1; i <= 8; i++ {
			if v, err := s.Get(fmt.Append(nil, "key", i)); err != nil || string(v) != "value" {
				t.Fatalf("key%d: %q, %v", i, v, err)
			}
		}
		if v, err := s.Get([]byte("key9")); err != nil || string(v) != "other" || s.Len() != 9 {
			t.Fatalf("key9: %q, %v; %d keys", v, err, s.Len())
		}
	}
	check(s)
	other := vfs.NewMem()
	to := mustOpen(t, other, replicatedOptions(other))
	st, err := receive(t, to, streamOf(t, s))
	must(t, err)
	must(t, to.Adopt(st, "1", nil))
	check(to)
	must(t, to.Close())
	must(t, s.Close())
}

// TestEntryOfACutLogIsThereOrIsNot: an entry that is looked up while a truncation removes its file has no other error than that
// there is no such entry. Nor do appends wait for the removal.
func TestEntryOfACutLogIsThereOrIsNot(t *testing.T) {
	var s *Store
	removing := ""
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
		if removing == "" || op.Kind != vfs.OpRemove || op.Name != removing {
			return nil
		}
		removing = ""
		for index := uint64(1); index <= 10; index++ {
			if _, err := s.Entry(index); (index <= 3) != (err == nil) || (err != nil && !errors.Is(err, ErrNoEntry)) {
				t.Errorf("entry %d: %v", index, err)
			}
		}
		must(t, s.Append([]Entry{dataEntry(4, 2, 2, "k", "appended meanwhile")}))
		return nil
	})
	o := replicatedOptions(fs)
	o.SegmentBytes = 400
	s = mustOpen(t, nil, o)
	fillReplicated(t, s, 2, 8)
	removing = s.appender.active.name
	must(t, s.TruncateAfter(3))
	if removing != "" {
		t.Fatal("the active segment was not removed")
	}
	must(t, s.Close())
}

// TestStoreAtRestTellsWhatIsCommitted: whoever reads the files misses nothing that was acknowledged before the store came to
// rest, and until then is told how much he does not see.
func TestStoreAtRestTellsWhatIsCommitted(t *testing.T) {
	fs := vfs.NewMem()
	o := replicatedOptions(fs)
	o.noCommitNotes = false
	s := mustOpen(t, nil, o)
	fillReplicated(t, s, 9, 0)
	must(t, s.Append([]Entry{dataEntry(10, 1, 1, "last", "v")}))
	look := func() (found bool, uncommitted uint64) {
		view, err := OpenReadOnly("db", replicatedOptions(fs))
		must(t, err)
		defer func() { must(t, view.Close()) }()
		_, err = view.Get([]byte("last"))
		return err == nil, view.Uncommitted()
	}
	if found, uncommitted := look(); found || uncommitted != 1 {
		t.Errorf("before the commit: found %v, %d uncommitted", found, uncommitted)
	}
	must(t, s.Commit(10))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		found, uncommitted := look()
		if found && uncommitted == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("at rest: found %v, %d uncommitted", found, uncommitted)
		}
	}
	must(t, s.Close())
}

// TestCutSegmentNeverLooksCommittedWithWhatWasCutOff: a merge that begins beside the cut copied a dropped delete, and after a
// restart that took the key away.
func TestCutSegmentNeverLooksCommittedWithWhatWasCutOff(t *testing.T) {
	for range 2000 {
		o := replicatedOptions(vfs.NewMem())
		o.SegmentBytes = 1 << 20
		s := mustOpen(t, nil, o)
		must(t, s.Append([]Entry{dataEntry(1, 1, 1, "k", "v")}))
		seg := s.appender.active
		end := seg.size.Load()
		must(t, s.Append([]Entry{dataEntry(2, 1, 1, "k", "")}))
		must(t, s.Commit(1))
		s.ForgetBefore(2)
		stop, wrong := make(chan struct{}), make(chan bool)
		go func() {
			for {
				select {
				case <-stop:
					wrong <- false
					return
				default:
				}
				s.log.mu.RLock()
				bad := s.committedLocked(seg) && seg.size.Load() != end
				s.log.mu.RUnlock()
				if bad {
					wrong <- true
					return
				}
			}
		}()
		must(t, s.TruncateAfter(1))
		close(stop)
		if <-wrong {
			t.Fatal("the segment counts as committed, and still has the entry that was cut off")
		}
		must(t, s.Close())
	}
}
