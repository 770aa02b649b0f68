package bitcask

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/bitcask/internal/prefetch"
	"github.com/raftcask/raftcask/internal/vfs"
)

// A get reads its record through a shared memory map of the segment: a system call
// (about 1 µs) costs more than everything else a get does. A store that does not
// sync each write (Durability other than Always) writes through the map too, so that a
// put makes no system call either, and a killed process still loses nothing.
//
// What is traded: an error of the disk is SIGBUS instead of EIO. Every touch of a map is
// therefore guarded, which turns the signal into an error of this one call. What checks the disk or
// needs exact errors (Open, merges, verification, Entry) reads with pread, and so does
// everything where files cannot be mapped. No file is cut below a record that a
// reader can find: TruncateAfter drops only what was never visible.

// mapping is a segment's memory map. The zero value is not mapped yet.
type mapping struct {
	once sync.Once
	mem  atomic.Pointer[[]byte] // nil: read with pread
	// writable tells that the map takes writes. Only the appender touches it.
	writable bool
	// populated is how far the pages of a writable map are ready.
	populated atomic.Int64
}

// open maps the file once, for bytes up to limit. A file that cannot be mapped (no
// such file system, no more maps) is read with pread instead.
func (m *mapping) open(file vfs.File, limit int64, writable bool) {
	m.once.Do(func() {
		mapper, ok := file.(vfs.Mapper)
		if !ok {
			return
		}
		mem, err := mapper.Map(int(limit), writable)
		if err != nil {
			return
		}
		if writable { // a reader who maps the segment leaves the field alone
			m.writable = true
		}
		_ = vfs.AdviseRandom(mem) // advice only
		m.mem.Store(&mem)
	})
}

// bytes is the map, nil when there is none.
func (m *mapping) bytes() []byte {
	if mem := m.mem.Load(); mem != nil {
		return *mem
	}
	return nil
}

// prefetch asks for the memory of what will be written, if it is mapped.
func (m *mapping) prefetch(from, to int64) {
	if mem := m.bytes(); to <= int64(len(mem)) {
		prefetch.Bytes(mem[from:to])
	}
}

// seal ends writing through the map, and gives up the memory that writing took.
func (m *mapping) seal() {
	if !m.writable {
		return
	}
	m.writable = false
	_ = vfs.Protect(m.bytes()) // a map that stays writable does no harm: nobody writes to it
}

// detach gives up the pages of what was written from one offset to another and will not be written again, before it is
// synced or written back: else the kernel takes each page that it writes to the disk from the map by itself, and interrupts all
// processors for each. That took a third of the time of puts.
func (m *mapping) detach(from, to int64) {
	mem := m.bytes()
	from, to = from/vfs.PageBytes*vfs.PageBytes, min(to, int64(len(mem)))/vfs.PageBytes*vfs.PageBytes
	if from < to {
		_ = vfs.Detach(mem[from:to]) // only saves time
	}
}

func (m *mapping) close() {
	if mem := m.mem.Swap(nil); mem != nil {
		_ = vfs.Unmap(*mem) // fails only for what is no map
	}
}

// mapped is the segment's map for reading, made by the first who reads.
func (s *segment) mapped() []byte {
	if mem := s.mapping.mem.Load(); mem != nil {
		return *mem
	}
	s.mapping.open(s.file, max(s.size.Load(), s.mapBytes), false)
	return s.mapping.bytes()
}

// guarded runs touch, and returns a fault at an address of the map as an error.
func guarded(touch func()) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			err = faultError(r)
		}
	}()
	touch()
	return nil
}

// errFault is a SIGBUS: the disk could not give the page, or take it.
var errFault = errors.New("input/output error (a page of the memory map could not be had)")

// faultError knows a fault by its address; any other panic goes on.
func faultError(r any) error {
	if fault, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	}); ok && fault.Addr() != 0 {
		return errFault
	}
	panic(r)
}

// readMapped appends the value of the record that it points at to buf, and checks the record. What is
// checked is the copy that is returned, not the map.
//
// The value's place follows from the keydir alone, so it is copied first: waiting for the memory
// under the header before asking for the memory under the value would take twice as long.
func readMapped(seg *segment, mem []byte, it keydir.Item, key, buf []byte) (value []byte, err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			value, err = buf, fmt.Errorf("bitcask: read %s at offset %d: %w", seg.name, it.Offset, faultError(r))
		}
	}()
	b := mem[it.Offset : int64(it.Offset)+int64(it.Size)]
	at := len(b) - valueLen(it.Size, len(key), it.ExpireAt, seg.kind == mergedSegment)
	if at > len(b) {
		return buf, corruptRecord(seg, it, "its lengths are not those of the record that the keydir knows")
	}
	start := len(buf)
	value = append(growExact(buf, len(b)-at), b[at:]...)
	sum := crc32.Update(crc32.Checksum(b[4:at], castagnoli), castagnoli, value[start:])
	if want := binary.LittleEndian.Uint32(b); sum != want {
		return buf, corruptRecord(seg, it, fmt.Sprintf("record checksum is %08x, should be %08x", sum, want))
	}
	if have, ok := recordValueAt(b); !ok || have != at {
		return buf, corruptRecord(seg, it, "its lengths are not those of the record that the keydir knows")
	}
	if !bytes.Equal(b[at-len(key):at], key) {
		return buf, corruptRecord(seg, it, "it is the record of another key")
	}
	return value, nil
}

func corruptRecord(seg *segment, it keydir.Item, reason string) error {
	return &CorruptError{File: seg.name, Offset: int64(it.Offset), Reason: reason}
}

// growExact makes room for n bytes: a new slice has that capacity and no more.
func growExact(buf []byte, n int) []byte {
	if buf == nil {
		return make([]byte, 0, n)
	}
	return slices.Grow(buf, n)
}

// recordValueAt is where the value begins in the encoding b of one live record; ok tells
// whether the lengths in its header add up to b.
func recordValueAt(b []byte) (at int, ok bool) {
	if len(b) < recordHeaderBytes {
		return 0, false
	}
	flags := recordFlags(b[4])
	if flags&^(flagExpiry|flagVersion) != 0 || b[5] != 0 {
		return 0, false
	}
	at = recordHeaderBytes + int(binary.LittleEndian.Uint16(b[6:]))
	if flags&flagExpiry != 0 {
		at += 8
	}
	if flags&flagVersion != 0 {
		at += 8
	}
	return at, at+int(binary.LittleEndian.Uint32(b[8:])) == len(b)
}

// writeActive writes b at an offset of the active segment that was reserved before.
func (s *Store) writeActive(b []byte, at int64) error {
	seg := s.appender.active
	if m := &seg.mapping; m.writable {
		if mem := m.bytes(); at+int64(len(b)) <= int64(len(mem)) {
			return guarded(func() { copy(mem[at:], b) })
		}
	}
	_, err := seg.file.WriteAt(b, at)
	return err
}

// mapsWrites tells whether the active segment is written through its map: with a sync after every
// write a map saves nothing.
func (s *Store) mapsWrites() bool { return s.opts.Durability != Always && !s.opts.Replicated }

// mapActive prepares the map of a segment that became the active one.
func (s *Store) mapActive() {
	seg := s.appender.active
	seg.mapBytes = s.opts.SegmentBytes
	if s.mapsWrites() {
		seg.mapping.open(seg.file, max(seg.size.Load(), seg.mapBytes), true)
	}
}
