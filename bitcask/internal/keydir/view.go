package keydir

import (
	"bytes"
	"sync"
)

// View is the Keydir at one moment. It costs no memory but for the shards that are changed while it
// needs them: those are copied once, for all views together.
type View struct {
	d *Keydir

	mu     sync.Mutex // guards arenas
	arenas []*arena   // what is still pinned, by shard
}

// View pins the present contents. All shards are locked together for the microseconds that takes,
// so the view is consistent across keys. Close it.
func (d *Keydir) View() *View {
	v := &View{d: d, arenas: make([]*arena, shards)}
	d.lockAll()
	defer d.unlockAll()
	for i := range d.shards {
		v.arenas[i] = d.shards[i].pinLocked()
	}
	return v
}

// Range calls fn for the keys that begin with prefix until it returns false, in no particular order.
//
// A view is good for one pass: what Range has passed is released at once, so that it need not be
// copied any more, and a second Range sees only what the first did not reach. No lock is held while
// fn runs: it may call any method of the Keydir and of the view. The key is valid only during the call.
func (v *View) Range(prefix []byte, fn func(key []byte, it Item) bool) {
	for i := range v.d.shards {
		a := v.take(i)
		if a != nil && !v.d.shards[i].rangePinned(v.d, a, prefix, fn) {
			return
		}
	}
}

// Close releases what is still pinned. A Range that runs ends after the shard it is in. Closing
// again does nothing.
func (v *View) Close() {
	for i := range v.d.shards {
		if a := v.take(i); a != nil {
			v.d.shards[i].unpin(v.d, a)
		}
	}
}

// take hands the pinned arena of a shard to the caller, who unpins it.
func (v *View) take(i int) *arena {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.arenas[i]
	v.arenas[i] = nil
	return a
}

// rangePinned goes through a pinned arena of the shard and unpins it, even if fn panics.
func (s *shard) rangePinned(d *Keydir, a *arena, prefix []byte, fn func(key []byte, it Item) bool) bool {
	defer s.unpin(d, a)
	for _, r := range a.records() {
		if key := r.key(); bytes.HasPrefix(key, prefix) && !fn(key, r.item()) {
			return false
		}
	}
	return true
}
