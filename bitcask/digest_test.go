package bitcask

import (
	"context"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// digestReplica applies the same log as every other replica: overwrites, a delete and keys that expire at 2,000.
func digestReplica(t *testing.T, change func(entries []Entry)) (*vfs.Mem, *Store) {
	t.Helper()
	fs := vfs.NewMem()
	o := replicatedOptions(fs)
	o.SegmentBytes = 400
	s := mustOpen(t, fs, o)
	var entries []Entry
	for i := uint64(1); i <= 60; i++ {
		var b Batch
		b.Reset(1, int64(i*100)) // the log's time passes the expiry on the way
		key := []byte{'a' + byte(i%7)}
		switch i % 10 {
		case 3:
			must(t, b.Put(append(key, "-expires"...), []byte("soon"), 2000))
		case 7:
			must(t, b.Delete(key))
		default:
			must(t, b.Put(key, []byte{byte(i)}, 0))
		}
		entries = append(entries, Entry{Index: i, Term: 1, Kind: KindData, Data: b.Detach()})
	}
	change(entries)
	must(t, s.Append(entries))
	must(t, s.Commit(60))
	return fs, s
}

func mustDigest(t *testing.T, s *Store) Digest {
	t.Helper()
	d, err := s.Digest()
	must(t, err)
	return d
}

func TestReplicasOfOneLogHaveOneDigest(t *testing.T) {
	_, plain := digestReplica(t, func([]Entry) {})
	defer func() { must(t, plain.Close()) }()
	want := mustDigest(t, plain)
	if want.AppliedIndex != 60 || want.AppliedTerm != 1 || want.Keys == 0 || want.Keys > 7 {
		t.Errorf("got %+v", want)
	}
	fs, merged := digestReplica(t, func([]Entry) {})
	merged.ForgetBefore(61)
	must(t, merged.Merge(context.Background()))
	if got := mustDigest(t, merged); got != want {
		t.Errorf("after a merge %+v, want %+v", got, want)
	}
	must(t, merged.Close())
	merged = mustOpen(t, fs, replicatedOptions(fs))
	must(t, merged.Commit(merged.LastIndex()))
	if got := mustDigest(t, merged); got != want {
		t.Errorf("merged and reopened %+v, want %+v", got, want)
	}
	must(t, merged.Close())
}

func TestDigestSeesEveryDifference(t *testing.T) {
	_, plain := digestReplica(t, func([]Entry) {})
	defer func() { must(t, plain.Close()) }()
	want := mustDigest(t, plain)
	put := func(index int, key, value string, expireAt int64) func([]Entry) {
		return func(entries []Entry) {
			var b Batch
			b.Reset(1, int64(index*100))
			if key != "" {
				must(t, b.Put([]byte(key), []byte(value), expireAt))
			}
			entries[index-1].Data = b.Detach()
		}
	}
	for name, change := range map[string]func([]Entry){
		"a value":      put(60, "e", "?", 0),
		"an expiry":    put(60, "e", "\x3c", 1<<40),
		"one key more": put(60, "z", "\x3c", 0),
		"a lost write": put(59, "", "", 0),
	} {
		_, other := digestReplica(t, change)
		if got := mustDigest(t, other); got.Sum == want.Sum {
			t.Errorf("%s is not seen", name)
		}
		must(t, other.Close())
	}
	_, earlier := digestReplica(t, func(e []Entry) { put(60, "", "", 0)(e); put(59, "d", "x", 0)(e) })
	_, later := digestReplica(t, func(e []Entry) { put(60, "d", "x", 0)(e); put(59, "", "", 0)(e) })
	if mustDigest(t, earlier).Sum == mustDigest(t, later).Sum {
		t.Error("another version is not seen")
	}
	must(t, earlier.Close())
	must(t, later.Close())
}
