package bitcask

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The files in testdata/v1 were written once, by the first version of the format, and are never written again: every
// later version must open them. go test -run TestGolden -golden-write makes the files of a new format's directory.
var writeGolden = flag.Bool("golden-write", false, "write testdata/v1 anew; only for a format that nobody uses yet")

const goldenDir = "testdata/v1"

// goldenEnd is the expiry of a key that is alive in 2099.
const goldenEnd = 4_102_444_800_000

// goldenNow is after the expiry of "expired", and long before goldenEnd.
func goldenNow() time.Time { return time.UnixMilli(1_800_000_000_000) }

func goldenOptions() *Options {
	return &Options{SegmentBytes: 4096, Logger: quiet, Now: goldenNow, Merge: MergePolicy{Disabled: true}, Scrub: ScrubPolicy{Disabled: true}}
}

func goldenReplicated() *Options {
	o := goldenOptions()
	o.Replicated, o.noCommitNotes = true, true
	return o
}

var allBytes = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

// goldenKeys are what the embedded store holds.
var goldenKeys = map[string]string{
	"plain": "value", "empty": "", "overwritten": "third", "ttl": "until 2099", "in a batch": "1", "also in it": "2",
	"\x00 binary \xff": string(allBytes), strings.Repeat("long key ", 40): strings.Repeat("long value ", 200), "after the merge": "yes",
}

// goldenGone were deleted, cleared or have expired.
var goldenGone = []string{"deleted", "before the clear", "expired", "never there"}

func writeGoldenEmbedded(t *testing.T, dir string) {
	s, err := Open(dir, goldenOptions())
	must(t, err)
	put := func(key, value string) { t.Helper(); must(t, s.Put([]byte(key), []byte(value))) }
	put("before the clear", "gone")
	var b Batch
	b.Clear()
	must(t, errors.Join(b.Put([]byte("in a batch"), []byte("1"), 0), b.Put([]byte("also in it"), []byte("2"), 0), s.Write(&b)))
	for _, value := range []string{"first", "second", "third"} {
		put("overwritten", value)
	}
	put("plain", "value")
	put("empty", "")
	put("deleted", "gone")
	must(t, s.Delete([]byte("deleted")))
	put("\x00 binary \xff", string(allBytes))
	put(strings.Repeat("long key ", 40), strings.Repeat("long value ", 200))
	b.Reset(0, 0)
	must(t, errors.Join(b.Put([]byte("ttl"), []byte("until 2099"), goldenEnd), b.Put([]byte("expired"), []byte("gone"), 1_700_000_000_000), s.Write(&b)))
	must(t, s.Merge(context.Background()))
	put("after the merge", "yes")
	c, err := s.Checkpoint()
	must(t, err)
	must(t, c.Save("golden", []byte("its info")))
	seal(t, s)
	put("plain", "value")
	must(t, s.Close())
	c.Release()
}

// goldenLog is the log of the replicated store. Entries up to 6 are committed, and up to 2 forgotten.
func goldenLog() []Entry {
	var clears Batch
	clears.Reset(2, 5000)
	clears.Clear()
	_ = clears.Put([]byte("c"), []byte("after the clear"), 0)
	return []Entry{
		{Index: 1, Term: 1, Kind: 1, Data: []byte("opaque"), Ext: []byte("extension")},
		dataEntry(2, 1, 1, "a", "cleared"),
		{Index: 3, Term: 2, Kind: KindData, Data: clears.Detach()},
		dataEntry(4, 2, 1, "void", "evaluated in another term"),
		dataEntry(5, 2, 2, "a", strings.Repeat("a", 3000)),
		dataEntry(6, 2, 2, "b", strings.Repeat("b", 3000)),
		dataEntry(7, 3, 3, "b", "not committed"),
		dataEntry(8, 3, 3, "c", ""),
	}
}

var goldenReplicatedKeys = map[string]string{"a": strings.Repeat("a", 3000), "b": strings.Repeat("b", 3000), "c": "after the clear"}

func writeGoldenReplicated(t *testing.T, dir string) {
	s, err := Open(dir, goldenReplicated())
	must(t, err)
	must(t, s.Append(goldenLog()))
	must(t, s.TruncateAfter(6))
	must(t, s.Commit(6))
	must(t, s.Append(goldenLog()[6:]))
	s.ForgetBefore(3)
	must(t, s.buildHints(s.ctx))
	must(t, s.Close())
}

func TestGoldenFilesOfVersion1(t *testing.T) {
	if *writeGolden {
		must(t, os.RemoveAll(goldenDir))
		must(t, os.MkdirAll(goldenDir, 0o755))
		writeGoldenEmbedded(t, filepath.Join(goldenDir, "embedded"))
		writeGoldenReplicated(t, filepath.Join(goldenDir, "replicated"))
		for _, name := range []string{"embedded", "replicated"} {
			must(t, os.Remove(filepath.Join(goldenDir, name, lockName)))
			must(t, os.RemoveAll(filepath.Join(goldenDir, name, reserveName))) // zeros
		}
		writeGoldenStream(t)
	}
	t.Run("embedded", func(t *testing.T) { readGoldenEmbedded(t, goldenCopy(t, "embedded")) })
	t.Run("replicated", func(t *testing.T) { readGoldenReplicated(t, goldenCopy(t, "replicated")) })
	t.Run("stream", readGoldenStream)
	t.Run("verify", func(t *testing.T) {
		for _, name := range []string{"embedded", "replicated"} {
			report, err := Verify(t.Context(), goldenCopy(t, name), goldenOptions())
			if err != nil || len(report.Damage) > 0 {
				t.Errorf("%s: %+v, %v", name, report, err)
			}
		}
	})
}

// goldenCopy is a store that may be changed.
func goldenCopy(t *testing.T, name string) string {
	dir := filepath.Join(t.TempDir(), name)
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, name))))
	return dir
}

func readGoldenEmbedded(t *testing.T, dir string) {
	check := func(s *Store) {
		t.Helper()
		checkContents(t, s, goldenKeys, goldenGone)
		if it, ok := s.Lookup([]byte("ttl")); !ok || it.ExpireAt != goldenEnd {
			t.Errorf("ttl: %+v, %v", it, ok)
		}
	}
	s, err := Open(dir, goldenOptions())
	must(t, err)
	check(s)
	if list := s.Checkpoints(); len(list) != 1 || list[0].Name != "golden" || string(list[0].Info) != "its info" {
		t.Errorf("saved checkpoints: %+v", list)
	}
	must(t, s.Put([]byte("plain"), []byte("value")))
	must(t, s.Merge(t.Context()))
	check(s)
	must(t, s.Close())
	s, err = Open(dir, goldenOptions())
	must(t, err)
	check(s)
	must(t, s.Close())
}

func readGoldenReplicated(t *testing.T, dir string) {
	s, err := Open(dir, goldenReplicated())
	must(t, err)
	checkContents(t, s, goldenReplicatedKeys, []string{"void"})
	if index, term := s.Applied(); index != 6 || term != 2 {
		t.Errorf("applied %d of term %d", index, term)
	}
	if first, last := s.FirstIndex(), s.LastIndex(); first != 3 || last != 8 {
		t.Errorf("the log is %d to %d", first, last)
	}
	for _, want := range goldenLog()[2:] {
		got, err := s.Entry(want.Index)
		if err != nil || got.Term != want.Term || got.Kind != want.Kind || !bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Ext, want.Ext) {
			t.Errorf("entry %d: %+v, %v", want.Index, got, err)
		}
	}
	must(t, s.Commit(8))
	if v, err := s.Get([]byte("b")); err != nil || string(v) != "not committed" {
		t.Errorf("b after the commit: %q, %v", v, err)
	}
	if _, err := s.Get([]byte("c")); !errors.Is(err, ErrNotFound) {
		t.Errorf("c after the commit: %v", err)
	}
	must(t, s.Close())
}

var goldenStream = filepath.Join(goldenDir, "checkpoint.stream")

func writeGoldenStream(t *testing.T) {
	must(t, os.WriteFile(goldenStream, goldenStreamOf(t, goldenCopy(t, "replicated")), 0o644))
}

// goldenStreamOf is the stream of the present state of the store in dir.
func goldenStreamOf(t *testing.T, dir string) []byte {
	t.Helper()
	s, err := Open(dir, goldenReplicated())
	must(t, err)
	defer func() { must(t, s.Close()) }()
	return streamOf(t, s)
}

func readGoldenStream(t *testing.T) {
	golden, err := os.ReadFile(goldenStream)
	must(t, err)
	if !bytes.Equal(goldenStreamOf(t, goldenCopy(t, "replicated")), golden) {
		t.Error("the stream of the same files is another than in version 1")
	}
	s, err := Open(filepath.Join(t.TempDir(), "receiver"), goldenReplicated())
	must(t, err)
	staging, err := s.Receive()
	must(t, err)
	_, err = staging.Write(golden)
	must(t, errors.Join(err, staging.Verify(), s.Adopt(staging, "received", nil)))
	checkContents(t, s, goldenReplicatedKeys, []string{"void"})
	must(t, s.Close())
}

// checkContents compares by all ways to read.
func checkContents(t *testing.T, s *Store, want map[string]string, gone []string) {
	t.Helper()
	for key, value := range want {
		if got, err := s.Get([]byte(key)); err != nil || string(got) != value {
			t.Errorf("%.40q: %.40q, %v", key, got, err)
		}
	}
	for _, key := range gone {
		if got, err := s.Get([]byte(key)); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q is back: %q, %v", key, got, err)
		}
	}
	seen := 0
	must(t, s.Scan(nil, func(key, value []byte) error {
		seen++
		if v, ok := want[string(key)]; !ok || v != string(value) {
			return fmt.Errorf("scan: %.40q is %.40q", key, value)
		}
		return nil
	}))
	if seen != len(want) {
		t.Errorf("the scan saw %d keys of %d", seen, len(want))
	}
}
