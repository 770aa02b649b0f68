package cluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/raftcask/raftcask/bitcask"
)

func noWatch() *stallWatch { return newStallWatch(time.Hour, time.Hour, func(error) {}) }

func testStable(t *testing.T, path string) *stableStore {
	t.Helper()
	s, err := openStable(path, noWatch(), func(err error) { t.Errorf("fatal: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// castVote is what raft.persistVote does; crash ends the process between its two writes.
func castVote(t *testing.T, s raft.StableStore, term uint64, candidate string, crash bool) {
	t.Helper()
	if err := s.SetUint64(keyLastVoteTerm, term); err != nil {
		t.Fatal(err)
	}
	if crash {
		return
	}
	if err := s.Set(keyLastVoteCand, []byte(candidate)); err != nil {
		t.Fatal(err)
	}
}

func readVote(t *testing.T, s raft.StableStore) (uint64, string) {
	t.Helper()
	term, err := s.GetUint64(keyLastVoteTerm)
	if err != nil {
		t.Fatal(err)
	}
	candidate, err := s.Get(keyLastVoteCand)
	if err != nil {
		t.Fatal(err)
	}
	return term, string(candidate)
}

// TestCrashBetweenTheTwoWritesOfAVote: hashicorp/raft#661. The same script on the bare store shows the bug.
func TestCrashBetweenTheTwoWritesOfAVote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := testStable(t, path)
	castVote(t, s, 5, "a:1", false)
	castVote(t, s, 6, "b:1", true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStable(t, path)
	defer s.Close()
	if term, candidate := readVote(t, s); term != 5 || candidate != "a:1" {
		t.Errorf("after the crash: voted for %s in term %d; the vote for a:1 in term 5 was the last", candidate, term)
	}
	castVote(t, s, 6, "c:1", false)
	if term, candidate := readVote(t, s); term != 6 || candidate != "c:1" {
		t.Errorf("voted for %s in term %d, want c:1 in 6", candidate, term)
	}

	bare, err := raftboltdb.NewBoltStore(filepath.Join(t.TempDir(), "bare.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	castVote(t, bare, 5, "a:1", false)
	castVote(t, bare, 6, "b:1", true)
	if term, candidate := readVote(t, bare); term != 6 || candidate != "a:1" {
		t.Errorf("the bare store has %s in term %d: if raft-boltdb is atomic now, the wrapper can go", candidate, term)
	}
}

func TestStableStoreKeepsWhatRaftStores(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	db, err := bbolt.Open(path, 0o600, boltOptions(false)) // by a process that was killed before it made the bucket
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	s := testStable(t, path)
	// raft compares the text.
	if _, err := s.GetUint64(keyCurrentTerm); err == nil || err.Error() != "not found" {
		t.Errorf("CurrentTerm of a new store: %v", err)
	}
	if _, err := s.GetUint64(keyLastVoteTerm); err == nil || err.Error() != "not found" {
		t.Errorf("LastVoteTerm of a new store: %v", err)
	}
	if _, err := s.Get(keyLastVoteCand); err == nil || err.Error() != "not found" {
		t.Errorf("LastVoteCand of a new store: %v", err)
	}
	if term := s.term(); term != 0 {
		t.Errorf("term of a new store: %d", term)
	}
	if err := s.SetUint64(keyCurrentTerm, 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("other"), []byte("value")); err == nil {
		t.Error("a value was stored that no checksum covers")
	}
	if err := s.Set(keyLastVoteCand, []byte("x")); err == nil {
		t.Error("a candidate without a term was stored")
	}
	_ = s.Close()
	s = testStable(t, path)
	defer s.Close()
	if term := s.term(); term != 1<<40 {
		t.Errorf("term is %d", term)
	}
	if _, err := openStable(path, noWatch(), func(error) {}); err == nil {
		t.Error("two processes have the file")
	}
}

// brokenValues fails every write.
type brokenValues struct{ keyValues }

func (brokenValues) Set(_, _ []byte) error { return errors.New("input/output error") }

func TestFailedWriteOfTermOrVoteIsFatal(t *testing.T) {
	var fatal []error
	s := &stableStore{db: brokenValues{}, watch: noWatch(), onFatal: func(err error) { fatal = append(fatal, err) }}
	if err := s.SetUint64(keyCurrentTerm, 1); err == nil {
		t.Error("the term was stored on a broken disk")
	}
	_ = s.SetUint64(keyLastVoteTerm, 1)
	if err := s.Set(keyLastVoteCand, []byte("a")); err == nil {
		t.Error("the vote was stored on a broken disk")
	}
	if len(fatal) != 2 || !bytes.Contains([]byte(fatal[0].Error()), []byte("term and vote")) {
		t.Errorf("fatal: %v", fatal)
	}
}

// TestDamagedTermOrVoteIsRefused: a vote that a disk has changed would be one that was never cast.
func TestDamagedTermOrVoteIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := testStable(t, path)
	castVote(t, s, 9, "10.0.0.1:9379", false)
	if err := errors.Join(s.SetUint64(keyCurrentTerm, 9), s.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	value := s.stored.encode()
	for at := range value {
		data := bytes.Clone(whole)
		for from := 0; ; { // an older page may have it too
			i := bytes.Index(whole[from:], value)
			if i < 0 {
				break
			}
			from += i + 1
			data[from-1+at] ^= 4
		}
		if bytes.Equal(data, whole) {
			t.Fatal("the file does not hold the value as it is")
		}
		damaged := filepath.Join(t.TempDir(), "raft.db")
		if err := os.WriteFile(damaged, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openStable(damaged, noWatch(), func(error) {}); !errors.Is(err, bitcask.ErrCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(damaged)) {
			t.Errorf("byte %d of the value: %v", at, err)
		}
	}
}

// TestDamagedPageOfRaftDBIsRefusedWithASentence: BoltDB panics where a page is not the one that it should be.
func TestDamagedPageOfRaftDBIsRefusedWithASentence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := testStable(t, path)
	castVote(t, s, 9, "10.0.0.1:9379", false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * os.Getpagesize(); at < len(whole); at += os.Getpagesize() {
		whole[at] ^= 16 // the number of the page
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStable(path, noWatch(), func(error) {}); !errors.Is(err, bitcask.ErrCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Errorf("got %v", err)
	}
}

// TestVoteOfAnEarlierVersionIsTaken: its file has the term and the vote beside each other, without a checksum.
func TestVoteOfAnEarlierVersionIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	old, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(false)})
	if err != nil {
		t.Fatal(err)
	}
	vote := []byte("\x00\x00\x00\x00\x00\x00\x00\x05a:1")
	if err := errors.Join(old.SetUint64(keyCurrentTerm, 5), old.Set(keyVote, vote), old.Close()); err != nil {
		t.Fatal(err)
	}
	for _, term := range []uint64{5, 6} {
		s := testStable(t, path)
		if got := s.term(); got != term {
			t.Errorf("term %d, want %d", got, term)
		}
		if term, candidate := readVote(t, s); term != 5 || candidate != "a:1" {
			t.Errorf("voted for %s in term %d, want a:1 in 5", candidate, term)
		}
		if err := errors.Join(s.SetUint64(keyCurrentTerm, 6), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
