package vfs

// SetMapping makes files of this Mem Mappers, on a 64-bit Linux; elsewhere it does nothing. Clones take it over.
//
// What is written through a map is in the page cache: every process sees it and a kill keeps it, and a
// power loss takes or leaves each of its sectors until the file is synced, as with WriteAt. A limit (SetLimit) says nothing
// about maps: they make no file longer. Unlike a real map one of Mem ends with the last handle that made one.
func (m *Mem) SetMapping(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mapping = on
}

// memoryMap is what the maps of one file have in common, while there are any.
type memoryMap interface {
	// bytes are the file's, at least up to its size. Somebody may be writing to them.
	bytes() []byte
	resize(sizeBytes int64) error
	close() error
}

// shared is an inode's memoryMap.
type shared struct {
	memoryMap
	handles int // that made a map
}

// absorb brings what was written through maps into c.
func (c *content) absorb(s *shared) {
	if s == nil {
		return
	}
	for mem, at := s.bytes()[:c.size], int64(0); at < c.size; at += sectorBytes {
		now := mem[at:min(at+sectorBytes, c.size)]
		if !c.holds(now, at) {
			c.write(now, at)
		}
	}
}

// holds tells whether the bytes at off, within one page, are b.
func (c *content) holds(b []byte, off int64) bool {
	pg := c.page(off / pageBytes)
	if pg == nil {
		pg = new(page)
	}
	return string(pg[off%pageBytes:][:len(b)]) == string(b)
}

// resizeMaps follows a change of the file's size. That takes memory, which a test that runs out of it cannot go on without.
func (n *inode) resizeMaps() {
	if n.shared == nil {
		return
	}
	if err := n.shared.resize(n.data.size); err != nil {
		panic("vfs: Mem: " + err.Error())
	}
}

// unmap ends one handle's maps.
func (n *inode) unmap() error {
	if n.shared.handles--; n.shared.handles > 0 {
		return nil
	}
	n.data.absorb(n.shared)
	err := n.shared.close()
	n.shared = nil
	return err
}
