package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
)

const dirLock = "LOCK"

// LockDir takes the data directory for this process, and creates it if it is missing. It comes before anything else is
// written there: two first starts in one directory would give it two identities. Another holder is bitcask.ErrLocked,
// the directory of an engine ErrIdentity.
func LockDir(dir string) (io.Closer, error) {
	fs := vfs.OS()
	if err := refuseStore(fs, dir); err != nil {
		return nil, err
	}
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

// refuseStore keeps a node out of the directory of an engine, or of a backup of one. Nothing in it would be read: the
// node would found an empty cluster beside the data.
func refuseStore(fs vfs.FS, dir string) error {
	names, _ := fs.List(dir) // an error comes again where more depends on it
	if slices.Contains(names, identityFile) {
		return nil
	}
	i := slices.IndexFunc(names, func(name string) bool { return name == "MANIFEST" || filepath.Ext(name) == ".seg" })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("%w: %s holds a %s: it is a store or a backup of the engine, not the data directory of a node, which has its store in %s below it; "+
		"it was left as it is; look into it with \"raftcask cask\", make a cluster of a backup with \"raftcask recover --backup\", or give the node an empty directory, which the other nodes fill",
		ErrIdentity, dir, names[i], filepath.Join(groupsDir, fmt.Sprintf("%04d", defaultGroup), "cask"))
}
