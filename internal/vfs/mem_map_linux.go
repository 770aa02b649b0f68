package vfs

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// Map implements Mapper: see Mem.SetMapping.
func (f *memFile) Map(sizeBytes int, writable bool) ([]byte, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.m.mapping || strconv.IntSize < 64 {
		return nil, errors.ErrUnsupported
	}
	if err := f.check("mmap", writable, 0); err != nil {
		return nil, err
	}
	n := f.node
	if n.shared == nil {
		pages, err := newMemoryFile(&n.data)
		if err != nil {
			return nil, pathError("mmap", f.name, err)
		}
		n.shared = &shared{memoryMap: pages}
	}
	pages, ours := n.shared.memoryMap.(*memoryFile)
	if !ours {
		return nil, errors.ErrUnsupported
	}
	if !f.maps {
		f.maps = true
		n.shared.handles++
	}
	protection := unix.PROT_READ
	if writable {
		protection |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(pages.fd, 0, sizeBytes, protection, unix.MAP_SHARED)
	if err != nil {
		return nil, pathError("mmap", f.name, err)
	}
	return mem, nil
}

// WriteBack implements Mapper. What it does on a disk may survive a power loss or not, as all may that is not synced here.
func (f *memFile) WriteBack(_, _ int64) error { return nil }

// memoryFile is a memoryMap that the kernel keeps coherent: a file without a name, in memory.
type memoryFile struct {
	fd     int
	window []byte // our own map
}

func newMemoryFile(c *content) (_ *memoryFile, err error) {
	m := &memoryFile{}
	if m.fd, err = unix.MemfdCreate("raftcask-test", unix.MFD_CLOEXEC); err != nil {
		return nil, err
	}
	if err := m.resize(c.size); err != nil {
		return nil, errors.Join(err, m.close())
	}
	c.read(m.window[:c.size], 0)
	return m, nil
}

func (m *memoryFile) bytes() []byte { return m.window }

// resize makes the window large enough too. It never shrinks: what lies beyond the end must not be touched.
func (m *memoryFile) resize(sizeBytes int64) error {
	if err := unix.Ftruncate(m.fd, sizeBytes); err != nil {
		return err
	}
	if sizeBytes <= int64(len(m.window)) {
		return nil
	}
	window, err := unix.Mmap(m.fd, 0, int(max(sizeBytes, 2*int64(len(m.window)), pageBytes)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if m.window != nil {
		err = unix.Munmap(m.window)
	}
	m.window = window
	return err
}

func (m *memoryFile) close() error {
	var err error
	if m.window != nil {
		err = unix.Munmap(m.window)
		m.window = nil
	}
	return errors.Join(err, unix.Close(m.fd))
}
