package cluster

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
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
	if term, err := s.term(); term != 0 || err != nil {
		t.Errorf("term of a new store: %d, %v", term, err)
	}
	if err := s.SetUint64(keyCurrentTerm, 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("other"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(keyLastVoteCand, []byte("x")); err == nil {
		t.Error("a candidate without a term was stored")
	}
	_ = s.Close()
	s = testStable(t, path)
	defer s.Close()
	if term, err := s.term(); term != 1<<40 || err != nil {
		t.Errorf("term is %d, %v", term, err)
	}
	if v, err := s.Get([]byte("other")); string(v) != "value" || err != nil {
		t.Errorf("other is %q, %v", v, err)
	}
	if _, err := openStable(path, noWatch(), func(error) {}); err == nil {
		t.Error("two processes have the file")
	}
}

// brokenValues fails every write.
type brokenValues struct{ keyValues }

func (brokenValues) Set([]byte, []byte) error { return errors.New("input/output error") }

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
	if len(fatal) != 2 || !bytes.Contains([]byte(fatal[0].Error()), []byte("CurrentTerm")) {
		t.Errorf("fatal: %v", fatal)
	}
}
