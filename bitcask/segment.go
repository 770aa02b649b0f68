package bitcask

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// segmentKind tells where a segment's records come from.
type segmentKind uint8

const (
	logSegment    segmentKind = 1 // log entries as they were appended
	mergedSegment segmentKind = 2 // live records of older segments, each with its version
)

const (
	segmentMagic       = "RCASKSEG"
	segmentFormat      = 1
	segmentHeaderBytes = 64
)

// uid names the content of a segment for ever, wherever its file is copied.
type uid [16]byte

func newUID() uid {
	var u uid
	_, _ = rand.Read(u[:]) // never fails (crypto/rand)
	return u
}

// MarshalText writes the hexadecimal form.
func (u uid) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(u[:])), nil }

// UnmarshalText reads the hexadecimal form.
func (u *uid) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(u[:], text); err != nil || n != len(u) {
		return fmt.Errorf("%q is not a segment uid", text)
	}
	return nil
}

func (u uid) String() string { return hex.EncodeToString(u[:]) }

// segment is one file of records. Its bytes up to size never change, but for
// the cut that TruncateAfter makes in the newest log segments.
//
// refs counts who may still read the file: the live set, saved checkpoints and
// readers. The last one to leave closes it, and removes it if it was retired.
type segment struct {
	id   uint32
	uid  uid
	kind segmentKind
	seed uint32 // of the frames' checksum chain
	name string // path
	file vfs.File

	mapping  mapping
	mapBytes int64 // how far a file that may grow is mapped; set before the segment is seen

	size   atomic.Int64 // end of the last frame
	synced atomic.Int64 // end of what is synced, kept up to date while the segment is the active one
	refs   atomic.Int32

	// What the keydir points at; the rest of the file is dead.
	liveBytes, liveRecords atomic.Int64
	// Deletes that must outlive older copies of their keys.
	tombstoneBytes atomic.Int64

	// Entry indexes of a log segment, versions of a merged one. first is 0
	// while there are none. Guarded by Store.log.mu while the segment is active; last may lag then (settle).
	first, last uint64
	cleared     uint64 // the last clear record in it, 0 for none
	hinted      atomic.Bool
	damaged     atomic.Bool // a merge met bytes that do not parse
	installing  atomic.Bool // a merge is pointing the keydir from here to there
	retired     atomic.Bool // no longer in the manifest: remove it when unreferenced

	tryAgain atomic.Pointer[time.Time] // until then merges and hints do without what the disk refused to read
}

func segmentName(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.seg", id))
}
func hintName(dir string, id uint32) string { return filepath.Join(dir, fmt.Sprintf("%08d.hint", id)) }

// createSegment makes an empty segment whose header is on disk, name included,
// before it returns: the manifest may name it.
func createSegment(fs vfs.FS, dir string, id uint32, kind segmentKind, store uid) (_ *segment, err error) {
	s := &segment{id: id, uid: newUID(), kind: kind, name: segmentName(dir, id)}
	header := encodeSegmentHeader(s.uid, kind, store)
	s.seed = binary.LittleEndian.Uint32(header[60:])
	// A file of this name is left from a crash before the manifest named it.
	_ = fs.Remove(s.name)
	if s.file, err = fs.Create(s.name); err != nil {
		return nil, fmt.Errorf("create segment %d: %w", id, err)
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
			_ = fs.Remove(s.name)
		}
	}()
	if _, err := s.file.WriteAt(header, 0); err != nil {
		return nil, fmt.Errorf("write the header of segment %d: %w", id, err)
	}
	if err := s.file.Sync(); err != nil {
		return nil, &syncError{fmt.Errorf("sync segment %d: %w", id, err)}
	}
	if err := fs.SyncDir(dir); err != nil {
		return nil, &syncError{fmt.Errorf("sync the directory of segment %d: %w", id, err)}
	}
	s.size.Store(segmentHeaderBytes)
	s.synced.Store(segmentHeaderBytes)
	s.refs.Store(1)
	return s, nil
}

// openSegment opens the file that the manifest describes as m, and checks it.
func openSegment(fs vfs.FS, dir string, m segmentMeta) (*segment, error) {
	file, err := openSegmentFile(fs, dir, m.ID)
	if err != nil {
		return nil, err
	}
	s, err := checkSegment(file, dir, m)
	if err != nil {
		_ = file.Close()
	}
	return s, err
}

// openSegmentFile opens a file that the manifest names.
func openSegmentFile(fs vfs.FS, dir string, id uint32) (vfs.File, error) {
	name := segmentName(dir, id)
	file, err := fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, &CorruptError{File: name, Reason: "the manifest names it, but it cannot be opened: " + err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err) // EMFILE and EIO are no damage
	}
	return file, nil
}

// checkSegment holds an open file against the manifest's description m. Sealed files must be as long
// as the manifest says.
func checkSegment(file vfs.File, dir string, m segmentMeta) (*segment, error) {
	s := &segment{id: m.ID, kind: m.Kind, uid: m.UID, name: segmentName(dir, m.ID), first: m.First, last: m.Last, file: file}
	fileSize, err := file.Size()
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", s.name, err)
	}
	if fileSize < max(m.Size, m.Synced, segmentHeaderBytes) {
		return nil, &CorruptError{File: s.name, Offset: fileSize, Reason: fmt.Sprintf("the file has %d bytes, the manifest promises %d", fileSize, max(m.Size, m.Synced, segmentHeaderBytes))}
	}
	var header [segmentHeaderBytes]byte
	if _, err := file.ReadAt(header[:], 0); err != nil {
		return nil, fmt.Errorf("read the header of %s: %w", s.name, err)
	}
	kind, id, seed, err := decodeSegmentHeader(header[:])
	if err != nil {
		return nil, &CorruptError{File: s.name, Reason: err.Error()}
	}
	if kind != m.Kind || id != m.UID {
		return nil, &CorruptError{File: s.name, Reason: fmt.Sprintf("it is segment %s, the manifest expects %s", id, m.UID)}
	}
	s.seed = seed
	s.size.Store(m.Size)
	s.refs.Store(1)
	return s, nil
}

func encodeSegmentHeader(id uid, kind segmentKind, store uid) []byte {
	b := make([]byte, segmentHeaderBytes)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint16(b[8:], segmentFormat)
	b[10] = byte(kind)
	copy(b[16:], id[:])
	copy(b[32:], store[:])
	binary.LittleEndian.PutUint64(b[48:], uint64(time.Now().UnixMilli()))
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeSegmentHeader(b []byte) (kind segmentKind, id uid, seed uint32, err error) {
	if string(b[:8]) != segmentMagic {
		return 0, id, 0, fmt.Errorf("it does not begin with %s", segmentMagic)
	}
	seed = binary.LittleEndian.Uint32(b[60:])
	if got := crc32.Checksum(b[:60], castagnoli); got != seed {
		return 0, id, 0, fmt.Errorf("header checksum is %08x, should be %08x", got, seed)
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != segmentFormat {
		return 0, id, 0, fmt.Errorf("segment format %d is not known to this version", v)
	}
	kind = segmentKind(b[10])
	if kind != logSegment && kind != mergedSegment {
		return 0, id, 0, fmt.Errorf("unknown segment kind %d", kind)
	}
	copy(id[:], b[16:32])
	return kind, id, seed, nil
}

// frames reads the segment's frames from the start to its size.
func (s *segment) frames() *frameReader {
	return newFrameReader(s.file, s.name, s.seed, s.size.Load())
}

// deadBytes is what a merge would leave out. Tombstones are not dead: they
// shadow older copies of their keys until a merge can drop them.
// What frames add in a merged segment is not dead either, as another merge would write it
// again; two frames in a row have more than mergeFrameBytes.
func (s *segment) deadBytes() int64 {
	size := s.size.Load() - segmentHeaderBytes
	if s.kind == mergedSegment {
		size -= (2*size/mergeFrameBytes + 1) * (frameHeaderBytes + frameAlign - 1)
	}
	return max(0, size-s.liveBytes.Load()-s.tombstoneBytes.Load())
}

// leftOutFor is how long merges and hints do without a segment that could not be read: such an error may pass, and
// must not keep them busy meanwhile.
const leftOutFor = 5 * time.Minute

// leftOut tells whether merges and hints do without the segment.
func (s *segment) leftOut() bool {
	again := s.tryAgain.Load()
	return s.damaged.Load() || (again != nil && time.Now().Before(*again))
}

// leaveOut has merges and hints do without the segment if err says that its own bytes are wrong or could not be read. It
// stays as it is (I7). Other errors are returned as they are.
func (s *segment) leaveOut(err error) error {
	var unread *readError
	switch {
	case errors.Is(err, ErrCorrupt):
		s.damaged.Store(true)
		return &leftOutError{err}
	case errors.As(err, &unread) && !isNoSpace(err):
		again := time.Now().Add(leftOutFor)
		s.tryAgain.Store(&again)
		return &leftOutError{fmt.Errorf("%w; merges and hints do without that segment for %s", err, leftOutFor)}
	}
	return err
}

// leftOutError: a merge or a hint failed because of one segment that is left out from now on. The others can go on.
type leftOutError struct{ err error }

func (e *leftOutError) Error() string { return e.err.Error() }
func (e *leftOutError) Unwrap() error { return e.err }

func isLeftOut(err error) bool {
	var out *leftOutError
	return errors.As(err, &out)
}

// acquire takes a reference for reading. The caller already knows that the
// segment is referenced (it found it in the live set, under Store.visible).
func (s *segment) acquire() { s.refs.Add(1) }

// release gives a reference back.
func (s *segment) release(fs vfs.FS, dir string) {
	if s.refs.Add(-1) > 0 {
		return
	}
	s.mapping.close()
	_ = s.file.Close() // read-only by now: every write was synced before it counted
	if s.retired.Load() {
		// A crash before these leaves garbage, which the next Open removes.
		_ = fs.Remove(s.name)
		_ = fs.Remove(hintName(dir, s.id))
	}
}

// syncError marks a failed sync: it poisons the store.
type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }
