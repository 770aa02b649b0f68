package keydir

import "slices"

// Batch puts many items at once, for loading: sorted by hash, the items of one shard come together, under one lock
// and in the order of its table, so that the memory for several of them is on its way at the same time. That
// takes a quarter of the time of as many PutIfNewer.
//
//	b := d.NewBatch()
//	b.Add(key, it) // as long as there is room
//	b.PutIfNewer(func(it, old keydir.Item, existed, stored bool) { … })
//
// A Batch is for one goroutine. Several may be put at the same time.
type Batch struct {
	d       *Keydir
	entries []batchEntry
	keys    []byte
	order   []uint64 // the top of the hash, and the entry: what is sorted
}

type batchEntry struct {
	hash uint64
	key  int // its start in keys; it ends where the next begins
	item Item
}

const (
	batchLog     = 16 // log2 of the most items of a batch
	batchItems   = 1 << batchLog
	batchKeySize = 4 << 20
)

// NewBatch returns an empty batch.
func (d *Keydir) NewBatch() *Batch { return &Batch{d: d} }

// Add copies a key and its item into the batch. When it returns false the batch is full: PutIfNewer empties it.
func (b *Batch) Add(key []byte, it Item) (more bool) {
	b.d.check(key, it)
	b.entries = append(b.entries, batchEntry{b.d.hash(key), len(b.keys), it})
	b.keys = append(b.keys, key...)
	return len(b.entries) < batchItems && len(b.keys) < batchKeySize
}

// PutIfNewer does Keydir.PutIfNewer for each item, tells fn about each, and empties the batch. Of two items of one
// key the later one is put later. fn must not call the Keydir.
func (b *Batch) PutIfNewer(fn func(it, old Item, existed, stored bool)) {
	b.order = b.order[:0]
	for i := range b.entries {
		b.order = append(b.order, b.entries[i].hash>>batchLog<<batchLog|uint64(i))
	}
	slices.Sort(b.order)
	for rest := b.order; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n]>>(64-shardBits) == rest[0]>>(64-shardBits) {
			n++
		}
		b.putShard(rest[:n], fn)
		rest = rest[n:]
	}
	b.entries, b.keys = b.entries[:0], b.keys[:0]
}

// putShard puts items of one shard.
func (b *Batch) putShard(order []uint64, fn func(it, old Item, existed, stored bool)) {
	s := b.d.shard(order[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range order {
		i := int(o & (batchItems - 1))
		e := &b.entries[i]
		old, existed, stored := s.updateLocked(b.d, e.hash, b.key(i), e.item, newer(e.item))
		fn(e.item, old, existed, stored)
	}
}

func (b *Batch) key(i int) []byte {
	if i+1 < len(b.entries) {
		return b.keys[b.entries[i].key:b.entries[i+1].key]
	}
	return b.keys[b.entries[i].key:]
}
