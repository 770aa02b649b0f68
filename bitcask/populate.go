package bitcask

import "github.com/raftcask/raftcask/internal/vfs"

// The first touch of a page of a mapped file costs a put more than all else that it does. So a goroutine of a store that
// writes through maps touches the pages that will be written next, a stretch ahead of the writer.

// populateBytes are touched at a time: some milliseconds of puts at full speed.
const populateBytes = mib

// populateRequest is a stretch of a map, with a reference on its segment.
type populateRequest struct {
	seg      *segment
	from, to int64
}

// populateAhead asks for the next stretch when less than half of one is left. appender.mu is held.
func (s *Store) populateAhead() {
	a := &s.appender
	size := a.active.size.Load()
	if a.populated-size > populateBytes/2 || !a.active.mapping.writable {
		return
	}
	from := max(a.populated, size+vfs.PageBytes-1) / vfs.PageBytes * vfs.PageBytes
	to := min(size+populateBytes, a.allocated, int64(len(a.active.mapping.bytes()))) / vfs.PageBytes * vfs.PageBytes
	if from >= to {
		return
	}
	a.active.acquire()
	select {
	case s.populate <- populateRequest{a.active, from, to}:
		a.populated = to
	default: // the disk is slower than the writer, who touches the pages himself
		a.active.refs.Add(-1) // not the last: the live set has one
	}
}

// populatePages serves the requests until Close.
func (s *Store) populatePages() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case r := <-s.populate:
			_ = vfs.Populate(r.seg.mapping.bytes()[r.from:r.to]) // only saves time
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
