package keydir

import (
	"bytes"
	"sync"
)

// View is the Keydir at one moment. It costs no memory but for the shards that are changed while it
// needs them: those are copied once, for all views together.
type View struct {
	d *Keydir

	mu     sync.Mutex // guards pinned
	pinned []*holding // what still is, by shard
}

// View pins the present contents. All shards are locked together for the microseconds that takes,
// so the view is consistent across keys. Close it.
func (d *Keydir) View() *View {
	v := &View{d: d, pinned: make([]*holding, shards)}
	d.lockAll()
	defer d.unlockAll()
	for i := range d.shards {
		v.pinned[i] = d.shards[i].pinLocked()
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
		h := v.take(i)
		if h != nil && !v.d.shards[i].rangePinned(v.d, h, prefix, fn) {
			return
		}
	}
}

// Close releases what is still pinned. A Range that runs ends after the shard it is in. Closing
// again does nothing.
func (v *View) Close() {
	for i := range v.d.shards {
		if h := v.take(i); h != nil {
			v.d.shards[i].unpin(v.d, h)
		}
	}
}

// take hands what is pinned of a shard to the caller, who unpins it.
func (v *View) take(i int) *holding {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.pinned[i]
	v.pinned[i] = nil
	return h
}

// rangePinned goes through what is pinned of the shard and unpins it, even if fn panics.
func (s *shard) rangePinned(d *Keydir, h *holding, prefix []byte, fn func(key []byte, it Item) bool) bool {
	defer s.unpin(d, h)
	for i := range h.slots {
		at := &h.slots[i]
		if at.addr == 0 {
			continue
		}
		r := h.record(at)
		if key := r.key(); bytes.HasPrefix(key, prefix) && !fn(key, at.item(r)) {
			return false
		}
	}
	return true
}
