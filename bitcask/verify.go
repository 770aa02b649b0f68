package bitcask

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"slices"

	"github.com/raftcask/raftcask/internal/vfs"
)

// VerifyReport is what Verify read.
type VerifyReport struct {
	Segments     int      `json:"segments"` // live ones, and those that saved checkpoints keep
	Frames       uint64   `json:"frames"`
	Records      uint64   `json:"records"`
	Bytes        int64    `json:"bytes"` // of segments
	Hints        int      `json:"hints"`
	MissingHints int      `json:"missing_hints"` // of live sealed segments; the next Open makes them
	Damage       []Damage `json:"damage"`
}

// Verify reads every byte of a store that counts and checks its CRC: manifest, segments up to the
// last frame, hints, and whether each hint says what its segment says. The store may be
// closed, or open in another process. No lock is taken and nothing is changed. Damage is in the
// report; the error is for what prevented the look, such as ErrNoStore.
func Verify(ctx context.Context, dir string, options *Options) (VerifyReport, error) {
	var report VerifyReport
	opts, err := options.withDefaults()
	if err != nil {
		return report, err
	}
	fs := readOnlyFS{opts.FS}
	set, err := openFiles(fs, dir, allFiles)
	if errors.Is(err, ErrCorrupt) {
		report.Damage = []Damage{damageOf(dir, err)} // the manifest: nothing else can be judged
		return report, nil
	}
	if err != nil {
		return report, fmt.Errorf("bitcask: verify %s: %w", dir, err)
	}
	defer func() { set.close() }()
	report.Damage = append([]Damage{}, set.damage...) // never null as JSON
	for _, seg := range set.segments {
		v := &verifier{ctx: ctx, fs: fs, dir: dir, set: set, report: &report}
		if err := v.verify(seg); err != nil {
			return report, fmt.Errorf("bitcask: verify %s: %w", dir, err)
		}
	}
	return report, nil
}

// verifier checks one segment and its hint.
type verifier struct {
	ctx    context.Context
	fs     vfs.FS
	dir    string
	set    *fileSet
	report *VerifyReport

	frames, records uint64
	sum             hintSum
	damage          []Damage
}

func (v *verifier) verify(seg *segment) error {
	end, err := v.walk(seg)
	if err != nil {
		return err
	}
	active := seg.id == v.set.manifest.Active
	if active && len(v.damage) > 0 {
		// A writer may have cut its log while we read. What is damaged stays so.
		if end, err = v.confirm(seg, v.damage); err != nil {
			return err
		}
	}
	r := v.report
	r.Segments++
	r.Frames, r.Records, r.Bytes = r.Frames+v.frames, r.Records+v.records, r.Bytes+end
	r.Damage = append(r.Damage, v.damage...)
	if active {
		return nil
	}
	var want *hintSum
	if len(v.damage) == 0 {
		want = &v.sum
	}
	live := slices.ContainsFunc(v.set.manifest.Segments, func(sm segmentMeta) bool { return sm.ID == seg.id })
	d, err := checkHint(v.fs, v.dir, seg, want, !live)
	switch {
	case errors.Is(err, iofs.ErrNotExist) && live:
		r.MissingHints++
	case errors.Is(err, iofs.ErrNotExist):
	case d != nil:
		r.Damage = append(r.Damage, *d)
	default:
		r.Hints++
	}
	return nil
}

func (v *verifier) walk(seg *segment) (end int64, err error) {
	v.frames, v.records, v.sum, v.damage = 0, 0, hintSum{}, nil
	w := &walker{
		seg: seg, limit: seg.size.Load(),
		spend: func(int64) error { return v.ctx.Err() },
		frame: func(_ *frame, p *pendingEntry) error {
			v.frames++
			v.records += uint64(len(p.records))
			for i := range p.records {
				v.sum.addRecord(&p.records[i])
			}
			return nil
		},
		damage: func(d Damage, _ *pendingEntry) error { v.damage = append(v.damage, d); return nil },
	}
	if seg.id == v.set.manifest.Active {
		if w.limit, err = seg.file.Size(); err != nil {
			return 0, fmt.Errorf("size of %s: %w", seg.name, err)
		}
		w.tail, w.synced = true, syncedUpTo(v.set.manifest, seg.id)
	}
	return w.walk()
}

// confirm reads the active segment again, with a newer manifest, until two looks agree.
func (v *verifier) confirm(seg *segment, before []Damage) (end int64, err error) {
	for range settleTries {
		m, err := readManifest(v.fs, v.dir)
		if err != nil || m == nil {
			return 0, fmt.Errorf("read the manifest again: %w", errors.Join(err, v.ctx.Err()))
		}
		if m.Active == seg.id {
			v.set.manifest = m
		}
		if end, err = v.walk(seg); err != nil {
			return 0, err
		}
		if slices.Equal(before, v.damage) {
			return end, nil
		}
		before = v.damage
	}
	return end, nil
}

// hintSum compares what a hint holds with what its segment holds, in order.
type hintSum struct {
	keys uint64
	crc  uint32
}

func (h *hintSum) add(k *hintKey) {
	var b [25]byte
	b[0] = byte(k.flags)
	binary.LittleEndian.PutUint32(b[1:], k.offset)
	binary.LittleEndian.PutUint32(b[5:], k.size)
	binary.LittleEndian.PutUint64(b[9:], k.version)
	binary.LittleEndian.PutUint64(b[17:], uint64(k.expireAt))
	h.crc = crc32.Update(crc32.Update(h.crc, castagnoli, b[:]), castagnoli, k.key)
	h.keys++
}

func (h *hintSum) addRecord(r *pendingRecord) {
	if r.flags&flagClear != 0 {
		return
	}
	h.add(&hintKey{flags: r.flags & flagDelete, offset: r.offset, size: r.size, version: r.version, expireAt: r.expireAt, key: r.key})
}

// checkHint reads a whole hint. want is what the segment holds, nil when that is not known. part says that the segment may
// be a part that a checkpoint ends in: it was sealed later, and its hint is of all of it. A
// hint that is not there is fs.ErrNotExist, and no damage.
func checkHint(fs vfs.FS, dir string, seg *segment, want *hintSum, part bool) (*Damage, error) {
	name := hintName(dir, seg.id)
	r, err := openHintThat(fs, dir, seg.id, func(h *hintHeader) bool {
		if part && h.segmentSize > seg.size.Load() {
			want = nil
			return h.uid == seg.uid
		}
		return h.uid == seg.uid && h.segmentSize == seg.size.Load()
	})
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return &Damage{File: name, Reason: err.Error()}, nil
	}
	defer r.close()
	var got hintSum
	at, err := eachHintBlock(r, &got)
	if err == nil && got.keys != r.keys {
		err = fmt.Errorf("it has %d keys, its header says %d", got.keys, r.keys)
	}
	if err == nil && want != nil && got != *want {
		err = fmt.Errorf("it holds %d keys that are not the %d of its segment", got.keys, want.keys)
	}
	if err != nil {
		return &Damage{File: name, Offset: at, Reason: err.Error() + "; a hint is made again from its segment"}, nil
	}
	return nil, nil
}

// eachHintBlock returns where the block begins that does not read.
func eachHintBlock(r *hintReader, sum *hintSum) (at int64, err error) {
	buf := make([]byte, 0, hintBlockBytes+hintKeyBytes+MaxKeyBytes)
	for at = hintHeaderBytes; at < r.fileSize; {
		kind, block, err := readHintBlock(io.NewSectionReader(r.file, at, r.fileSize-at), buf)
		if err != nil {
			return at, err
		}
		if kind == hintBlockKeys {
			if _, err := eachHintKey(block, func(k hintKey) { sum.add(&k) }); err != nil {
				return at, err
			}
		}
		at += int64(hintBlockHeader + len(block))
	}
	return 0, nil
}
