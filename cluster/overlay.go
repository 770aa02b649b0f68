package cluster

import (
	"unsafe"
)

// effect is what an operation does to one key.
type effect struct {
	key      string // aliases the bytes that Put was given
	value    []byte
	expireAt int64
	deleted  bool
}

// bytes is about what the effect takes in an entry: a record header, an expiry time, key and value.
func (e *effect) bytes() int { return effectOverhead + len(e.key) + len(e.value) }

const effectOverhead = 20

// entry is one Raft entry under construction or in flight: the last effect per key, in the order in which
// the keys were first touched.
type entry struct {
	effects []effect
	// clears: the entry begins with "everything before is gone".
	clears bool
	size   int // bytes, about
	spans  []span
	ops    int
}

// span says which operations of a request an entry holds.
type span struct {
	req      *request
	from, to int
}

func (e *entry) reset() {
	clear(e.effects) // let keys and values go
	clear(e.spans)
	e.effects, e.spans = e.effects[:0], e.spans[:0]
	e.clears, e.size, e.ops = false, 0, 0
}

// place finds an effect: the i-th of an entry.
type place struct {
	entry *entry
	i     int32
}

// overlay holds the effects that are proposed and not applied. Evaluation reads it before the engine, so
// that operations see those before them. Owned by the proposer's goroutine.
type overlay struct {
	keys map[string]place
	// cleared is the entry with the last clear that is not applied. Until it is, the engine's keys count
	// as absent.
	cleared *entry
	peak    int // the most keys since the map was made
	undo    []undo
}

// undo takes one step of an operation back.
type undo struct {
	kind undoKind
	old  effect // undoChange: the effect as it was
	at   place
	had  bool // undoAdd: the key was in the overlay, at prev
	prev place
	all  *undoAll
}

type undoKind uint8

const (
	undoAdd    undoKind = iota // an effect was added to the entry
	undoChange                 // an effect of this entry was replaced
	undoClear                  // everything was dropped
)

type undoAll struct {
	keys    map[string]place
	cleared *entry
	effects []effect
	clears  bool
	size    int
}

func newOverlay() *overlay { return &overlay{keys: map[string]place{}} }

// keyString is the key as a map key, without a copy. The bytes may not change until the effect is applied.
func keyString(key []byte) string {
	return unsafe.String(unsafe.SliceData(key), len(key))
}

// find returns the pending effect on key. hidden tells that the engine's version of the key does not count.
func (o *overlay) find(key []byte) (e *effect, hidden bool) {
	if p, ok := o.keys[string(key)]; ok {
		return &p.entry.effects[p.i], true
	}
	return nil, o.cleared != nil
}

// set puts an effect into the entry that is being built.
func (o *overlay) set(in *entry, e effect) {
	p, had := o.keys[e.key]
	if had && p.entry == in {
		old := &in.effects[p.i]
		o.undo = append(o.undo, undo{kind: undoChange, old: *old, at: p})
		in.size += e.bytes() - old.bytes()
		e.key = old.key // the map's key aliases these bytes
		*old = e
		return
	}
	o.undo = append(o.undo, undo{kind: undoAdd, had: had, prev: p})
	in.effects = append(in.effects, e)
	in.size += e.bytes()
	o.keys[e.key] = place{in, int32(len(in.effects) - 1)}
	o.peak = max(o.peak, len(o.keys))
}

// clear drops every pending effect; the engine's keys are hidden from now on.
func (o *overlay) clear(in *entry) {
	o.undo = append(o.undo, undo{kind: undoClear, all: &undoAll{
		keys: o.keys, cleared: o.cleared, effects: in.effects, clears: in.clears, size: in.size,
	}})
	o.keys, o.cleared = map[string]place{}, in
	in.effects, in.clears, in.size = nil, true, effectOverhead
}

// begin starts an operation.
func (o *overlay) begin() {
	clear(o.undo)
	o.undo = o.undo[:0]
}

// rollback takes back what the operation did since begin.
func (o *overlay) rollback(in *entry) {
	for i := len(o.undo) - 1; i >= 0; i-- {
		u := &o.undo[i]
		switch u.kind {
		case undoChange:
			now := &in.effects[u.at.i]
			in.size += u.old.bytes() - now.bytes()
			*now = u.old
		case undoAdd:
			last := len(in.effects) - 1
			e := in.effects[last]
			in.size -= e.bytes()
			delete(o.keys, e.key)
			if u.had {
				// The old effect's own key, because e.key goes away with the operation.
				o.keys[u.prev.entry.effects[u.prev.i].key] = u.prev
			}
			in.effects[last] = effect{}
			in.effects = in.effects[:last]
		case undoClear:
			o.keys, o.cleared = u.all.keys, u.all.cleared
			in.effects, in.clears, in.size = u.all.effects, u.all.clears, u.all.size
		}
	}
	o.begin()
}

// purge forgets the effects of an entry that is applied, unless a later entry has replaced them.
func (o *overlay) purge(applied *entry) {
	for i := range applied.effects {
		key := applied.effects[i].key
		if p, ok := o.keys[key]; ok && p.entry == applied {
			delete(o.keys, key)
		}
	}
	if o.cleared == applied {
		o.cleared = nil
	}
	if len(o.keys) == 0 && o.peak > maxIdleOverlay {
		o.keys, o.peak = map[string]place{}, 0 // a map keeps its memory
	}
}

// maxIdleOverlay is the size in keys above which an empty map is given back.
const maxIdleOverlay = 1 << 16
