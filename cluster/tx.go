package cluster

import (
	"errors"
	"fmt"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/command"
)

// PendingVersion is the version of a key whose last write is proposed and has no index yet. It equals no
// version that anybody has seen, which is what a comparison of versions needs.
const PendingVersion = ^uint64(0)

// engine is the part of bitcask.Store that transactions read.
type engine interface {
	Freeze() (thaw func())
	Lookup(key []byte) (bitcask.Item, bool)
	Read(key, buf []byte) ([]byte, bitcask.Item, error)
	Len() int
	ScanKeys(cursor uint64, count int, fn func(key []byte, it bitcask.Item)) (next uint64)
	Now() int64
}

// Tx is the leader's view of the data while one operation is evaluated: the engine, and above it what is
// proposed and not applied. It implements command.Tx. It is valid only during the call that it was given to.
//
// An operation whose Put or Delete failed has no effect at all: what it did before and after is taken back.
type Tx struct {
	store    engine
	overlay  *overlay
	entry    *entry // being built
	now      int64
	maxValue int
	err      error // the first failed effect of this operation
}

// Now is the time of evaluation in Unix milliseconds: the leader's clock, but never before the time of an
// earlier entry.
func (tx *Tx) Now() int64 { return tx.now }

// Lookup returns what is known of a live key without reading its value.
func (tx *Tx) Lookup(key []byte) (command.Meta, bool, error) {
	e, hidden := tx.overlay.find(key)
	if e != nil {
		if !tx.alive(key, e) {
			return command.Meta{}, false, nil
		}
		return command.Meta{Version: PendingVersion, ExpireAt: e.expireAt, ValueLen: len(e.value)}, true, nil
	}
	if hidden {
		return command.Meta{}, false, nil
	}
	it, ok := tx.store.Lookup(key)
	if !ok {
		return command.Meta{}, false, nil
	}
	if expired(it.ExpireAt, tx.now) {
		tx.expire(key)
		return command.Meta{}, false, nil
	}
	return meta(it), true, nil
}

// Get returns the value of a live key. It must not be modified.
func (tx *Tx) Get(key []byte) (value []byte, m command.Meta, ok bool, err error) {
	e, hidden := tx.overlay.find(key)
	if e != nil {
		if !tx.alive(key, e) {
			return nil, command.Meta{}, false, nil
		}
		return e.value, command.Meta{Version: PendingVersion, ExpireAt: e.expireAt, ValueLen: len(e.value)}, true, nil
	}
	if hidden {
		return nil, command.Meta{}, false, nil
	}
	value, it, err := tx.store.Read(key, nil)
	if errors.Is(err, bitcask.ErrNotFound) {
		return nil, command.Meta{}, false, nil
	}
	if err != nil {
		return nil, command.Meta{}, false, fmt.Errorf("read the present value: %w", err)
	}
	if expired(it.ExpireAt, tx.now) {
		tx.expire(key)
		return nil, command.Meta{}, false, nil
	}
	return value, meta(it), true, nil
}

// alive judges a pending effect.
func (tx *Tx) alive(key []byte, e *effect) bool {
	if e.deleted {
		return false
	}
	if expired(e.expireAt, tx.now) {
		tx.expire(key)
		return false
	}
	return true
}

// expire makes an expired key's absence an effect. Whoever saw it absent must never see it again, also not
// from a leader whose clock is behind.
func (tx *Tx) expire(key []byte) {
	tx.overlay.set(tx.entry, effect{key: string(key), deleted: true})
}

// Put sets key to value. expireAt is in Unix milliseconds, 0 is never. The transaction keeps references to
// key and value until they are applied: they must not be modified or used again, whatever the outcome.
func (tx *Tx) Put(key, value []byte, expireAt int64) error {
	if err := checkKey(key); err != nil {
		return tx.fail(err)
	}
	if len(value) > tx.maxValue {
		return tx.fail(fmt.Errorf("%w: %d bytes, the limit is %d", command.ErrTooLarge, len(value), tx.maxValue))
	}
	tx.overlay.set(tx.entry, effect{key: keyString(key), value: value, expireAt: expireAt})
	return nil
}

// Delete removes key. Deleting a key that is absent is no effect.
func (tx *Tx) Delete(key []byte) error {
	if err := checkKey(key); err != nil {
		return tx.fail(err)
	}
	e, hidden := tx.overlay.find(key)
	switch {
	case e != nil && e.deleted, e == nil && hidden:
		return nil
	case e == nil:
		if _, ok := tx.store.Lookup(key); !ok {
			return nil
		}
	}
	tx.overlay.set(tx.entry, effect{key: keyString(key), deleted: true})
	return nil
}

// Clear removes every key, in one record.
func (tx *Tx) Clear() error {
	tx.overlay.clear(tx.entry)
	return nil
}

// Len counts the keys, expired ones that are not removed yet included.
func (tx *Tx) Len() int {
	n := 0
	if tx.overlay.cleared == nil {
		n = tx.store.Len()
	}
	for key, p := range tx.overlay.keys {
		stored := false
		if tx.overlay.cleared == nil {
			_, stored = tx.store.Lookup([]byte(key))
		}
		switch deleted := p.entry.effects[p.i].deleted; {
		case deleted && stored:
			n--
		case !deleted && !stored:
			n++
		}
	}
	return n
}

// Scan calls fn for about count live keys from cursor on, and returns the cursor to go on with, 0 at the
// end. Keys whose first write is not applied yet are not seen: SCAN promises those that were there during
// the whole iteration.
func (tx *Tx) Scan(cursor uint64, count int, fn func(key []byte, m command.Meta)) (next uint64) {
	if tx.overlay.cleared != nil {
		return 0
	}
	return tx.store.ScanKeys(cursor, count, func(key []byte, it bitcask.Item) {
		m := meta(it)
		if e, _ := tx.overlay.find(key); e != nil {
			if e.deleted {
				return
			}
			m = command.Meta{Version: PendingVersion, ExpireAt: e.expireAt, ValueLen: len(e.value)}
		}
		if !expired(m.ExpireAt, tx.now) {
			fn(key, m)
		}
	})
}

// fail notes that the operation as a whole has no effect.
func (tx *Tx) fail(err error) error {
	if tx.err == nil {
		tx.err = err
	}
	return err
}

// ReadTx is a view of what is applied on this node, at one time. It implements command.Tx; its writes are
// refused. It is linearizable if ConfirmLeader returned nil just before. Not safe for concurrent use.
type ReadTx struct {
	store   engine
	now     int64
	expired bool
}

// Now is the time that expiry is judged by, Unix milliseconds.
func (tx *ReadTx) Now() int64 { return tx.now }

// SawExpired tells that a key was reported absent because its time is over. A linearizable read must then
// be evaluated again through Propose, which deletes the key: otherwise it could come back on a leader whose
// clock is behind.
func (tx *ReadTx) SawExpired() bool { return tx.expired }

// Lookup returns what is known of a live key without reading its value.
func (tx *ReadTx) Lookup(key []byte) (command.Meta, bool, error) {
	it, ok := tx.store.Lookup(key)
	if !ok || tx.judge(it) {
		return command.Meta{}, false, nil
	}
	return meta(it), true, nil
}

// Get returns the value of a live key.
func (tx *ReadTx) Get(key []byte) (value []byte, m command.Meta, ok bool, err error) {
	value, it, err := tx.store.Read(key, nil)
	if errors.Is(err, bitcask.ErrNotFound) {
		return nil, command.Meta{}, false, nil
	}
	if err != nil {
		return nil, command.Meta{}, false, fmt.Errorf("read the value: %w", err)
	}
	if tx.judge(it) {
		return nil, command.Meta{}, false, nil
	}
	return value, meta(it), true, nil
}

func (tx *ReadTx) judge(it bitcask.Item) (gone bool) {
	gone = expired(it.ExpireAt, tx.now)
	tx.expired = tx.expired || gone
	return gone
}

// Put is refused.
func (tx *ReadTx) Put([]byte, []byte, int64) error { return ErrReadOnly }

// Delete is refused.
func (tx *ReadTx) Delete([]byte) error { return ErrReadOnly }

// Clear is refused.
func (tx *ReadTx) Clear() error { return ErrReadOnly }

// Len counts the keys, expired ones that are not removed yet included.
func (tx *ReadTx) Len() int { return tx.store.Len() }

// Scan calls fn for about count live keys from cursor on; see Tx.Scan. Expired keys that it leaves out do
// not count for SawExpired: SCAN promises nothing about them.
func (tx *ReadTx) Scan(cursor uint64, count int, fn func(key []byte, m command.Meta)) (next uint64) {
	return tx.store.ScanKeys(cursor, count, func(key []byte, it bitcask.Item) {
		if !expired(it.ExpireAt, tx.now) {
			fn(key, meta(it))
		}
	})
}

func expired(expireAt, now int64) bool { return expireAt != 0 && expireAt <= now }

func meta(it bitcask.Item) command.Meta {
	return command.Meta{Version: it.Version, ExpireAt: it.ExpireAt, ValueLen: it.ValueLen}
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return bitcask.ErrEmptyKey
	}
	if len(key) > bitcask.MaxKeyBytes {
		return fmt.Errorf("%w: key of %d bytes, the limit is %d", bitcask.ErrTooLarge, len(key), bitcask.MaxKeyBytes)
	}
	return nil
}

// Freeze holds commits back until thaw is called, so that several reads see one state. Hold it for the length of one
// command; it must not be nested. Expiry is judged by the time of that state.
func (tx *ReadTx) Freeze() (thaw func()) {
	thaw = tx.store.Freeze()
	tx.now = max(tx.now, tx.store.Now())
	return thaw
}
