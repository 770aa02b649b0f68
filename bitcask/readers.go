package bitcask

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// A get takes no lock of the store and counts no reference: with several readers the cache
// line of either would cost more than the read. It enters a lane instead, and what it may see is
// given up only after everybody has left who was there before (epoch-based reclamation;
// McKenney's sleepable RCU has this form).

// shown is what gets read: replaced whole, never changed.
type shown struct {
	keys     *keydir.Keydir
	segments map[uint32]*segment // nil: the store is closed
}

// publishLocked shows what visible holds to the gets that begin from now on. What is taken from them with
// it may be closed after readers.wait.
func (s *Store) publishLocked() {
	s.published.Store(&shown{keys: s.visible.keys, segments: s.visible.segments})
}

// readerLanes keep readers on different cores apart, as far as chance does.
const readerLanes = 32

// readers counts who is reading, by phase and lane. The zero value is ready.
type readers struct {
	phase   atomic.Uint32
	lanes   [2][readerLanes]lane
	waiting sync.Mutex // one wait at a time
}

// lane has two cache lines: processors fetch them in pairs.
type lane struct {
	inside atomic.Int64
	_      [120]byte
}

// enter returns the lane to leave. It must come before the first look at what a wait protects.
func (r *readers) enter() *lane {
	var here byte // goroutines have different stacks: its address spreads them over the lanes
	at := uintptr(unsafe.Pointer(&here)) >> 11
	l := &r.lanes[r.phase.Load()&1][at%readerLanes]
	l.inside.Add(1)
	return l
}

func (l *lane) leave() { l.inside.Add(-1) }

// wait returns when everybody has left who was inside when it was called. It turns the phase twice: a reader who had
// read the old phase, but not entered, is not seen by the first turn. Holding a lock that a reader needs would never end.
func (r *readers) wait() {
	r.waiting.Lock()
	defer r.waiting.Unlock()
	for range 2 {
		old := (r.phase.Add(1) - 1) & 1
		for i := range r.lanes[old] {
			r.lanes[old][i].drain()
		}
	}
}

// drain waits until a lane is empty. A reader stays for one read of the disk at most.
func (l *lane) drain() {
	for n := 0; l.inside.Load() != 0; n++ {
		if n < 100 {
			runtime.Gosched()
		} else {
			time.Sleep(100 * time.Microsecond)
		}
	}
}
