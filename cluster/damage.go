package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// A node whose disk has damaged what it stores must not go on: a majority believes that it has those entries. It stops,
// and says how it comes back: as a new member that the others fill. But damage may turn up on several nodes at once, in
// different places. While the others could not go on without this one, it serves what is intact.

// watchedStore notes damage that reads meet. Opening the store, truncating and merging meet it in their own ways.
type watchedStore struct {
	*bitcask.Store
	note func(error)
}

// Read implements engine.
func (w *watchedStore) Read(key, buf []byte) ([]byte, bitcask.Item, error) {
	value, item, err := w.Store.Read(key, buf)
	if err != nil && errors.Is(err, bitcask.ErrCorrupt) {
		w.note(err)
	}
	return value, item, err
}

// noteDamage keeps the first damage that was met.
func (g *Group) noteDamage(err error) {
	if g.damage.CompareAndSwap(nil, &err) {
		g.log.Error("stored data is damaged; what is intact is served as long as the other nodes could not go on without this one", "error", err)
	}
}

// foundDamage is nil as long as none was met.
func (g *Group) foundDamage() error {
	if found := g.store.Stats().Scrub.Damage; len(found) > 0 {
		d := found[0]
		g.noteDamage(fmt.Errorf("%w: the scrub found %s damaged at offset %d: %s", bitcask.ErrCorrupt, d.File, d.Offset, d.Reason))
	}
	if err := g.damage.Load(); err != nil {
		return *err
	}
	return nil
}

// stopIfDamaged ends a node that has met damage, when the others can go on without it.
func (n *Node) stopIfDamaged(ctx context.Context) {
	damage := n.group.foundDamage()
	s := n.group.session()
	if damage == nil || s == nil || !n.spared(ctx, s) {
		return
	}
	if n.group.IsLeader() {
		if err := n.group.Transfer(ctx, ""); err != nil {
			n.log.Warn("leadership was not handed over; the others will elect a leader", "error", err)
		}
	}
	n.fatal.stop(damage)
}

// spared tells whether a majority of the voters answers without this node.
func (n *Node) spared(ctx context.Context, s *session) bool {
	c, err := n.examine(ctx, s, n.ID())
	if err != nil {
		return false
	}
	if c.target.Suffrage != raft.Voter {
		return true
	}
	healthy := 0
	for _, id := range c.voters {
		if _, ok := c.answers[id]; ok {
			healthy++
		}
	}
	return healthy > (len(c.voters)+1)/2
}
