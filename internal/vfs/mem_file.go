package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
)

// memFile is an open handle.
type memFile struct {
	m        *Mem
	node     *inode
	name     string
	writable bool
	maps     bool // it made a map; guarded by Mem.mu
	closed   atomic.Bool
}

// check is the preamble of every operation.
func (f *memFile) check(op string, writes bool, off int64) error {
	var err error
	switch {
	case f.closed.Load():
		err = fs.ErrClosed
	case writes && !f.writable:
		err = syscall.EBADF
	case off < 0:
		err = syscall.EINVAL
	default:
		return nil
	}
	return pathError(op, f.name, err)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	if err := f.check("read", false, off); err != nil {
		return 0, err
	}
	n := f.node.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("write", true, off); err != nil {
		return 0, err
	}
	fits := f.m.fitsLocked(f.node, off, len(p))
	f.node.write(p[:fits], off)
	if fits < len(p) {
		return fits, pathError("write", f.name, syscall.ENOSPC)
	}
	return len(p), nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("sync", false, 0); err != nil {
		return err
	}
	f.node.data.absorb(f.node.shared)
	f.node.data.sync()
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("truncate", true, size); err != nil {
		return err
	}
	f.node.data.truncate(size)
	f.node.resizeMaps()
	return nil
}

func (f *memFile) Preallocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("preallocate", true, size); err != nil {
		return err
	}
	if size > f.node.data.size {
		if f.m.roomLocked(f.node, size) < 0 {
			return pathError("allocate", f.name, syscall.ENOSPC)
		}
		f.node.data.truncate(size)
		f.node.resizeMaps()
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	if err := f.check("stat", false, 0); err != nil {
		return 0, err
	}
	return f.node.data.size, nil
}

func (f *memFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.maps {
		f.maps = false
		return f.node.unmap()
	}
	return nil
}

// read is ReadAt of the file as it is now, maps included.
func (n *inode) read(p []byte, off int64) int {
	if n.shared != nil {
		return copy(p, n.shared.bytes()[min(off, n.data.size):n.data.size])
	}
	return n.data.read(p, off)
}

// write is WriteAt, and shows p in the maps.
func (n *inode) write(p []byte, off int64) {
	n.data.write(p, off)
	if n.shared != nil {
		n.resizeMaps()
		copy(n.shared.bytes()[off:], p)
	}
}

const (
	sectorBytes = 512  // what a disk writes whole or not at all
	pageBytes   = 4096 // unit of memory
)

type (
	sector [sectorBytes]byte
	page   [pageBytes]byte
)

// content is what a file holds now, and enough of what it held at its last sync to go back.
// Bytes of pages beyond size are zero.
type content struct {
	size   int64
	synced int64   // size at the last sync
	pages  []*page // nil: zeros
	// old is the synced content of each sector changed since the last sync; nil: zeros.
	old map[int64]*sector
}

// read copies what there is at off and returns how much it was.
func (c *content) read(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		part := p[done:min(len(p), done+pageBytes-int(at%pageBytes))]
		if pg := c.page(at / pageBytes); pg != nil {
			copy(part, pg[at%pageBytes:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

func (c *content) page(i int64) *page {
	if i >= int64(len(c.pages)) {
		return nil
	}
	return c.pages[i]
}

// write puts p at off and makes the file longer if needed.
func (c *content) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	if end > c.size {
		c.truncate(end)
	}
	for s := off / sectorBytes; s*sectorBytes < end; s++ {
		c.save(s)
	}
	for len(p) > 0 {
		i := off / pageBytes
		if missing := i + 1 - int64(len(c.pages)); missing > 0 {
			c.pages = append(c.pages, make([]*page, missing)...)
		}
		if c.pages[i] == nil {
			c.pages[i] = new(page)
		}
		n := copy(c.pages[i][off%pageBytes:], p)
		p, off = p[n:], off+int64(n)
	}
}

// save keeps the synced content of a sector before its first change.
func (c *content) save(s int64) {
	if _, saved := c.old[s]; saved {
		return
	}
	if c.old == nil {
		c.old = make(map[int64]*sector)
	}
	const perPage = pageBytes / sectorBytes
	pg := c.page(s / perPage)
	if pg == nil {
		c.old[s] = nil
		return
	}
	old := sector(pg[s%perPage*sectorBytes:])
	c.old[s] = &old
}

// truncate sets the size. What is cut off is kept as old content.
func (c *content) truncate(size int64) {
	for at := size; at < c.size; {
		next := min(at-at%sectorBytes+sectorBytes, c.size)
		pg := c.page(at / pageBytes)
		if pg == nil { // a hole: nothing to keep in this whole page
			at = at - at%pageBytes + pageBytes
			continue
		}
		c.save(at / sectorBytes)
		clear(pg[at%pageBytes : (next-1)%pageBytes+1])
		at = next
	}
	if whole := (size + pageBytes - 1) / pageBytes; whole < int64(len(c.pages)) {
		clear(c.pages[whole:])
		c.pages = c.pages[:whole]
	}
	c.size = size
}

func (c *content) sync() {
	c.old = nil
	c.synced = c.size
}

func (c *content) clone() content {
	n := *c
	n.old = maps.Clone(c.old) // the sectors themselves never change
	n.pages = slices.Clone(c.pages)
	for i, pg := range n.pages {
		if pg != nil {
			dup := *pg
			n.pages[i] = &dup
		}
	}
	return n
}

// crash returns the contents after a power loss: see Mem.CrashClone.
func (c *content) crash(rng *rand.Rand, mapped *shared) content {
	size := c.size
	if rng.IntN(2) == 0 {
		size = c.synced
	}
	n := c.clone()
	n.absorb(mapped)
	for _, s := range slices.Sorted(maps.Keys(n.old)) {
		at := s * sectorBytes
		// A cut is one change of the size: beyond it, the old size brings back the old content.
		if at < c.size && rng.IntN(2) == 0 {
			continue
		}
		old := n.old[s]
		if old == nil {
			old = new(sector)
		}
		n.write(old[:], at)
	}
	n.truncate(size)
	n.sync()
	return n
}
