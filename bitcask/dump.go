package bitcask

import (
	"context"
	"errors"
	"fmt"
)

// DumpRecord is one effect in a segment, or a place that does not read.
type DumpRecord struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // of the record, or of the frame that has none
	// Op is put, delete, clear, entry (opaque to the engine), void (of another term) or damage.
	Op       string `json:"op"`
	Index    uint64 `json:"index"` // of the entry that wrote it
	Term     uint64 `json:"term,omitempty"`
	Kind     Kind   `json:"kind,omitempty"` // of an opaque entry
	Key      []byte `json:"key,omitempty"`
	Value    []byte `json:"value,omitempty"`
	ExpireAt int64  `json:"expire_at,omitempty"` // ms since 1970
	Bytes    int64  `json:"bytes"`               // of the record, frame or place
	Reason   string `json:"reason,omitempty"`    // of damage
}

// Dump gives every record of a store in the order of its files, dead ones and entries that
// are not committed included. As Verify it works on an open store, takes no lock and
// changes nothing. What fn is given is valid during the call; its error ends the dump. Damage is a
// record like any other.
func Dump(ctx context.Context, dir string, options *Options, fn func(*DumpRecord) error) error {
	opts, err := options.withDefaults()
	if err != nil {
		return err
	}
	set, err := openFiles(readOnlyFS{opts.FS}, dir, allFiles)
	if err != nil {
		return fmt.Errorf("bitcask: dump %s: %w", dir, err)
	}
	defer set.close()
	for _, d := range set.damage {
		if err := fn(dumpDamage(d)); err != nil {
			return err
		}
	}
	for _, seg := range set.segments {
		if err := dumpSegment(ctx, seg, set.manifest, fn); err != nil {
			return err
		}
	}
	return nil
}

func dumpSegment(ctx context.Context, seg *segment, m *manifest, fn func(*DumpRecord) error) error {
	w := &walker{
		seg: seg, limit: seg.size.Load(),
		spend:  func(int64) error { return ctx.Err() },
		frame:  func(f *frame, p *pendingEntry) error { return dumpFrame(seg, f, p, fn) },
		damage: func(d Damage, _ *pendingEntry) error { return fn(dumpDamage(d)) },
	}
	if seg.id == m.Active {
		size, err := seg.file.Size()
		if err != nil {
			return fmt.Errorf("bitcask: size of %s: %w", seg.name, err)
		}
		w.limit, w.tail, w.synced = size, true, syncedUpTo(m, seg.id)
	}
	_, err := w.walk()
	return err
}

func dumpDamage(d Damage) *DumpRecord {
	return &DumpRecord{File: d.File, Offset: d.Offset, Op: "damage", Bytes: d.Bytes, Reason: d.Reason}
}

func dumpFrame(seg *segment, f *frame, p *pendingEntry, fn func(*DumpRecord) error) error {
	switch {
	case f.kind != KindData && f.kind != kindMerged:
		return fn(&DumpRecord{File: seg.name, Offset: f.offset, Op: "entry", Index: f.index, Term: f.term, Kind: f.kind, Bytes: f.size()})
	case len(p.records) == 0:
		return fn(&DumpRecord{File: seg.name, Offset: f.offset, Op: "void", Index: f.index, Term: f.term, Bytes: f.size()})
	}
	for i := range p.records {
		r := &p.records[i]
		d := &DumpRecord{File: seg.name, Offset: int64(r.offset), Index: r.version, Term: f.term, Key: r.key, ExpireAt: r.expireAt, Bytes: int64(r.size)}
		switch {
		case r.flags&flagClear != 0:
			d.Op = "clear"
		case r.flags&flagDelete != 0:
			d.Op = "delete"
		default:
			d.Op = "put"
			rec, err := parseRecord(f.data[int64(r.offset)-f.offset-frameHeaderBytes:][:r.size])
			if err != nil {
				return errors.Join(err, fn(dumpDamage(Damage{File: seg.name, Offset: int64(r.offset), Reason: err.Error()})))
			}
			d.Value = rec.value
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	return nil
}
