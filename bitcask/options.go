package bitcask

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// Durability says when a write that was acknowledged is on disk.
type Durability uint8

const (
	// Always syncs before every acknowledgement; concurrent writers share one
	// sync. An acknowledged write survives power loss.
	Always Durability = iota
	// Interval syncs in the background every Options.SyncInterval. Power loss
	// may cost the last interval's writes; a crash of the process costs none.
	Interval
	// Never leaves syncing to the operating system. Power loss may cost any
	// write since the last rotation, Sync or Close.
	Never
)

// String gives the name that configuration files use.
func (d Durability) String() string {
	switch d {
	case Always:
		return "always"
	case Interval:
		return "interval"
	case Never:
		return "never"
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}

// ParseDurability is the inverse of String.
func ParseDurability(name string) (Durability, error) {
	for _, d := range []Durability{Always, Interval, Never} {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("durability %q is not one of always, interval, never", name)
}

// Options of a store. The zero value (or nil) is a good choice for most.
type Options struct {
	// Durability of acknowledged writes; default Always.
	Durability Durability
	// SyncInterval between background syncs, for Interval only; default 1 s.
	// Longer loses more on power loss and costs less.
	SyncInterval time.Duration
	// SegmentBytes at which a segment is sealed and the next one begun; default
	// 256 MiB, at most 1 GiB. Smaller segments are merged sooner, larger ones
	// need fewer files. While much is dead (a quarter of what is alive), segments are sealed and merged into ones of an eighth of what is alive, but
	// not less than 1/16 of SegmentBytes. A segment is also the extra space that a merge takes.
	SegmentBytes int64
	// MaxValueBytes of one value; default 8 MiB, at most 64 MiB. Larger values
	// are refused with ErrTooLarge.
	MaxValueBytes int
	// HashSeed keys the hash of the keydir. Replicas that share it understand
	// each other's ScanKeys cursors. Default: a fixed seed.
	HashSeed uint64
	// OpenWorkers load keys side by side at Open and at Adopt; default one for each processor. Fewer leave
	// processors to others, and take longer.
	OpenWorkers int
	// Replicated hands the log to the caller: writes come through Append and
	// Commit only, and Put, Delete and Write are refused. See the package comment.
	Replicated bool
	// Merge policy.
	Merge MergePolicy
	// Scrub policy: how sealed segments are read again to find what rotted.
	Scrub ScrubPolicy
	// FS is the disk; default the operating system's.
	FS vfs.FS
	// noCommitNotes is for tests that must know every operation of the disk.
	noCommitNotes bool
	// Logger of background work; default slog.Default().
	Logger *slog.Logger
	// Now is the clock that expiry times are judged by; default time.Now.
	Now func() time.Time
}

// MergePolicy decides which segments a merge rewrites, and how fast. Most names are those of
// Basho's Bitcask. A merge starts when a sealed segment passes a trigger; every
// segment that passes a threshold joins it, the emptiest first, as long as the output is one segment. When the store as a whole
// passes SpaceTrigger, the segments that are emptier than the average are merged whatever their own triggers say. A segment
// that cannot shrink is never taken alone.
//
// The defaults: under uniform overwrites a segment that is merged when it is 60 % dead frees 1.5 bytes for each that is written,
// and the store as a whole is then about half as much dead as alive, which is SpaceTrigger. So with frames, hints and
// a merge under way it takes 1.7 to 1.9 times its live records on disk, and writes each byte about twice (make bench-merge); higher
// triggers take more space and write less. Segments at 40 % join because the merge is running anyway and their
// garbage would be merged soon. Dead bytes count in halves and quarters of a segment, where Basho has 512 and 128 MiB for
// files of 2 GiB: what may be wasted follows the size of a file. Four small segments start a merge: each
// costs a descriptor and a hint, and a merge of fewer would run after every restart.
type MergePolicy struct {
	// Disabled turns background maintenance off. Store.Merge still works, and makes
	// the hints that are missing; so does the next Open.
	Disabled bool
	// FragmentationTrigger and FragmentationThreshold are dead bytes in percent
	// of the segment; default 60 and 40.
	FragmentationTrigger, FragmentationThreshold int
	// DeadBytesTrigger and DeadBytesThreshold; default half and a quarter of
	// SegmentBytes.
	DeadBytesTrigger, DeadBytesThreshold int64
	// SpaceTrigger is the dead bytes of the segments that may be merged, in percent of all live bytes, or of SegmentBytes if less is alive;
	// default 50. From here on merges go faster than BytesPerSecond, up to 64 times as fast at 1.1 times the trigger; beyond that, puts
	// are held up, some milliseconds at a time and a second at most, by how fast merges may be. Delete never is, nor is anything
	// when background merges are off or out of their Window, or the store is Replicated. A high value takes space instead.
	SpaceTrigger int
	// SmallFileBytes: sealed segments below this join a merge, and four of
	// them start one; default 1/16 of SegmentBytes, and never more than a quarter of an output.
	SmallFileBytes int64
	// BytesPerSecond limits how fast a merge reads while there is not much to reclaim; default 8 MiB/s. More reclaims sooner and disturbs
	// the foreground more: with two busy processors, p99 of synced puts was 0.9 to 1.3 times that without a merge at 8 MiB/s, 1.1 to 2.5 at 16, and
	// 3 at 64. See SpaceTrigger for what happens when that is too slow. Store.Merge keeps to it too. Hints of sealed segments are made
	// at 32 times the limit.
	BytesPerSecond int64
	// Window is the time of day in which background merges may begin; default always. What began in it
	// runs to its end, and a full disk is merged at any time. A narrow window needs room for the dead bytes of a day.
	Window MergeWindow
	// ReserveBytes of disk are kept aside, so that a merge can run on a full one; default
	// SegmentBytes, negative for none. It is never more than the sealed segments
	// hold, or twice the largest of them, and the manifest and 64 KiB beside. With less than a segment's live records, that segment must wait for room.
	ReserveBytes int64
}

// MergeWindow is a part of the day, local time, as time since midnight: from From on, before To. To may be earlier, on the next
// day then. The zero value is the whole day.
type MergeWindow struct {
	From, To time.Duration
}

// contains tells whether now, local time, is in the window.
func (w MergeWindow) contains(now time.Time) bool {
	hour, minute, second := now.Local().Clock()
	t := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	switch {
	case w == MergeWindow{}:
		return true
	case w.From < w.To:
		return w.From <= t && t < w.To
	}
	return w.From <= t || t < w.To
}

func (w MergeWindow) validate() error {
	const day = 24 * time.Hour
	if w.From < 0 || w.From >= day || w.To < 0 || w.To > day || (w.From == w.To && w.From != 0) {
		return fmt.Errorf("bitcask: option Merge.Window: from %s to %s is no part of a day", w.From, w.To)
	}
	return nil
}

const (
	defaultSegmentBytes  = 256 << 20
	maxSegmentBytes      = 1 << 30
	minSegmentBytes      = 400 // as small as the crash tests want it
	defaultMaxValueBytes = 8 << 20
	hardMaxValueBytes    = 64 << 20
	defaultHashSeed      = 0x9ae16a3b2f90404f
	mib                  = 1 << 20
)

// withDefaults copies, fills and validates o.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	setDefault(&c.SyncInterval, time.Second)
	setDefault(&c.SegmentBytes, int64(defaultSegmentBytes))
	setDefault(&c.MaxValueBytes, defaultMaxValueBytes)
	setDefault(&c.HashSeed, uint64(defaultHashSeed))
	setDefault(&c.OpenWorkers, runtime.GOMAXPROCS(0))
	setDefault(&c.Merge.FragmentationTrigger, 60)
	setDefault(&c.Merge.FragmentationThreshold, 40)
	setDefault(&c.Merge.SpaceTrigger, 50)
	setDefault(&c.Merge.DeadBytesTrigger, c.SegmentBytes/2)
	setDefault(&c.Merge.DeadBytesThreshold, c.SegmentBytes/4)
	setDefault(&c.Merge.SmallFileBytes, c.SegmentBytes/16)
	setDefault(&c.Merge.ReserveBytes, c.SegmentBytes)
	setDefault(&c.Merge.BytesPerSecond, int64(8*mib))
	c.Scrub.setDefaults()
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, c.validate()
}

func (o *Options) validate() error {
	switch {
	case o.Durability > Never:
		return fmt.Errorf("bitcask: option Durability: unknown value %d", o.Durability)
	case o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes:
		return fmt.Errorf("bitcask: option SegmentBytes: %d is not between %d and %d", o.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	case o.MaxValueBytes < 1 || o.MaxValueBytes > hardMaxValueBytes:
		return fmt.Errorf("bitcask: option MaxValueBytes: %d is not between 1 and %d", o.MaxValueBytes, hardMaxValueBytes)
	case o.OpenWorkers < 0:
		return fmt.Errorf("bitcask: option OpenWorkers: %d is negative", o.OpenWorkers)
	case o.SyncInterval < 0:
		return fmt.Errorf("bitcask: option SyncInterval: %s is negative", o.SyncInterval)
	case o.Merge.FragmentationThreshold > o.Merge.FragmentationTrigger || o.Merge.DeadBytesThreshold > o.Merge.DeadBytesTrigger:
		return fmt.Errorf("bitcask: option Merge: a threshold above its trigger would start merges that never end")
	case o.Merge.SpaceTrigger < 0:
		return fmt.Errorf("bitcask: option Merge.SpaceTrigger: %d %% is negative", o.Merge.SpaceTrigger)
	case o.Merge.BytesPerSecond < 0:
		return fmt.Errorf("bitcask: option Merge.BytesPerSecond: %d is negative", o.Merge.BytesPerSecond)
	case o.Scrub.BytesPerSecond < 0 || o.Scrub.Interval < 0:
		return fmt.Errorf("bitcask: option Scrub: a negative budget or interval (%d, %s); Disabled turns it off", o.Scrub.BytesPerSecond, o.Scrub.Interval)
	case o.Replicated && o.Durability != Always:
		// Raft counts an entry as stored as soon as Append returns.
		return fmt.Errorf("bitcask: option Durability: a replicated store needs %s, not %s", Always, o.Durability)
	}
	return o.Merge.Window.validate()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
