// Package commandtest holds an in-memory data set that commands can be evaluated on, for the tests of
// packages that need something to answer them.
//
//	mem := commandtest.New()
//	reply := mem.Run(spec, args) // one command, applied at once
package commandtest

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/raftcask/raftcask/command"
)

// Memory is a map that implements command.Tx. Run and Exec may be called concurrently; the methods of Tx
// are for the commands that they run.
type Memory struct {
	Clock         func() time.Time // time.Now by default
	MaxValueBytes int              // of one value; 0 is no limit
	KeepEffects   bool             // for Effects; costs a text for each write

	mu      sync.Mutex // held while a command runs; guards what follows
	seed    maphash.Seed
	items   map[string]item
	now     int64
	version uint64
	effects []string
}

type item struct {
	value    []byte
	expireAt int64
	version  uint64
}

// New returns an empty data set.
func New() *Memory {
	return &Memory{Clock: time.Now, seed: maphash.MakeSeed(), items: map[string]item{}}
}

// Run evaluates one command.
func (m *Memory) Run(spec *command.Spec, args [][]byte) command.Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.Clock().UnixMilli()
	m.effects = nil
	return spec.Run(m, args)
}

// Exec evaluates calls in order.
func (m *Memory) Exec(calls []command.Call) []command.Reply {
	replies := make([]command.Reply, 0, len(calls))
	for _, call := range calls {
		replies = append(replies, m.Run(call.Spec, call.Args))
	}
	return replies
}

// Effects are the effects of the last command, one line each: `put "k" "v" expires 1000`, `delete "k"`,
// `clear`. They are kept if KeepEffects is set.
func (m *Memory) Effects() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.effects)
}

func (m *Memory) effect(format string, a ...any) {
	if m.KeepEffects {
		m.effects = append(m.effects, fmt.Sprintf(format, a...))
	}
}

// Now is part of command.Tx.
func (m *Memory) Now() int64 { return m.now }

func (m *Memory) live(key []byte) (item, bool) {
	it, ok := m.items[string(key)]
	return it, ok && (it.expireAt == 0 || it.expireAt > m.now)
}

// Lookup is part of command.Tx.
func (m *Memory) Lookup(key []byte) (command.Meta, bool, error) {
	_, meta, ok, err := m.Get(key)
	return meta, ok, err
}

// Get is part of command.Tx.
func (m *Memory) Get(key []byte) ([]byte, command.Meta, bool, error) {
	it, ok := m.live(key)
	if !ok {
		return nil, command.Meta{}, false, nil
	}
	return it.value, command.Meta{Version: it.version, ExpireAt: it.expireAt, ValueLen: len(it.value)}, true, nil
}

// Put is part of command.Tx. Like the proposer, it keeps the value that it is given.
func (m *Memory) Put(key, value []byte, expireAt int64) error {
	if m.MaxValueBytes > 0 && len(value) > m.MaxValueBytes {
		return fmt.Errorf("put %d bytes: %w", len(value), command.ErrTooLarge)
	}
	m.version++
	m.items[string(key)] = item{value: value, expireAt: expireAt, version: m.version}
	if expireAt != 0 {
		m.effect("put %q %q expires %d", key, value, expireAt)
	} else {
		m.effect("put %q %q", key, value)
	}
	return nil
}

// Delete is part of command.Tx.
func (m *Memory) Delete(key []byte) error {
	delete(m.items, string(key))
	m.effect("delete %q", key)
	return nil
}

// Clear is part of command.Tx.
func (m *Memory) Clear() error {
	clear(m.items)
	m.effect("clear")
	return nil
}

// Len is part of command.Tx. It counts expired keys too.
func (m *Memory) Len() int { return len(m.items) }

// Scan is part of command.Tx. The cursor is the 48-bit hash of the next key, so that keys which are there
// from the start to the end of an iteration are seen whatever comes and goes.
func (m *Memory) Scan(cursor uint64, count int, fn func(key []byte, meta command.Meta)) (next uint64) {
	type hashed struct {
		hash uint64
		key  string
	}
	var rest []hashed
	for key := range m.items {
		if h := maphash.String(m.seed, key)>>16 | 1; h >= cursor { // never 0, which is the end
			rest = append(rest, hashed{h, key})
		}
	}
	slices.SortFunc(rest, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	for i, h := range rest {
		if i >= count && h.hash != rest[i-1].hash {
			return h.hash
		}
		if _, meta, ok, _ := m.Get([]byte(h.key)); ok { // never fails
			fn([]byte(h.key), meta)
		}
	}
	return 0
}
