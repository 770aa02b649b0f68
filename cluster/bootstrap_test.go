package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// foundry is a set of new nodes without gossip and raft: only the founding of clusters.
type foundry struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*founder
	// lose decides whether a message from one node to another is lost, before or after it had its effect.
	lose func(from, to, op string) (before, after bool)
}

type founder struct {
	id       string
	expect   int
	fs       *vfs.Mem
	sees     func(id string) bool // gossip
	boot     *bootstrapper
	identity *identityStore
	down     bool
	founded  []string // configurations that raft was given
}

func newFoundry(t *testing.T) *foundry {
	return &foundry{t: t, nodes: map[string]*founder{}, lose: func(string, string, string) (bool, bool) { return false, false }}
}

func (f *foundry) add(id string, expect int) *founder {
	n := &founder{id: id, expect: expect, fs: vfs.NewMem(), sees: func(string) bool { return true }}
	f.nodes[id] = n
	f.start(n)
	return n
}

// start begins a life of the process.
func (f *foundry) start(n *founder) {
	f.t.Helper()
	identity, err := openIdentity(n.fs, "data", n.id)
	if err != nil {
		f.t.Fatal(err)
	}
	n.identity, n.down = identity, false
	n.boot = &bootstrapper{
		self: setMember{n.id, n.id + ":1"}, expect: n.expect, identity: identity, log: quiet(),
		members: func() []member { return f.seen(n) },
		ask: func(_ context.Context, id, _ string, req controlRequest) (controlAnswer, error) {
			return f.deliver(n, id, req)
		},
		found: func(_ context.Context, members []setMember) error {
			n.founded = append(n.founded, fmt.Sprint(members))
			return nil
		},
	}
}

func (f *foundry) seen(n *founder) []member {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []member
	for id, m := range f.nodes {
		if id != n.id && !m.down && n.sees(id) {
			out = append(out, member{ID: id, PeerAddr: id + ":1", Expect: m.expect, ClusterID: m.identity.get().ClusterID})
		}
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (f *foundry) deliver(from *founder, to string, req controlRequest) (controlAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.lose(from.id, to, req.Op)
	m := f.nodes[to]
	if before || m == nil || m.down {
		return controlAnswer{}, errors.New("unreachable")
	}
	a := controlAnswer{OK: true}
	var err error
	switch req.Op {
	case opPrepare:
		err = m.boot.prepare(req.Set, &a)
	case opReject:
		err = m.boot.reject(req.ClusterID, &a)
	}
	if err != nil || after {
		return controlAnswer{}, errors.Join(err, errors.New("no answer"))
	}
	id := m.identity.get()
	a.Node, a.ClusterID, a.Prepared = id.NodeID, id.ClusterID, id.Prepared
	return a, nil
}

// step lets one node do a step; errors are part of the game.
func (f *foundry) step(id string) { _, _ = f.nodes[id].boot.step(context.Background()) }

// settle steps all nodes until nothing changes any more.
func (f *foundry) settle() {
	for range 20 {
		for _, id := range f.ids() {
			if !f.nodes[id].down {
				f.step(id)
			}
		}
	}
}

func (f *foundry) ids() []string {
	var ids []string
	for id := range f.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// clusters lists the clusters that nodes are in, and fails if raft could split.
func (f *foundry) clusters() map[string][]string {
	f.t.Helper()
	clusters := map[string][]string{}
	configurations := map[string]string{}
	for _, id := range f.ids() {
		n := f.nodes[id]
		for _, c := range n.founded {
			if c != n.founded[0] {
				f.t.Errorf("%s was given two configurations: %v", id, n.founded)
			}
		}
		cluster := n.identity.get().ClusterID
		if cluster == "" {
			continue
		}
		clusters[cluster] = append(clusters[cluster], id)
		if len(n.founded) > 0 {
			if was := configurations[cluster]; was != "" && was != n.founded[0] {
				f.t.Errorf("cluster %s has two configurations: %s and %s", cluster, was, n.founded[0])
			}
			configurations[cluster] = n.founded[0]
		}
	}
	return clusters
}

func (f *foundry) wantOneCluster(members ...string) {
	f.t.Helper()
	clusters := f.clusters()
	if len(clusters) != 1 {
		f.t.Fatalf("clusters: %v", clusters)
	}
	for _, got := range clusters {
		if !slices.Equal(got, members) {
			f.t.Errorf("members %v, want %v", got, members)
		}
	}
	for _, id := range members {
		if len(f.nodes[id].founded) == 0 {
			f.t.Errorf("%s has not founded the cluster in raft", id)
		}
	}
}

func TestExpectedNodesFoundOneCluster(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5} {
		f := newFoundry(t)
		var ids []string
		for i := range n {
			if clusters := f.clusters(); len(clusters) != 0 {
				t.Fatalf("%d of %d nodes founded %v", i, n, clusters)
			}
			id := fmt.Sprint("n", i)
			f.add(id, n)
			ids = append(ids, id)
			f.settle()
		}
		f.wantOneCluster(ids...)
	}
}

func TestNodesThatExpectAnotherNumberDoNotCount(t *testing.T) {
	f := newFoundry(t)
	f.add("a", 3)
	f.add("b", 3)
	f.add("c", 0)
	f.add("d", 2)
	f.settle()
	if clusters := f.clusters(); len(clusters) != 0 {
		t.Errorf("founded %v", clusters)
	}
	f.add("e", 3)
	f.settle()
	f.wantOneCluster("a", "b", "e")
}

func TestNewNodesWaitWhenThereIsACluster(t *testing.T) {
	f := newFoundry(t)
	f.add("b", 1)
	f.settle()
	f.wantOneCluster("b")
	f.add("a", 2)
	f.add("c", 2)
	f.settle()
	f.wantOneCluster("b")
}

func TestDeadCoordinatorIsReplaced(t *testing.T) {
	f := newFoundry(t)
	a := f.add("a", 3)
	f.add("b", 3)
	f.add("c", 3)
	f.lose = func(from, to, op string) (bool, bool) { return from == "a" && to == "c" && op == opPrepare, false }
	// a's proposal reaches b only; then a dies, for a while.
	f.step("a")
	if f.nodes["b"].identity.get().Prepared == nil || f.nodes["c"].identity.get().Prepared != nil {
		t.Fatal("the proposal did not get where it should")
	}
	a.down = true
	f.settle()
	if clusters := f.clusters(); len(clusters) != 0 {
		t.Errorf("founded %v without a", clusters)
	}
	if f.nodes["c"].identity.get().Prepared == nil {
		t.Error("b did not go on with the proposal")
	}
	f.start(a)
	f.settle()
	f.wantOneCluster("a", "b", "c")
}

func TestNodeThatMissedTheDecisionFollows(t *testing.T) {
	f := newFoundry(t)
	f.add("a", 3)
	f.add("b", 3)
	c := f.add("c", 3)
	f.lose = func(_, to, op string) (bool, bool) { return false, to == "c" && op == opPrepare } // c agrees, and nobody hears it
	f.settle()
	if got := f.clusters(); len(got) != 1 { // but c hears the others
		t.Fatalf("clusters %v", got)
	}
	c.down = true
	f.lose = func(string, string, string) (bool, bool) { return false, false }
	f.settle()
	f.start(c)
	f.settle()
	f.wantOneCluster("a", "b", "c")
}

func TestCrashAfterTheDecision(t *testing.T) {
	f := newFoundry(t)
	a := f.add("a", 1)
	a.boot.found = func(context.Context, []setMember) error { return errors.New("the process dies here") }
	f.settle()
	if a.identity.get().ClusterID == "" {
		t.Fatal("nothing was decided")
	}
	f.start(a)
	f.settle()
	f.wantOneCluster("a")
}

func TestConflictingSetsAreResolved(t *testing.T) {
	for _, order := range []struct{ first, second string }{{"1", "2"}, {"2", "1"}} {
		f := newFoundry(t)
		for _, id := range []string{"a", "b", "c", "d"} {
			f.add(id, 3)
		}
		// a and d have agreed to different sets that share b and c, in either order of ids.
		prepared := func(id, cluster string, members ...string) {
			set := &bootstrapSet{ClusterID: cluster}
			for _, m := range members {
				set.Members = append(set.Members, setMember{m, m + ":1"})
			}
			if err := f.nodes[id].identity.update(func(id *identity) error { id.Prepared = set; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		prepared("a", order.first, "a", "b", "c")
		prepared("b", order.first, "a", "b", "c")
		prepared("d", order.second, "b", "c", "d")
		prepared("c", order.second, "b", "c", "d")
		f.settle()
		if clusters := f.clusters(); len(clusters) != 1 {
			t.Errorf("%v: clusters %v", order, clusters)
		}
	}
}

func TestNodeKeepsItsPromises(t *testing.T) {
	f := newFoundry(t)
	n := f.add("a", 2)
	set := &bootstrapSet{ClusterID: "s", Members: []setMember{{"a", "a:1"}, {"b", "b:1"}}}
	ask := func(req controlRequest) controlAnswer {
		a, err := f.deliver(&founder{id: "test"}, "a", req)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(controlRequest{Op: opReject, ClusterID: "s"}); !a.OK {
		t.Fatalf("no promise: %+v", a)
	}
	f.start(n) // the promise is on disk
	if a := ask(controlRequest{Op: opPrepare, Set: set}); a.OK || !a.Never {
		t.Errorf("it agreed to what it promised not to: %+v", a)
	}
	other := &bootstrapSet{ClusterID: "o", Members: set.Members}
	if a := ask(controlRequest{Op: opPrepare, Set: other}); !a.OK {
		t.Errorf("it did not agree: %+v", a)
	}
	if a := ask(controlRequest{Op: opReject, ClusterID: "o"}); a.OK {
		t.Errorf("it promised not to agree to what it has agreed to: %+v", a)
	}
	if a := ask(controlRequest{Op: opPrepare, Set: &bootstrapSet{ClusterID: "p", Members: set.Members}}); a.OK {
		t.Errorf("it agreed to two sets: %+v", a)
	}
	if a := ask(controlRequest{Op: opPrepare, Set: &bootstrapSet{ClusterID: "q", Members: []setMember{{"x", "x"}, {"b", "b"}}}}); a.OK {
		t.Errorf("it agreed to a set without it: %+v", a)
	}
}

// TestFoundingUnderFaults: random schedules with lost messages, partial gossip and crashes. No node is ever
// given two configurations, no cluster two; and once the faults end, the nodes get together.
func TestFoundingUnderFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 200 {
		f := newFoundry(t)
		ids := []string{"a", "b", "c", "d"}[:3+rng.IntN(2)]
		for _, id := range ids {
			n := f.add(id, 3)
			n.sees = func(string) bool { return rng.IntN(3) > 0 }
		}
		f.lose = func(string, string, string) (bool, bool) { return rng.IntN(3) == 0, rng.IntN(3) == 0 }
		for range 60 {
			n := f.nodes[ids[rng.IntN(len(ids))]]
			switch rng.IntN(10) {
			case 0:
				n.down = true
			case 1:
				n.fs = n.fs.CrashClone(rng)
				f.start(n)
			default:
				if !n.down {
					f.step(n.id)
				}
			}
			f.clusters()
		}
		f.lose = func(string, string, string) (bool, bool) { return false, false }
		for _, n := range f.nodes {
			n.sees = func(string) bool { return true }
			f.start(n)
			n.boot.conflictSince = time.Now().Add(-2 * conflictPatience)
		}
		f.settle()
		clusters := f.clusters()
		if len(clusters) != 1 {
			for _, id := range f.ids() {
				t.Logf("%s: %+v", id, f.nodes[id].identity.get())
			}
			t.Fatalf("round %d: clusters %v", round, clusters)
		}
		for _, members := range clusters {
			if len(members) != 3 {
				for _, id := range f.ids() {
					t.Logf("%s: %+v %+v", id, f.nodes[id].identity.get(), f.nodes[id].identity.get().Prepared)
				}
				t.Fatalf("round %d: members %v", round, members)
			}
		}
	}
}
