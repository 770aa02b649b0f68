package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

func mustIdentity(t *testing.T, fs vfs.FS, want string) *identityStore {
	t.Helper()
	s, err := openIdentity(fs, "data", want)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIdentityIsKept(t *testing.T) {
	fs := vfs.NewMem()
	s := mustIdentity(t, fs, "")
	id := s.get().NodeID
	if id == "" {
		t.Fatal("no id was generated")
	}
	set := &bootstrapSet{ClusterID: "c1", Members: []setMember{{"a", "a:1"}}}
	if err := s.update(func(id *identity) error { id.Prepared, id.Never = set, []string{"x"}; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.update(func(id *identity) error { id.ClusterID = "lost"; return errors.New("no") }); err == nil {
		t.Error("the error of a change is lost")
	}
	changes := s.changeCount()
	if err := s.update(func(id *identity) error { id.Never = []string{"x"}; return nil }); err != nil || s.changeCount() != changes {
		t.Errorf("a change of nothing counts: %v", err)
	}
	again := mustIdentity(t, fs, id).get()
	if again.NodeID != id || again.ClusterID != "" || again.Prepared.ClusterID != "c1" || again.Never[0] != "x" {
		t.Errorf("read back: %+v", again)
	}
}

func TestIdentityOfAnotherNodeIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	mustIdentity(t, fs, "n1")
	_, err := openIdentity(fs, "data", "n2")
	if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "n1") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"a b", "x/y", strings.Repeat("x", 65), "ä"} {
		if _, err := openIdentity(vfs.NewMem(), "data", bad); !errors.Is(err, ErrConfig) {
			t.Errorf("id %q: %v", bad, err)
		}
	}
}

func TestDataWithoutIdentityIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll(filepath.Join("data", groupsDir, "0000")); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(fs, "data", "n1"); !errors.Is(err, ErrIdentity) {
		t.Errorf("got %v, want ErrIdentity", err)
	}
	if err := vfs.WriteFileSync(fs, filepath.Join("data", identityFile), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(fs, "data", "n1"); !errors.Is(err, ErrIdentity) {
		t.Errorf("damaged: got %v, want ErrIdentity", err)
	}
}

// TestCrashLeavesTheOldIdentityOrTheNew crashes at every operation of an update.
func TestCrashLeavesTheOldIdentityOrTheNew(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for crashAt := 1; ; crashAt++ {
		mem := vfs.NewMem()
		mustIdentity(t, mem, "n1")
		ops := 0
		var crashed *vfs.Mem
		faulty := vfs.NewFaulty(mem, func(vfs.Op) *vfs.Fault {
			if ops++; ops == crashAt {
				crashed = mem.CrashClone(rng)
			}
			return nil
		})
		s := mustIdentity(t, faulty, "n1")
		err := s.update(func(id *identity) error { id.ClusterID = "c1"; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if crashed == nil {
			if got := mustIdentity(t, mem.CrashClone(rng), "n1").get().ClusterID; got != "c1" {
				t.Errorf("the update was lost: cluster id %q", got)
			}
			return
		}
		if got := mustIdentity(t, crashed, "n1").get(); got.NodeID != "n1" || (got.ClusterID != "" && got.ClusterID != "c1") {
			t.Errorf("crash at operation %d leaves %+v", crashAt, got)
		}
	}
}

func TestStartCheckRefusesWhatWasLost(t *testing.T) {
	good := startState{applied: 50, appliedTerm: 3, first: 10, last: 60, lastTerm: 4, atApplied: 3, snapshot: 20, snapshotApplied: 18, term: 5, started: true}
	for name, c := range map[string]struct {
		change func(st *startState)
		want   string // in the error; empty: it starts
	}{
		"all there":               {func(*startState) {}, ""},
		"new node":                {func(st *startState) { *st = startState{} }, ""},
		"new node that has voted": {func(st *startState) { *st = startState{term: 7} }, ""},
		"only a snapshot":         {func(st *startState) { *st = startState{applied: 20, snapshot: 20, term: 5, started: true} }, ""},
		"snapshot at a barrier": {func(st *startState) {
			*st = startState{applied: 18, snapshot: 20, snapshotApplied: 18, term: 5, started: true}
		}, ""},
		"log lost":                   {func(st *startState) { *st = startState{term: 5, started: true} }, "they were lost"},
		"everything but identity":    {func(st *startState) { *st = startState{started: true} }, "they were lost"},
		"raft.db lost":               {func(st *startState) { st.term = 0 }, "votes"},
		"raft.db of a backup":        {func(st *startState) { st.term = 3 }, "older than the log"},
		"end of the log lost":        {func(st *startState) { st.last, st.atApplied = 40, 0 }, "end of the log"},
		"engine behind the snapshot": {func(st *startState) { st.applied, st.atApplied = 15, 3 }, "snapshot is at"},
		"hole behind the snapshot":   {func(st *startState) { st.first = 22 }, "missing"},
		"no beginning":               {func(st *startState) { st.snapshot = 0 }, "missing"},
		"another log":                {func(st *startState) { st.atApplied = 2 }, "holds one of term"},
	} {
		st := good
		c.change(&st)
		err := st.check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrIdentity) || !strings.Contains(fmt.Sprint(err), c.want)):
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestStatusJSONNames(t *testing.T) {
	data, err := json.Marshal(ClusterStatus{Nodes: []Status{{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cluster_id", "leader", "nodes", "id", "role", "resp_addr", "http_addr", "peer_addr", "term",
		"applied", "commit", "last_contact_ms", "keys", "disk_bytes", "version"} {
		if !strings.Contains(string(data), `"`+name+`":`) {
			t.Errorf("%s is missing in %s", name, data)
		}
	}
}
