package bitcask

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// noWrites lets reads pass and fails the test on everything that changes a file. Syncs are allowed.
func noWrites(t *testing.T, fs vfs.FS) vfs.FS {
	return vfs.NewFaulty(fs, func(op vfs.Op) *vfs.Fault {
		switch op.Kind {
		case vfs.OpOpen, vfs.OpRead, vfs.OpSize, vfs.OpClose, vfs.OpList, vfs.OpSync, vfs.OpMap:
			return nil
		}
		t.Errorf("a reader does %s of %s", op.Kind, op.Name)
		return &vfs.Fault{Err: errors.New("not allowed")}
	})
}

func mustView(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := OpenReadOnly("db", tinyOptions(noWrites(t, fs)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReadOnlyOpenShowsEveryAcknowledgedWrite: after each of many random operations a view of the store, open
// beside it, holds exactly what was acknowledged, with hints and without, and it stays so.
func TestReadOnlyOpenShowsEveryAcknowledgedWrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 1))
	fs := vfs.NewMem()
	h := &history{acked: map[string]string{}}
	s := mustOpen(t, fs, tinyOptions(fs))
	type kept struct {
		view *Store
		want map[string]string
	}
	var views []kept
	for n := range 250 {
		must(t, h.do(s, randomChange(rng, n)...))
		switch rng.IntN(12) {
		case 0:
			must(t, mergeSome(s, rng))
		case 1:
			must(t, s.buildHints(s.ctx))
		case 2:
			must(t, saveCheckpoint(s, n))
		}
		view := mustView(t, fs)
		if got := contents(t, view); !maps.Equal(got, h.acked) {
			t.Fatalf("step %d: the view holds\n%v\nshould hold\n%v", n, got, h.acked)
		}
		if st := view.Stats(); st.Keys != len(h.acked) || st.LiveBytes != s.Stats().LiveBytes {
			t.Fatalf("step %d: %+v, the store's are %+v", n, st, s.Stats())
		}
		if rng.IntN(10) == 0 {
			views = append(views, kept{view, maps.Clone(h.acked)})
			continue
		}
		must(t, view.Close())
	}
	must(t, s.Merge(t.Context()))
	must(t, s.Close())
	for _, k := range views { // whatever was merged away since
		if got := contents(t, k.view); !maps.Equal(got, k.want) {
			t.Fatalf("a view changed: %v, was %v", got, k.want)
		}
		must(t, k.view.Close())
	}
	view := mustView(t, fs)
	if got := contents(t, view); !maps.Equal(got, h.acked) {
		t.Fatalf("of the closed store the view holds %v", got)
	}
	must(t, view.Close())
	if err := view.Close(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestReadOnlyOpenRefusesWrites(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("b")))
	view := mustView(t, fs)
	var batch Batch
	must(t, batch.Put([]byte("x"), nil, 0))
	c, err := view.Checkpoint()
	must(t, err)
	_, receiveErr := view.Receive()
	for what, err := range map[string]error{
		"Put": view.Put([]byte("x"), nil), "Delete": view.Delete([]byte("a")), "Write": view.Write(&batch),
		"Merge": view.Merge(t.Context()), "Sync": view.Sync(), "Receive": receiveErr, "Save": c.Save("x", nil),
		"Commit": view.Commit(9), "TruncateAfter": view.TruncateAfter(0),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c.Release()
	must(t, view.Close())
	must(t, s.Close())
	if _, err := OpenReadOnly("elsewhere", tinyOptions(fs)); !errors.Is(err, ErrNoStore) {
		t.Fatalf("a directory without a store: %v", err)
	}
}

// TestReadOnlyOpenShowsOnlyCommittedEntries of a replicated log, whoever asks, and though the log is cut and
// written again under the view.
func TestReadOnlyOpenShowsOnlyCommittedEntries(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	value := strings.Repeat("v", 300)
	want := map[string]string{}
	for i := uint64(1); i <= 40; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 3, 3, fmt.Sprint("k", i), value)}))
		if i == 20 {
			must(t, s.Commit(18))
		}
	}
	// Entry 21 and those after it carry the news that 18 is committed.
	for i := uint64(1); i <= 18; i++ {
		want[fmt.Sprint("k", i)] = value
	}
	view := mustView(t, fs)
	if got := contents(t, view); !maps.Equal(got, want) {
		t.Fatalf("the view holds %d keys: %v", len(got), got)
	}
	if index, term := view.Applied(); index != 18 || term != 3 {
		t.Fatalf("the view ends at %d of term %d", index, term)
	}
	must(t, s.TruncateAfter(18))
	must(t, s.Append([]Entry{dataEntry(19, 4, 4, "other", "value")}))
	must(t, s.Commit(19))
	if got := contents(t, view); !maps.Equal(got, want) {
		t.Fatalf("after the log was cut the view holds %v", got)
	}
	must(t, view.Close())
	must(t, s.Close())
	view = mustView(t, fs)
	want["other"] = "value"
	if got := contents(t, view); !maps.Equal(got, want) {
		t.Fatalf("closed, the view holds %v", got)
	}
	must(t, view.Close())
}

// TestReadOnlyOpenWhileMergesRun opens views as fast as it can beside a writer that merges all the time.
func TestReadOnlyOpenWhileMergesRun(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	const keys = 40
	for i := range keys {
		must(t, s.Put(fmt.Append(nil, "k", i), []byte("0")))
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	writer.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := errors.Join(s.Put(fmt.Append(nil, "k", n%keys), bytes.Repeat([]byte{'x'}, n%200)), s.Merge(t.Context())); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 60 {
		view := mustView(t, fs)
		if got := contents(t, view); len(got) != keys {
			t.Errorf("a view has %d keys", len(got))
		}
		must(t, view.Close())
		if report, err := Verify(t.Context(), "db", tinyOptions(noWrites(t, fs))); err != nil || len(report.Damage) > 0 {
			t.Errorf("verify: %v, %v", report, err)
		}
	}
	end()
	writer.Wait()
	must(t, s.Close())
}

// TestReadOnlyOpenIsDurable: what a view has shown survives a power loss, also in a store that does not sync.
func TestReadOnlyOpenIsDurable(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 2))
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	for i := range 30 {
		must(t, s.Put(fmt.Append(nil, "k", i), bytes.Repeat([]byte("v"), 200)))
	}
	view := mustView(t, fs)
	want := contents(t, view)
	must(t, view.Close())
	for range 20 {
		crashed := fs.CrashClone(rng)
		again := mustOpen(t, crashed, tinyOptions(crashed))
		if got := contents(t, again); !maps.Equal(got, want) {
			t.Fatalf("after the power loss there are %d keys, the view showed %d", len(got), len(want))
		}
		must(t, again.Close())
	}
	must(t, s.Close())
}

// TestReadOnlyOpenNamesDamage as Open does.
func TestReadOnlyOpenNamesDamage(t *testing.T) {
	fs, _ := smallStore(t)
	name, at := damageMiddle(t, fs)
	must(t, removeHints(fs))
	_, err := OpenReadOnly("db", tinyOptions(noWrites(t, fs)))
	var damage *CorruptError
	if !errors.As(err, &damage) || damage.File != name || damage.Offset != at {
		t.Fatalf("%v, want damage in %s at %d", err, name, at)
	}
}
