package vfs

import "math"

// SetLimit gives the disk a size: files that would need more meet ENOSPC, a write after as many
// bytes as fit. Each file takes whole sectors for every byte up to its size, as if it had been
// preallocated; names cost nothing, and a removed file gives its room back at once. 0 takes the
// limit away. A limit below what is there only stops growth. Clones have no limit.
func (m *Mem) SetLimit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = bytes
}

// Used is how many bytes count against the limit.
func (m *Mem) Used() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.usedLocked()
}

func (m *Mem) usedLocked() int64 {
	var sum int64
	seen := make(map[*inode]bool) // a hard link costs nothing
	var walk func(n *inode)
	walk = func(n *inode) {
		if seen[n] {
			return
		}
		seen[n] = true
		sum += wholeSectors(n.data.size)
		for _, child := range n.entries {
			walk(child)
		}
	}
	walk(m.root)
	return sum
}

func wholeSectors(bytes int64) int64 {
	return (bytes + sectorBytes - 1) / sectorBytes * sectorBytes
}

// roomLocked is what is free when node has the given size, negative when that is too much.
func (m *Mem) roomLocked(node *inode, size int64) int64 {
	if m.limit == 0 {
		return math.MaxInt64
	}
	return m.limit - m.usedLocked() + wholeSectors(node.data.size) - wholeSectors(size)
}

// fitsLocked is how many of n bytes can be written at off. What the file has already is there to
// be written over.
func (m *Mem) fitsLocked(node *inode, off int64, n int) int {
	end := off + int64(n)
	if end <= wholeSectors(node.data.size) {
		return n
	}
	room := m.roomLocked(node, end)
	if room >= 0 {
		return n
	}
	last := max(wholeSectors(node.data.size), wholeSectors(end)+room/sectorBytes*sectorBytes)
	for last > 0 && m.roomLocked(node, last) < 0 && last > wholeSectors(node.data.size) {
		last -= sectorBytes
	}
	return int(min(int64(n), max(0, last-off)))
}
