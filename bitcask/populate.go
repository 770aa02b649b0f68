package bitcask

import "github.com/raftcask/raftcask/internal/vfs"

// The first touch of a page of a mapped file costs a put more than all else that it does. So a goroutine of a store that
// writes through maps touches the pages that will be written next, a stretch ahead of the writer.

const (
	// populateBytes are touched at a time: some milliseconds of puts at full speed.
	populateBytes = mib
	// populateOwnBytes are touched by a put that meets the end of them: one call for some pages costs less than a fault for each, and
	// happens to fewer than one put in a hundred.
	populateOwnBytes = 128 << 10
)

// populateRequest is a stretch of a map, with a reference on its segment.
type populateRequest struct {
	seg      *segment
	from, to int64
}

// populateAhead has the pages ready for a put that writes up to end, and asks for the next stretch when less than half of one is
// left. appender.mu is held.
func (s *Store) populateAhead(end int64) {
	a := &s.appender
	m := &a.active.mapping
	if !m.writable {
		return
	}
	size := a.active.size.Load()
	stretch := func(from, bytes int64) (_, to int64) {
		to = min(size+bytes, a.allocated, int64(len(m.bytes()))) / vfs.PageBytes * vfs.PageBytes
		return max(from, size) / vfs.PageBytes * vfs.PageBytes, to
	}
	if ready := m.populated.Load(); end > ready { // the goroutine gets no processor, or the disk is slow
		if from, to := stretch(ready, populateOwnBytes); from < to {
			m.populate(from, to)
		}
	}
	if a.populated-size > populateBytes/2 {
		return
	}
	from, to := stretch(max(a.populated, m.populated.Load()), populateBytes)
	if from >= to {
		return
	}
	a.active.acquire()
	select {
	case s.populate <- populateRequest{a.active, from, to}:
		a.populated = to
	default:
		a.active.refs.Add(-1) // not the last: the live set has one
	}
}

// populate touches pages, and notes how far.
func (m *mapping) populate(from, to int64) {
	_ = vfs.Populate(m.bytes()[from:to]) // only saves time
	for ready := m.populated.Load(); ready < to && !m.populated.CompareAndSwap(ready, to); {
		ready = m.populated.Load()
	}
}

// populatePages serves the requests until Close.
func (s *Store) populatePages() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case r := <-s.populate:
			r.seg.mapping.populate(r.from, r.to)
			r.seg.release(s.fs, s.path)
		}
	}
}

// dropPopulate releases a request that nobody will serve.
func (s *Store) dropPopulate() {
	select {
	case r := <-s.populate:
		r.seg.release(s.fs, s.path)
	default:
	}
}
