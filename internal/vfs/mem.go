package vfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that can lose power (CrashClone) and lose its process (KillClone).
//
// It behaves as the strictest local file system would: nothing is durable before it was synced.
// A new Mem has only a root directory; relative names start there too.
type Mem struct {
	mu    sync.RWMutex // guards the whole tree, contents included
	root  *inode
	locks map[*inode]bool
	// pending are the directory operations that no SyncDir has made durable yet, in order.
	pending []dirOp
	limit   int64 // bytes that the disk has, 0 for no end: see SetLimit
	mapping bool  // see SetMapping
}

// inode is a file or a directory. It outlives its names while a handle is open.
type inode struct {
	isDir bool
	// entries is what a running process sees, durable what a power loss leaves at least.
	entries, durable map[string]*inode
	data             content // of a file, but for what was written through maps since it was last absorbed
	shared           *shared // nil while nobody maps the file
}

// dirOp is one directory operation: all its changes happen or none does. A rename has two, the
// new name first; everything else has one.
type dirOp []nameChange

// nameChange makes name in dir lead to node, or to nothing.
type nameChange struct {
	dir  *inode
	name string
	node *inode
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{root: newDir(), locks: make(map[*inode]bool)}
}

func newDir() *inode {
	return &inode{isDir: true, entries: make(map[string]*inode), durable: make(map[string]*inode)}
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(name)
	if err == nil && dir.entries[base] != nil {
		err = syscall.EEXIST
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	node := &inode{}
	m.changeLocked(nameChange{dir, base, node})
	return &memFile{m: m, node: node, name: name, writable: true}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.open(name, true) }

// OpenRead implements FS.
func (m *Mem) OpenRead(name string) (File, error) { return m.open(name, false) }

func (m *Mem) open(name string, writable bool) (File, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	node, err := m.findLocked(name)
	if err == nil && node.isDir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &memFile{m: m, node: node, name: name, writable: writable}, nil
}

// Remove implements FS. Handles on the file go on working.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	node := dir.entries[base]
	switch {
	case node == nil:
		return pathError("remove", name, syscall.ENOENT)
	case len(node.entries) > 0:
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	m.changeLocked(nameChange{dir, base, nil})
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.renameLocked(from, to); err != nil {
		return pathError("rename", from+" "+to, err)
	}
	return nil
}

func (m *Mem) renameLocked(from, to string) error {
	fromDir, fromBase, err := m.parentLocked(from)
	if err != nil {
		return err
	}
	toDir, toBase, err := m.parentLocked(to)
	if err != nil {
		return err
	}
	node, target := fromDir.entries[fromBase], toDir.entries[toBase]
	switch {
	case node == nil:
		return syscall.ENOENT
	case node == target && !node.isDir:
		return nil // rename(2): two names of one file both stay
	case target != nil && target.isDir:
		return syscall.EEXIST // as os.Rename
	case node.isDir && node.contains(toDir):
		return syscall.EINVAL // a directory cannot move below itself
	case target != nil && node.isDir:
		return syscall.ENOTDIR
	}
	m.changeLocked(nameChange{toDir, toBase, node}, nameChange{fromDir, fromBase, nil})
	return nil
}

// contains reports whether dir is n or a directory below it.
func (n *inode) contains(dir *inode) bool {
	if n == dir {
		return true
	}
	for _, child := range n.entries {
		if child.isDir && child.contains(dir) {
			return true
		}
	}
	return false
}

// Link implements FS.
func (m *Mem) Link(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.findLocked(from)
	if err != nil {
		return pathError("link", from, err)
	}
	dir, base, err := m.parentLocked(to)
	switch {
	case err != nil:
	case dir.entries[base] != nil:
		err = syscall.EEXIST
	case node.isDir:
		err = syscall.EPERM
	}
	if err != nil {
		return pathError("link", to, err)
	}
	m.changeLocked(nameChange{dir, base, node})
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	node, err := m.findDirLocked(dir)
	if err != nil {
		return nil, pathError("list", dir, err)
	}
	return slices.Sorted(maps.Keys(node.entries)), nil
}

// MkdirAll implements FS. Each new directory is an unsynced name in its parent.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.root
	for _, base := range split(dir) {
		next := node.entries[base]
		if next == nil {
			next = newDir()
			m.changeLocked(nameChange{node, base, next})
		}
		if !next.isDir {
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
		node = next
	}
	return nil
}

// Lock implements FS. Locks belong to this Mem; clones start with none.
func (m *Mem) Lock(name, holder string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	node := dir.entries[base]
	if node == nil {
		node = &inode{}
		m.changeLocked(nameChange{dir, base, node})
	}
	if node.isDir {
		return nil, pathError("lock", name, syscall.EISDIR)
	}
	if m.locks[node] {
		text := make([]byte, node.data.size)
		node.data.read(text, 0)
		return nil, &LockedError{Name: name, Holder: strings.TrimSpace(string(text))}
	}
	m.locks[node] = true
	node.data.truncate(0)
	node.data.write([]byte(holder+"\n"), 0)
	return &memLock{m: m, node: node}, nil
}

type memLock struct {
	m    *Mem
	node *inode
	once sync.Once // a second Close must not free the next holder's lock
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		delete(l.m.locks, l.node)
	})
	return nil
}

// changeLocked applies one directory operation for running processes and remembers it as unsynced.
func (m *Mem) changeLocked(changes ...nameChange) {
	for _, c := range changes {
		setName(c.dir.entries, c.name, c.node)
	}
	m.pending = append(m.pending, changes)
}

func setName(names map[string]*inode, name string, node *inode) {
	if node == nil {
		delete(names, name)
		return
	}
	names[name] = node
}

// findLocked returns what a path leads to.
func (m *Mem) findLocked(name string) (*inode, error) {
	node := m.root
	for _, base := range split(name) {
		if !node.isDir {
			return nil, syscall.ENOTDIR
		}
		if node = node.entries[base]; node == nil {
			return nil, syscall.ENOENT
		}
	}
	return node, nil
}

func (m *Mem) findDirLocked(name string) (*inode, error) {
	node, err := m.findLocked(name)
	if err == nil && !node.isDir {
		err = syscall.ENOTDIR
	}
	return node, err
}

// parentLocked returns the directory in which the last element of a path is a name.
func (m *Mem) parentLocked(name string) (dir *inode, base string, err error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", syscall.EBUSY // the root has no name
	}
	last := len(parts) - 1
	dir, err = m.findDirLocked(strings.Join(parts[:last], "/"))
	return dir, parts[last], err
}

// split returns the elements of a path from the root.
func split(name string) []string {
	clean := strings.Trim(filepath.ToSlash(filepath.Clean("/"+name)), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

func pathError(op, name string, err error) error {
	var already *fs.PathError
	if errors.As(err, &already) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
