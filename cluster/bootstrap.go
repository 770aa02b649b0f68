package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// bootstrapper founds a new cluster together with the other new nodes.
//
// When a node knows as many new nodes as it expects, and none that is in a cluster, the one with the smallest
// id draws a cluster id and proposes the set to all of its members. A node agrees to one set at a time, on
// disk before it answers. Any node that agreed may go on with the proposal, so it survives the death of the
// one that made it. When all members of a set have agreed to it, each founds the cluster with the same
// configuration; raft then knows it for the same cluster.
//
// Why two different sets can never both found a cluster that shares a member: a set needs the agreement of all
// its members. A node withdraws from a set only on the word of a member that never agreed to it and has
// promised, on disk, that it never will. So once a node has withdrawn, the set cannot become unanimous, and
// before that no node can have seen it unanimous.
type bootstrapper struct {
	self     setMember
	expect   int
	identity *identityStore
	members  func() []member // other nodes that are alive
	ask      func(ctx context.Context, id, addr string, req controlRequest) (controlAnswer, error)
	found    func(ctx context.Context, members []setMember) error // raft's bootstrap
	log      *slog.Logger

	founded       bool      // found has returned nil in this process
	conflictSince time.Time // a member agreed to another set
}

// conflictPatience is how long the better of two sets in conflict waits for the other to be withdrawn.
const conflictPatience = 5 * time.Second

// step does what can be done now; the node repeats it until it returns true: the node is in a cluster.
// Called by one goroutine.
func (b *bootstrapper) step(ctx context.Context) (done bool, err error) {
	id := b.identity.get()
	switch {
	case id.ClusterID != "":
		return true, b.finish(ctx, &id)
	case id.Prepared != nil:
		return b.pursue(ctx, id.Prepared)
	case b.expect == 0 || id.Removed:
		return false, nil
	}
	set, err := b.propose(ctx)
	if err != nil || set == nil {
		return false, err
	}
	return b.pursue(ctx, set)
}

// finish founds the cluster in raft, also if the process died between the decision and this.
func (b *bootstrapper) finish(ctx context.Context, id *identity) error {
	if b.founded || id.Prepared == nil || id.Prepared.ClusterID != id.ClusterID || id.Started {
		return nil
	}
	if err := b.found(ctx, id.Prepared.Members); err != nil {
		return fmt.Errorf("found cluster %s: %w", id.ClusterID, err)
	}
	b.founded = true
	return nil
}

// propose makes a set if this node is the one to do so, and agrees to it.
func (b *bootstrapper) propose(ctx context.Context) (*bootstrapSet, error) {
	fresh := []setMember{b.self}
	for _, m := range b.members() {
		if m.ClusterID != "" {
			return nil, nil // there is a cluster: its leader will welcome this node
		}
		if m.Expect == b.expect && !m.Removed {
			fresh = append(fresh, setMember{m.ID, m.PeerAddr})
		}
	}
	if len(fresh) < b.expect {
		return nil, nil
	}
	slices.SortFunc(fresh, func(x, y setMember) int { return strings.Compare(x.ID, y.ID) })
	fresh = fresh[:b.expect]
	if fresh[0].ID != b.self.ID {
		return nil, nil
	}
	for _, m := range fresh[1:] {
		a, err := b.ask(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState})
		if err != nil || a.ClusterID != "" || a.Prepared != nil {
			return nil, err // whoever agreed to a set will bring it here
		}
	}
	set := &bootstrapSet{ClusterID: uuid.NewString(), Members: fresh}
	err := b.identity.update(func(id *identity) error {
		if id.ClusterID != "" || id.Prepared != nil {
			set = nil // another's proposal came in meanwhile
			return nil
		}
		id.Prepared = set
		return nil
	})
	if err == nil && set != nil {
		b.log.Info("proposing a new cluster", "cluster_id", set.ClusterID, "members", len(set.Members))
	}
	return set, err
}

// pursue asks all members of a set that this node agreed to, and founds the cluster when all have agreed.
func (b *bootstrapper) pursue(ctx context.Context, set *bootstrapSet) (done bool, err error) {
	members := b.members()
	type answer struct {
		from setMember
		controlAnswer
		err error
	}
	answers := make(chan answer, len(set.Members))
	asked := 0
	for _, m := range set.Members {
		if m.ID == b.self.ID {
			continue
		}
		asked++
		go func() { // ends with its call, which this function waits for
			m.PeerAddr = peerAddrOf(members, m.ID, m.PeerAddr)
			a, err := b.ask(ctx, m.ID, m.PeerAddr, controlRequest{Op: opPrepare, Set: set})
			answers <- answer{m, a, err}
		}()
	}
	agreed, decided := 0, false
	var against *answer
	for range asked {
		switch a := <-answers; {
		case a.err != nil:
			err = a.err
		case a.ClusterID == set.ClusterID:
			decided = true // it has seen that all agreed
		case a.OK:
			agreed++
		case a.ClusterID == "" && a.Prepared == nil && !a.Never:
			err = fmt.Errorf("%s does not agree to found a cluster: %s", a.from.ID, a.Reason)
		default:
			against = &a
		}
	}
	if decided || agreed == asked {
		return true, b.decide(ctx, set)
	}
	if against == nil {
		b.conflictSince = time.Time{}
		return false, err
	}
	if b.conflictSince.IsZero() {
		b.conflictSince = time.Now()
	}
	// Of two sets in conflict that with the smaller cluster id goes on.
	other := against.Prepared
	if other != nil && against.ClusterID == "" && other.ClusterID > set.ClusterID && time.Since(b.conflictSince) < conflictPatience {
		return false, nil
	}
	return false, b.withdraw(ctx, set, against.from)
}

// decide makes this node a member of the cluster that all have agreed to.
func (b *bootstrapper) decide(ctx context.Context, set *bootstrapSet) error {
	err := b.identity.update(func(id *identity) error {
		if id.ClusterID == "" && (id.Prepared == nil || id.Prepared.ClusterID != set.ClusterID) {
			return fmt.Errorf("%w: cluster %s is unanimous, but this node does not agree to it", ErrIdentity, set.ClusterID)
		}
		if id.ClusterID == "" {
			id.ClusterID = set.ClusterID
		}
		return nil
	})
	if err != nil {
		return err
	}
	id := b.identity.get()
	b.log.Info("founding a cluster", "cluster_id", id.ClusterID, "members", len(set.Members))
	return b.finish(ctx, &id)
}

// withdraw takes the agreement to a set back, on the promise of a member that has never agreed to it.
func (b *bootstrapper) withdraw(ctx context.Context, set *bootstrapSet, from setMember) error {
	a, err := b.ask(ctx, from.ID, from.PeerAddr, controlRequest{Op: opReject, ClusterID: set.ClusterID})
	if err != nil {
		return err
	}
	if !a.OK {
		return nil // it has agreed by now
	}
	b.conflictSince = time.Time{}
	b.log.Info("withdrawing from a cluster that cannot be founded", "cluster_id", set.ClusterID, "because_of", from.ID)
	return b.identity.update(func(id *identity) error {
		if id.ClusterID == "" && id.Prepared != nil && id.Prepared.ClusterID == set.ClusterID {
			id.Prepared = nil
			id.Never = addNever(id.Never, set.ClusterID)
		}
		return nil
	})
}

// prepare answers a proposal.
func (b *bootstrapper) prepare(set *bootstrapSet, a *controlAnswer) error {
	if set == nil || set.ClusterID == "" || !set.has(b.self.ID) {
		a.refuse("the proposed set does not contain %s", b.self.ID)
		return nil
	}
	id := b.identity.get()
	switch {
	case id.ClusterID == "" && id.Prepared != nil && id.Prepared.ClusterID == set.ClusterID:
		return nil // asked again: nothing to write
	case id.ClusterID != "":
		a.refuse("it belongs to cluster %s", id.ClusterID)
		return nil
	}
	return b.identity.update(func(id *identity) error {
		switch {
		case id.ClusterID != "":
			a.refuse("it belongs to cluster %s", id.ClusterID)
		case id.Prepared != nil && id.Prepared.ClusterID != set.ClusterID:
			a.refuse("it has agreed to cluster %s", id.Prepared.ClusterID)
		case slices.Contains(id.Never, set.ClusterID):
			a.refuse("it has promised not to agree to cluster %s", set.ClusterID)
			a.Never = true
		case id.Removed:
			a.refuse("it was removed from a cluster")
		case b.expect != len(set.Members):
			a.refuse("it expects %d nodes (--bootstrap-expect), not %d", b.expect, len(set.Members))
		default:
			id.Prepared = set
		}
		return nil
	})
}

// reject promises never to agree to a set, unless this node has.
func (b *bootstrapper) reject(clusterID string, a *controlAnswer) error {
	return b.identity.update(func(id *identity) error {
		switch {
		case clusterID == "" || id.ClusterID == clusterID, id.Prepared != nil && id.Prepared.ClusterID == clusterID:
			a.refuse("it has agreed to cluster %s", clusterID)
		case !slices.Contains(id.Never, clusterID):
			id.Never = addNever(id.Never, clusterID)
		}
		return nil
	})
}

func addNever(never []string, clusterID string) []string {
	return append(slices.Clone(never), clusterID)
}
