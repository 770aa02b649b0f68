package bitcask

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

// SalvageReport says what Salvage saved and what it could not.
type SalvageReport struct {
	Keys  int   `json:"keys"`  // copied
	Bytes int64 `json:"bytes"` // of them, keys and values
	// Damage is every place that does not read.
	Damage []Damage `json:"damage"`
	// Lost are keys whose newest value was there and does not read. They are known from hints: what was
	// in a damaged place of a segment without one cannot be told.
	Lost []LostKey `json:"lost"`
	// Warnings say what the copy may have wrong.
	Warnings []string `json:"warnings,omitempty"`
}

// Whole tells that nothing was lost, and that there is no doubt about what was copied.
func (r *SalvageReport) Whole() bool { return len(r.Damage)+len(r.Lost)+len(r.Warnings) == 0 }

// LostKey is a key whose newest value does not read.
type LostKey struct {
	Key    []byte `json:"key"`
	Index  uint64 `json:"index"` // of the entry that wrote the lost value
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	// Older is the index of an older value that was copied in its place, 0 when there is none.
	Older uint64 `json:"older,omitempty"`
}

// Salvage copies all of the store in src that still reads into a new store in dst: of each key the
// value with the highest index that reads, unless a delete or a clear came later. Deletes whose
// record is damaged are still known from an undamaged hint. Entries at the end of a replicated log that are not known
// committed may have been acknowledged: what they put is taken along, what they delete stays, with a warning. src is not
// changed, and may be open. dst must be empty or missing.
func Salvage(ctx context.Context, src, dst string, options *Options) (SalvageReport, error) {
	opts, err := options.withDefaults()
	if err != nil {
		return SalvageReport{}, err
	}
	if err := checkEmpty(opts.FS, dst); err != nil {
		return SalvageReport{}, fmt.Errorf("bitcask: salvage into %s: %w", dst, err)
	}
	source := opts
	source.FS = readOnlyFS{opts.FS}
	sv := &salvager{
		ctx: ctx, report: SalvageReport{Damage: []Damage{}, Lost: []LostKey{}}, store: newView(src, source),
		files: map[uint32]*segment{}, entered: map[uint32]map[uint32]bool{}, lost: map[string]LostKey{},
	}
	defer sv.store.releaseAll()
	defer sv.store.stop()
	if err := sv.load(); err != nil {
		return sv.report, fmt.Errorf("bitcask: salvage %s: %w", src, err)
	}
	if err := sv.copyTo(dst, opts); err != nil {
		return sv.report, fmt.Errorf("bitcask: salvage into %s, which is not complete: %w", dst, err)
	}
	return sv.report, nil
}

// checkEmpty refuses a directory that holds anything.
func checkEmpty(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if isNotExist(err) {
		return nil
	}
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: it holds %s", ErrNotEmpty, names[0])
	}
	return err
}

// salvager finds out what reads, then copies it.
type salvager struct {
	ctx    context.Context
	store  *Store // a view of the source: its keydir and segments
	active uint32
	synced int64
	report SalvageReport

	// files are the segments as they should be: hints are held against these.
	files map[uint32]*segment

	// dropped is, for want of a manifest, where a log segment's entries were replaced by those of a later one.
	dropped map[uint32]uint64
	limit   uint64 // the highest index known committed
	beyond  int    // entries above it
	cleared uint64
	clears  []*pendingEntry // that clear; only their index and segment are used
	// damaged says which segments have damage; of those, entered has the records that read, by offset.
	entered map[uint32]map[uint32]bool
	lost    map[string]LostKey
}

func (sv *salvager) load() error {
	if err := sv.open(); err != nil {
		return err
	}
	for _, seg := range sv.files {
		sv.surveyHint(seg)
	}
	segments := sortedSegments(sv.store.visible.segments)
	for _, seg := range segments {
		if err := sv.survey(seg); err != nil {
			return err
		}
	}
	for _, p := range sv.clears {
		if sv.counts(p) && !sv.isBeyond(p) {
			sv.cleared = max(sv.cleared, p.index)
		}
	}
	for _, seg := range segments {
		if err := sv.walk(seg, sv.enterEntry, func(_ Damage, p *pendingEntry) error {
			if p == nil {
				return nil
			}
			return sv.enterEntry(nil, p)
		}); err != nil {
			return err
		}
	}
	for id := range sv.entered {
		sv.enterHint(sv.files[id])
	}
	sv.judgeLost()
	if sv.beyond > 0 {
		sv.report.Warnings = append(sv.report.Warnings,
			fmt.Sprintf("entries after %d are not known to be committed, %d of them; what they put was taken along, since it may have been acknowledged, what they delete was kept", sv.limit, sv.beyond))
	}
	sv.store.visible.keys.DropTombstones()
	return nil
}

// open opens what the manifest names or, when there is none that reads, every segment.
func (sv *salvager) open() error {
	s := sv.store
	m, err := readManifest(s.fs, s.path)
	if errors.Is(err, ErrCorrupt) || (err == nil && m == nil) {
		reason := "there is none"
		if err != nil {
			sv.report.Damage = append(sv.report.Damage, damageOf(joinPath(s.path, manifestName), err))
			reason = "it is damaged"
		}
		return sv.openAll(reason)
	}
	if err != nil {
		return err
	}
	sv.active, sv.synced = m.Active, syncedUpTo(m, m.Active)
	sv.limit, sv.cleared = m.AppliedIndex, m.Cleared
	for _, sm := range m.Segments {
		sv.files[sm.ID] = asItShouldBe(s.path, sm.ID, sm.UID, sm.Kind, sm.Size)
		seg, damage := openToSalvage(s.fs, s.path, sm)
		if damage != nil {
			sv.report.Damage = append(sv.report.Damage, *damage)
			sv.entered[sm.ID] = map[uint32]bool{}
		}
		if seg != nil {
			s.visible.segments[seg.id] = seg
		}
	}
	return nil
}

// openAll opens every segment there is, for want of a manifest.
func (sv *salvager) openAll(reason string) error {
	s := sv.store
	names, err := s.fs.List(s.path)
	if err != nil {
		return err
	}
	for _, name := range names {
		digits, found := strings.CutSuffix(name, ".seg")
		id, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil {
			continue
		}
		seg, damage := openUnnamed(s.fs, s.path, uint32(id))
		if damage != nil {
			sv.report.Damage = append(sv.report.Damage, *damage)
			continue
		}
		s.visible.segments[seg.id] = seg
		sv.files[seg.id] = asItShouldBe(s.path, seg.id, seg.uid, seg.kind, seg.size.Load())
		if seg.kind == logSegment {
			sv.active = max(sv.active, seg.id)
		}
	}
	if len(s.visible.segments)+len(sv.report.Damage) == 0 {
		return ErrNoStore
	}
	sv.findDropped()
	sv.report.Warnings = append(sv.report.Warnings,
		fmt.Sprintf("no %s could be used (%s): every segment file was read, and keys whose delete was merged away may be back", manifestName, reason))
	return nil
}

// findDropped finds entries that a truncation dropped. They are still in their file, which only the manifest
// ends before them; the next log segment begins with what took their place.
func (sv *salvager) findDropped() {
	sv.dropped = map[uint32]uint64{}
	var next uint64
	for _, seg := range slices.Backward(sortedSegments(sv.store.visible.segments)) {
		if seg.kind != logSegment {
			continue
		}
		if next != 0 {
			sv.dropped[seg.id] = next
		}
		var b [frameHeaderBytes]byte
		if n, _ := seg.file.ReadAt(b[:], segmentHeaderBytes); n < len(b) {
			continue // no entry in it
		}
		if h, err := parseFrameHeader(b[:], seg.seed, segmentHeaderBytes); err == nil && (next == 0 || h.index < next) {
			next = h.index
		}
	}
}

// counts tells whether an entry is part of the log as far as is known.
func (sv *salvager) counts(p *pendingEntry) bool {
	next, cut := sv.dropped[p.segment.id]
	return p.segment.kind == mergedSegment || !cut || p.index < next
}

// isBeyond tells whether an entry is not known to be committed.
func (sv *salvager) isBeyond(p *pendingEntry) bool {
	return p.segment.kind == logSegment && p.index > sv.limit
}

func asItShouldBe(dir string, id uint32, content uid, kind segmentKind, size int64) *segment {
	seg := &segment{id: id, uid: content, kind: kind, name: segmentName(dir, id)}
	seg.size.Store(size)
	return seg
}

func openUnnamed(fs vfs.FS, dir string, id uint32) (*segment, *Damage) {
	name := segmentName(dir, id)
	fail := func(err error) (*segment, *Damage) { d := damageOf(name, err); return nil, &d }
	file, err := fs.OpenRead(name)
	if err != nil {
		return fail(err)
	}
	size, err := file.Size()
	var header [segmentHeaderBytes]byte
	if err == nil {
		_, err = file.ReadAt(header[:], 0)
	}
	seg := &segment{id: id, name: name, file: file}
	if err == nil {
		seg.kind, seg.uid, seg.seed, err = decodeSegmentHeader(header[:])
	}
	if err != nil {
		_ = file.Close() // only read
		return fail(err)
	}
	seg.size.Store(size)
	seg.refs.Store(1)
	return seg, nil
}

// openToSalvage opens a segment in spite of a damaged header or a wrong length. It may return both.
func openToSalvage(fs vfs.FS, dir string, m segmentMeta) (*segment, *Damage) {
	seg, err := openSegment(fs, dir, m)
	if err == nil {
		return seg, nil
	}
	damage := damageOf(segmentName(dir, m.ID), err)
	file, err := fs.OpenRead(segmentName(dir, m.ID))
	if err != nil {
		return nil, &damage
	}
	seg = &segment{id: m.ID, kind: m.Kind, uid: m.UID, name: segmentName(dir, m.ID), first: m.First, last: m.Last, file: file}
	size, err := file.Size()
	seed, ok := seedInSpite(file, m, size)
	if err != nil || !ok {
		_ = file.Close() // only read
		return nil, &damage
	}
	seg.seed = seed
	seg.size.Store(min(m.Size, size))
	seg.refs.Store(1)
	return seg, &damage
}

// seedInSpite finds the seed of a segment whose header is damaged: it stands at its end, and it is the
// CRC of the rest, of which the manifest knows most. The right one is the one that the first frame has.
func seedInSpite(file vfs.File, m segmentMeta, size int64) (uint32, bool) {
	var b [segmentHeaderBytes + frameHeaderBytes]byte
	if n, _ := file.ReadAt(b[:], 0); n < len(b) {
		return 0, false // no frame, nothing to save
	}
	rebuilt := slices.Clone(b[:segmentHeaderBytes])
	copy(rebuilt, segmentMagic)
	clear(rebuilt[8:16])
	binary.LittleEndian.PutUint16(rebuilt[8:], segmentFormat)
	rebuilt[10] = byte(m.Kind)
	copy(rebuilt[16:], m.UID[:])
	for _, seed := range []uint32{
		binary.LittleEndian.Uint32(b[60:]), crc32.Checksum(b[:60], castagnoli), crc32.Checksum(rebuilt[:60], castagnoli),
	} {
		if h, err := parseFrameHeader(b[segmentHeaderBytes:], seed, segmentHeaderBytes); err == nil && h.size() <= size {
			return seed, true
		}
	}
	return 0, false
}

func (sv *salvager) walk(seg *segment, frame func(*frame, *pendingEntry) error, damage func(Damage, *pendingEntry) error) error {
	w := &walker{seg: seg, limit: seg.size.Load(), spend: func(int64) error { return sv.ctx.Err() }, frame: frame, damage: damage}
	if seg.id == sv.active {
		size, err := seg.file.Size()
		if err != nil {
			return fmt.Errorf("size of %s: %w", seg.name, err)
		}
		w.limit, w.tail, w.synced = size, true, sv.synced
	}
	_, err := w.walk()
	return err
}

// surveyHint learns from a hint how far the log is committed, and what was cleared.
func (sv *salvager) surveyHint(seg *segment) {
	h, err := openHint(sv.store.fs, sv.store.path, seg)
	if err != nil {
		return
	}
	defer h.close()
	sv.cleared = max(sv.cleared, h.cleared)
	if h.places > 0 {
		sv.limit = max(sv.limit, h.firstPlace+h.places-1) // a hint proves its segment committed
	}
}

// survey reads a segment for the same, and for what is damaged.
func (sv *salvager) survey(seg *segment) error {
	note := func(p *pendingEntry) {
		if seg.kind == logSegment && clears(p) {
			sv.clears = append(sv.clears, &pendingEntry{index: p.index, segment: seg})
		}
	}
	return sv.walk(seg, func(f *frame, p *pendingEntry) error {
		if seg.kind == logSegment {
			sv.limit = max(sv.limit, committedBy(f, sv.store.opts.Replicated))
		}
		note(p)
		return nil
	}, func(d Damage, p *pendingEntry) error {
		sv.report.Damage = append(sv.report.Damage, d)
		if sv.entered[seg.id] == nil {
			sv.entered[seg.id] = map[uint32]bool{}
		}
		if p != nil {
			note(p)
			if p.term == 0 && seg.kind == logSegment && !sv.store.opts.Replicated {
				sv.limit = max(sv.limit, p.index)
			}
		}
		return nil
	})
}

// enterEntry keeps the records of a frame, or what reads of a damaged one.
func (sv *salvager) enterEntry(_ *frame, p *pendingEntry) error {
	if !sv.counts(p) {
		return nil
	}
	beyond := sv.isBeyond(p)
	if beyond {
		sv.beyond++
	}
	for i := range p.records {
		r := &p.records[i]
		if r.flags&flagClear != 0 || (beyond && r.flags&flagDelete != 0) {
			continue
		}
		if entered := sv.entered[p.segment.id]; entered != nil {
			entered[r.offset] = true
		}
		sv.enter(r.key, keydir.Item{
			Position: keydir.Position{Segment: p.segment.id, Offset: r.offset, Size: r.size},
			Version:  r.version, ExpireAt: r.expireAt, Tombstone: r.flags&flagDelete != 0,
		})
	}
	return nil
}

func (sv *salvager) enter(key []byte, it keydir.Item) {
	if it.Version >= sv.cleared {
		sv.store.visible.keys.PutIfNewer(key, it)
	}
}

// enterHint learns from the hint of a damaged segment what its unreadable records were. Deletes
// count; values are lost unless something newer turns up.
func (sv *salvager) enterHint(seg *segment) {
	h, err := openHint(sv.store.fs, sv.store.path, seg)
	if err != nil {
		sv.report.Warnings = append(sv.report.Warnings, fmt.Sprintf("%s has no hint that reads: the keys in its damaged places, and deletes there, are not known", seg.name))
		return
	}
	defer h.close()
	entered := sv.entered[seg.id]
	err = h.each(func(k hintKey) {
		if entered[k.offset] || k.version < sv.cleared {
			return
		}
		it := keydir.Item{Position: keydir.Position{Segment: seg.id, Offset: k.offset, Size: k.size}, Version: k.version, Tombstone: true}
		if k.flags&flagDelete != 0 {
			sv.enterLostDelete(k.key, it)
			return
		}
		have, ok := sv.lost[string(k.key)]
		if !ok || k.version >= have.Index {
			sv.lost[string(k.key)] = LostKey{Key: slices.Clone(k.key), Index: k.version, File: seg.name, Offset: int64(k.offset)}
		}
	}, nil)
	if err != nil {
		sv.report.Warnings = append(sv.report.Warnings, fmt.Sprintf("%v: not all keys in the damaged places of %s are known", err, seg.name))
	}
}

// enterLostDelete enters a delete, unless a later record of the same batch set the key again.
func (sv *salvager) enterLostDelete(key []byte, it keydir.Item) {
	if have, ok := sv.store.visible.keys.Get(key); ok && after(have.Version, have.Position, it.Version, it.Position) {
		return
	}
	sv.store.visible.keys.PutIfNewer(key, it)
}

// after tells whether a record came later: by index, and within one batch by place.
func after(version uint64, at keydir.Position, otherVersion uint64, other keydir.Position) bool {
	return version > otherVersion || (version == otherVersion && at.Segment == other.Segment && at.Offset > other.Offset)
}

// judgeLost lists the lost values that nothing newer replaced.
func (sv *salvager) judgeLost() {
	for key, l := range sv.lost {
		have, ok := sv.store.visible.keys.Get([]byte(key))
		if ok && have.Version >= l.Index && (have.Version > l.Index || segmentName(sv.store.path, have.Segment) != l.File || int64(have.Offset) > l.Offset) {
			continue
		}
		if ok && !have.Tombstone {
			l.Older = have.Version
		}
		sv.report.Lost = append(sv.report.Lost, l)
	}
	slices.SortFunc(sv.report.Lost, func(a, b LostKey) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
}

// salvageBatchBytes is what one write into the new store carries.
const salvageBatchBytes = mib

// copyTo writes what the keydir points at into a new store. It syncs once, at the end: half a copy
// is worth nothing.
func (sv *salvager) copyTo(dst string, opts Options) (err error) {
	opts.Replicated, opts.Durability, opts.Merge.Disabled, opts.Scrub.Disabled = false, Never, true, true
	opts.MaxValueBytes = hardMaxValueBytes
	out, err := Open(dst, &opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	c := &salvageCopy{salvager: sv, out: out}
	view := sv.store.visible.keys.View()
	defer view.Close()
	view.Range(nil, func(key []byte, it keydir.Item) bool {
		from := len(c.keys)
		c.keys = append(c.keys, key...)
		c.chunk = append(c.chunk, salvageItem{it.Position, it.ExpireAt, from, len(c.keys)})
		if len(c.chunk) >= salvageChunk {
			err = c.copyChunk()
		}
		return err == nil
	})
	if err == nil {
		err = c.copyChunk()
	}
	if err == nil {
		err = c.flush()
	}
	return err
}

// salvageCopy moves values, a chunk of keys at a time in the order of the disk.
type salvageCopy struct {
	*salvager
	out   *Store
	batch Batch
	chunk []salvageItem
	keys  []byte // of the chunk
	buf   []byte
}

// salvageChunk keys are sorted by place and copied together, so that the disk is read forwards.
const salvageChunk = 16 << 10

type salvageItem struct {
	at       keydir.Position
	expireAt int64
	from, to int // in salvageCopy.keys
}

func (c *salvageCopy) copyChunk() error {
	slices.SortFunc(c.chunk, func(a, b salvageItem) int {
		return cmp.Or(cmp.Compare(a.at.Segment, b.at.Segment), cmp.Compare(a.at.Offset, b.at.Offset))
	})
	for _, it := range c.chunk {
		if err := c.copyKey(c.keys[it.from:it.to], it.at, it.expireAt); err != nil {
			return err
		}
	}
	c.chunk, c.keys = c.chunk[:0], c.keys[:0]
	return c.ctx.Err()
}

func (c *salvageCopy) copyKey(key []byte, at keydir.Position, expireAt int64) error {
	seg := c.store.visible.segments[at.Segment]
	value, err := readValue(seg, keydir.Item{Position: at, ExpireAt: expireAt}, key, c.buf[:0])
	if err != nil {
		c.loseValue(seg, key, at, err) // it read a moment ago: a disk that is dying
		return nil
	}
	c.buf = value
	if err := c.batch.Put(key, value, expireAt); err != nil {
		return err
	}
	c.report.Keys++
	c.report.Bytes += int64(len(key) + len(value))
	if c.batch.Size() < salvageBatchBytes {
		return nil
	}
	return c.flush()
}

func (c *salvageCopy) flush() error {
	err := c.out.Write(&c.batch)
	c.batch.Reset(0, 0)
	return err
}

func (sv *salvager) loseValue(seg *segment, key []byte, at keydir.Position, err error) {
	d := damageOf(seg.name, err)
	d.Offset, d.Bytes = int64(at.Offset), int64(at.Size)
	sv.report.Damage = append(sv.report.Damage, d)
	sv.report.Lost = append(sv.report.Lost, LostKey{Key: slices.Clone(key), File: seg.name, Offset: int64(at.Offset)})
}

func isNotExist(err error) bool { return errors.Is(err, iofs.ErrNotExist) }
