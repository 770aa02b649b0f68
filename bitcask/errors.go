package bitcask

import (
	"errors"
	"fmt"
)

// Sentinels for callers that branch; compare with errors.Is.
var (
	// ErrNotFound: the key has no live value.
	ErrNotFound = errors.New("bitcask: not found")
	// ErrCorrupt: bytes that no crash could have left here. Nothing was
	// deleted; the error names the file and the offset (see CorruptError).
	ErrCorrupt = errors.New("bitcask: corrupt")
	// ErrPoisoned: an fsync failed, so what is on disk is unknown. The store
	// takes no more writes until it is opened again (PostgreSQL's fsyncgate).
	ErrPoisoned = errors.New("bitcask: poisoned by a failed sync")
	// ErrNoSpace: the disk is full. The write was not applied; reads go on, and
	// writes do too as soon as there is room.
	ErrNoSpace = errors.New("bitcask: no space left on the device")
	// ErrIncomplete: Append failed with some of its entries in the log already.
	ErrIncomplete = errors.New("bitcask: appended in part")
	// ErrLocked: another process, or another Open in this one, has the directory.
	ErrLocked = errors.New("bitcask: directory is in use")
	// ErrTooLarge: a key or a value over its limit. Nothing was written.
	ErrTooLarge = errors.New("bitcask: too large")
	// ErrEmptyKey: keys have at least one byte. Nothing was written.
	ErrEmptyKey = errors.New("bitcask: empty key")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("bitcask: closed")
	// ErrReplicated: a direct write to a store whose writes come from a log.
	ErrReplicated = errors.New("bitcask: store is driven by a replicated log")
	// ErrNoEntry: the log holds no entry of that index.
	ErrNoEntry = errors.New("bitcask: no such log entry")
	// ErrReadOnly: a write through OpenReadOnly. Nothing was written.
	ErrReadOnly = errors.New("bitcask: store was opened to read only")
	// ErrNoStore: the directory holds no store.
	ErrNoStore = errors.New("bitcask: no store here")
	// ErrNoBackup: the directory holds no whole backup. Nothing was changed.
	ErrNoBackup = errors.New("bitcask: no whole backup here")
	// ErrNotEmpty: the directory to write to holds something else. Nothing was changed.
	ErrNotEmpty = errors.New("bitcask: directory is not empty")
)

// CorruptError says where damage was found. It matches ErrCorrupt.
type CorruptError struct {
	File   string // path
	Offset int64  // bytes from the start of File
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("bitcask: corrupt: %s at offset %d: %s; nothing was deleted", e.File, e.Offset, e.Reason)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
