package keydir

// cursorShift makes a cursor of a hash: its top 48 bits. 48 bits are what fits, with room for other
// uses, into the integers of all clients.
const cursorShift = 16

// Scan calls fn for the keys from a cursor on, in an order that is roughly that of their hashes, until
// about count of them have been seen, and returns the cursor to go on from; 0 begins, and 0
// means the end. It stops only between clusters of the table, so it may see some more than count.
//
// A cursor is a hash prefix, not a place in a table. So a key that is there from the first call to the
// last is seen at least once, through growth, shrinking, restarts, and on another replica with
// the same seed. A key that comes or goes meanwhile may be seen or not. While a shard stands still, no key is seen twice.
//
// fn runs under the read lock of a shard: it must be quick and must not call methods of the Keydir.
// The key is valid only during the call.
func (d *Keydir) Scan(cursor uint64, count int, fn func(key []byte, it Item)) (next uint64) {
	if cursor >= 1<<(64-cursorShift) {
		return 0 // nobody got this one from us
	}
	count = max(count, 1)
	from := cursor << cursorShift
	for i := from >> (64 - shardBits); i < shards; i++ {
		seen, next, more := d.shards[i].scan(d, from, count, fn)
		if more {
			return (i<<(64-shardBits) | next) >> cursorShift
		}
		count -= seen
		from = (i + 1) << (64 - shardBits)
		if count <= 0 {
			return from >> cursorShift // after the last shard this overflows to 0: the end
		}
	}
	return 0
}

// scan sees the keys of a shard whose hash is from or more. If it stops before the end, next are the
// hash bits below those of the shard from which to go on.
func (s *shard) scan(d *Keydir, from uint64, count int, fn func(key []byte, it Item)) (seen int, next uint64, more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := len(s.slots)
	if s.used == 0 {
		return 0, 0, false
	}
	// A key lies at its home or after it, with no empty slot between. So begin at the home of from, stop
	// only at empty slots, and at the end go on around the ring: i runs beyond n.
	for i := s.slots.home(slotHash(from)); ; i++ {
		at := &s.slots[i%n]
		if at.addr == 0 {
			if i >= n {
				return seen, 0, false
			}
			if seen >= count && i+1 < n {
				return seen, s.slots.firstHash(i+1) << (32 - shardBits), true
			}
			continue
		}
		r := s.holding.record(at)
		// A key pushed across the end of the ring is seen at the end of the round, where its hash belongs.
		home := i - s.slots.distance(i%n, at.hash)
		if home >= 0 && home < n && d.hash(r.key()) >= from {
			fn(r.key(), at.item(r))
			seen++
		}
	}
}

// Range calls fn for all keys until it returns false, in no particular order. Each shard is seen as
// it is at one moment, but not all at the same one: for that there is View.
//
// fn may call any method of the Keydir. A shard that is changed while Range is in it is copied
// for that time. The key is valid only during the call.
func (d *Keydir) Range(fn func(key []byte, it Item) bool) {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		h := s.pinLocked()
		s.mu.Unlock()
		if h != nil && !s.rangePinned(d, h, nil, fn) {
			return
		}
	}
}
