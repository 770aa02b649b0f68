package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
)

const dirLock = "LOCK"

// LockDir takes the data directory for this process, and creates it if it is missing. It comes before anything else is
// read or written there: two first starts in one directory would give it two identities. Another holder is
// bitcask.ErrLocked.
func LockDir(dir string) (io.Closer, error) {
	fs := vfs.OS()
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	host, _ := os.Hostname() // only for the message
	lock, err := fs.Lock(filepath.Join(dir, dirLock), fmt.Sprintf("process %d on host %q", os.Getpid(), host))
	var locked *vfs.LockedError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("%w: %s is held by %s; stop it, or use another directory", bitcask.ErrLocked, dir, locked.Holder)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return lock, nil
}
