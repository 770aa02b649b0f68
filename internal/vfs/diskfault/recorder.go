package diskfault

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/raftcask/raftcask/internal/vfs"
)

// recorder passes everything on, and notes before each change how to undo it. Changes wait for each other.
type recorder struct {
	vfs.FS
	dir string

	mu    sync.Mutex
	notes *noteFile
}

func newRecorder(inner vfs.FS, dir string) (*recorder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	notes, err := openNotes(dir)
	if err != nil {
		return nil, fmt.Errorf("notes in %s: %w", dir, err)
	}
	return &recorder{FS: inner, dir: dir, notes: notes}, nil
}

// change notes how to undo a change, and makes it. A failed change has changed nothing.
func (r *recorder) change(n note, perform func() error) error {
	seq, err := r.notes.add(n)
	if err != nil {
		return err
	}
	if err := perform(); err != nil {
		return joinNoteError(err, r.notes.void(seq))
	}
	return nil
}

// joinNoteError keeps err as it is, unless the notes themselves are broken: then nothing that follows means anything.
func joinNoteError(err, notesErr error) error {
	if notesErr != nil {
		return fmt.Errorf("%w (and the notes of the recorder: %w)", err, notesErr)
	}
	return err
}

// Create implements vfs.FS.
func (r *recorder) Create(name string) (vfs.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := os.Lstat(name); err == nil {
		return r.FS.Create(name) // an error: it exists
	}
	var f vfs.File
	err := r.change(note{Kind: noteCreate, Path: name}, func() (err error) {
		f, err = r.FS.Create(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.watch(f, name)
}

// Open implements vfs.FS.
func (r *recorder) Open(name string) (vfs.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return r.watch(f, name)
}

// watch gives the file a second name among the notes, under which Cut finds it whatever becomes of the first.
func (r *recorder) watch(f vfs.File, name string) (vfs.File, error) {
	id, err := inode(name)
	if err == nil {
		err = linkIfMissing(name, r.notes.contentOf(id))
	}
	if err != nil {
		_ = f.Close() // the first error is the one to report
		return nil, err
	}
	r.notes.open[id]++
	return &recordedFile{File: f, r: r, id: id}, nil
}

// Remove implements vfs.FS.
func (r *recorder) Remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Lstat(name)
	if err != nil {
		return r.FS.Remove(name) // the same error
	}
	n := note{Kind: noteRemoveDir, Path: name}
	if !info.IsDir() {
		n.Kind = noteRemove
		if n.Old, err = r.notes.keep(name); err != nil {
			return err
		}
	}
	return r.change(n, func() error { return r.FS.Remove(name) })
}

// Rename implements vfs.FS.
func (r *recorder) Rename(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := note{Kind: noteRename, Path: from, To: to}
	var err error
	if n.File, err = inode(from); err != nil {
		return r.FS.Rename(from, to) // the same error
	}
	if info, err := os.Lstat(to); err == nil && !info.IsDir() {
		if n.Old, err = r.notes.keep(to); err != nil {
			return err
		}
	}
	return r.change(n, func() error { return r.FS.Rename(from, to) })
}

// Link implements vfs.FS.
func (r *recorder) Link(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := os.Lstat(to); err == nil {
		return r.FS.Link(from, to) // an error: it exists
	}
	return r.change(note{Kind: noteCreate, Path: to}, func() error { return r.FS.Link(from, to) })
}

// MkdirAll implements vfs.FS.
func (r *recorder) MkdirAll(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	for d := filepath.Clean(dir); d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil {
			break
		}
		missing = append([]string{d}, missing...)
	}
	for _, d := range missing {
		if err := r.change(note{Kind: noteMakeDir, Path: d}, func() error { return r.FS.MkdirAll(d) }); err != nil {
			return err
		}
	}
	return r.FS.MkdirAll(dir)
}

// SyncDir implements vfs.FS. What was changed before it began is durable when it has ended.
func (r *recorder) SyncDir(dir string) error {
	r.mu.Lock()
	until := r.notes.seq
	r.mu.Unlock()
	if err := r.FS.SyncDir(dir); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.notes.settle(note{Kind: noteDirSynced, Path: filepath.Clean(dir), Until: until})
}

// recordedFile notes what it overwrites.
type recordedFile struct {
	vfs.File
	r  *recorder
	id uint64
}

// WriteAt implements vfs.File.
func (f *recordedFile) WriteAt(p []byte, off int64) (n int, err error) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	old, err := f.before(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	if _, err := f.r.notes.add(old); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off) // a part of it may have happened, so the note stays
}

// Truncate implements vfs.File.
func (f *recordedFile) Truncate(size int64) error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	old, err := f.before(size, 1<<62)
	if err != nil {
		return err
	}
	old.Cut = old.Len > 0
	return f.r.change(old, func() error { return f.File.Truncate(size) })
}

// Preallocate implements vfs.File.
func (f *recordedFile) Preallocate(size int64) error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	old, err := f.before(0, 0)
	if err != nil {
		return err
	}
	return f.r.change(old, func() error { return f.File.Preallocate(size) })
}

// before is the note about so many bytes at off, as far as the file has them.
func (f *recordedFile) before(off, length int64) (note, error) {
	size, err := f.Size()
	if err != nil {
		return note{}, err
	}
	n := note{Kind: noteContent, File: f.id, Off: off, Size: size, Len: max(0, min(length, size-off))}
	if n.Len == 0 {
		return n, nil
	}
	data := make([]byte, n.Len)
	if _, err := f.ReadAt(data, off); err != nil && err != io.EOF { //nolint:errorlint // io.ReaderAt returns it bare
		return note{}, err
	}
	// Most writes go to preallocated space, and most truncations cut it off: a length is enough for zeros.
	if len(bytes.Trim(data, "\x00")) > 0 {
		n.Data = data
	}
	return n, nil
}

// Sync implements vfs.File.
func (f *recordedFile) Sync() error {
	f.r.mu.Lock()
	until := f.r.notes.seq
	f.r.mu.Unlock()
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return f.r.notes.settle(note{Kind: noteSynced, File: f.id, Until: until})
}

// Close implements vfs.File.
func (f *recordedFile) Close() error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.notes.closed(f.id)
	return f.File.Close()
}

func inode(name string) (uint64, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil //nolint:errcheck // what os.Lstat gives on every Unix
}

func linkIfMissing(from, to string) error {
	if err := os.Link(from, to); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}
