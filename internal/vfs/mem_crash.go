package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// SyncDir implements FS: what happened to the names in dir is durable now.
//
// A rename out of another directory becomes durable only in part: the new name stays, and whether
// the old one is gone is still open. The other way round is impossible, or a power loss could take
// both. Real journals promise more; a caller should not need it.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.findDirLocked(dir)
	if err != nil {
		return pathError("sync", dir, err)
	}
	m.pending = splitRenames(m.pending, node)

	// Backwards: an operation becomes durable if it touches dir, or a name that a later
	// operation made durable has touched, so that every name keeps its order of events.
	keep := make([]bool, len(m.pending)) // keep pending
	done := make(map[nameKey]bool)
	for i, op := range slices.Backward(m.pending) {
		keep[i] = !slices.ContainsFunc(op, func(c nameChange) bool { return c.dir == node || done[c.key()] })
		if keep[i] {
			continue
		}
		for _, c := range op {
			done[c.key()] = true
		}
	}
	var rest []dirOp
	for i, op := range m.pending {
		if keep[i] {
			rest = append(rest, op)
			continue
		}
		for _, c := range op {
			setName(c.dir.durable, c.name, c.node)
		}
	}
	m.pending = rest
	return nil
}

// nameKey is one name in one directory.
type nameKey struct {
	dir  *inode
	name string
}

func (c nameChange) key() nameKey { return nameKey{c.dir, c.name} }

// splitRenames makes two operations of each rename of a file from elsewhere into dir.
func splitRenames(ops []dirOp, dir *inode) []dirOp {
	var out []dirOp
	for _, op := range ops {
		if len(op) == 2 && op[0].dir == dir && op[1].dir != dir && !op[0].node.isDir {
			out = append(out, op[:1:1], op[1:])
			continue
		}
		out = append(out, op)
	}
	return out
}

// CrashClone returns what a machine that lost power at this moment might find when it starts
// again. m goes on as if nothing had happened, and the two share nothing.
//
// Everything that was synced is there. Of the rest, by lot and independently:
//   - each 512-byte sector written since the last Sync of its file is old or new;
//   - the size of each file is that of its last Sync, or the current one (holes read as zeros);
//   - each unsynced directory operation has happened or not, but those on one name happened in
//     their order, and of a rename both names are old or both are new.
//
// Locks are free, and everything in the clone counts as synced.
func (m *Mem) CrashClone(rng *rand.Rand) *Mem {
	m.mu.RLock()
	defer m.mu.RUnlock()

	names := make(map[*inode]map[string]*inode) // directories that differ from durable
	lost := make(map[nameKey]bool)
	for _, op := range m.pending {
		survives := rng.IntN(2) == 0 && !slices.ContainsFunc(op, func(c nameChange) bool { return lost[c.key()] })
		for _, c := range op {
			if !survives {
				lost[c.key()] = true
				continue
			}
			if names[c.dir] == nil {
				names[c.dir] = maps.Clone(c.dir.durable)
			}
			setName(names[c.dir], c.name, c.node)
		}
	}

	clones := make(map[*inode]*inode) // hard links stay links
	var clone func(n *inode) *inode
	clone = func(n *inode) *inode {
		if c := clones[n]; c != nil {
			return c
		}
		if !n.isDir {
			c := &inode{data: n.data.crash(rng, n.shared)}
			clones[n] = c
			return c
		}
		c := newDir()
		clones[n] = c
		survived, changed := names[n]
		if !changed {
			survived = n.durable
		}
		for _, name := range slices.Sorted(maps.Keys(survived)) { // in order: same rng, same clone
			c.entries[name] = clone(survived[name])
		}
		c.durable = maps.Clone(c.entries)
		return c
	}
	return &Mem{root: clone(m.root), locks: make(map[*inode]bool), mapping: m.mapping}
}

// KillClone returns what a process finds that starts after kill -9: everything written is there,
// what was not synced is still at the mercy of a power loss, and locks are free.
func (m *Mem) KillClone() *Mem {
	m.mu.RLock()
	defer m.mu.RUnlock()
	clones := make(map[*inode]*inode)
	var clone func(n *inode) *inode
	clone = func(n *inode) *inode {
		if n == nil || clones[n] != nil {
			return clones[n]
		}
		if !n.isDir {
			clones[n] = &inode{data: n.data.clone()}
			clones[n].data.absorb(n.shared)
			return clones[n]
		}
		c := newDir()
		clones[n] = c
		for name, child := range n.entries {
			c.entries[name] = clone(child)
		}
		for name, child := range n.durable {
			c.durable[name] = clone(child)
		}
		return c
	}
	k := &Mem{root: clone(m.root), locks: make(map[*inode]bool), mapping: m.mapping}
	for _, op := range m.pending {
		var changes dirOp
		for _, c := range op {
			changes = append(changes, nameChange{clone(c.dir), c.name, clone(c.node)})
		}
		k.pending = append(k.pending, changes)
	}
	return k
}
