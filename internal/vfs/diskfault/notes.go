package diskfault

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A note says how to undo a change that is not durable yet. Notes are lines of JSON in one file; a line that is not whole
// belongs to a change that never began.
type note struct {
	Seq  uint64
	Kind string

	// Of names.
	Path string `json:",omitempty"` // what was created, removed, or renamed
	To   string `json:",omitempty"` // new name of a rename
	Old  string `json:",omitempty"` // where the file is kept that had the name before

	// Of contents, and of a rename: the inode.
	File uint64 `json:",omitempty"`

	Off  int64  `json:",omitempty"`
	Len  int64  `json:",omitempty"` // bytes from Off on that were there before
	Data []byte `json:",omitempty"` // those bytes; none: zeros
	Size int64  `json:",omitempty"` // of the whole file before
	Cut  bool   `json:",omitempty"` // the change was a truncation to Off

	Until uint64 `json:",omitempty"` // of a sync, or a void change: the newest note it settles
}

const (
	noteCreate    = "create"
	noteMakeDir   = "mkdir"
	noteRemove    = "remove"
	noteRemoveDir = "rmdir"
	noteRename    = "rename"
	noteContent   = "content"

	noteSynced    = "synced"    // contents of File are durable up to note Until
	noteDirSynced = "dirsynced" // names in Path are durable up to note Until
	noteVoid      = "void"      // note Until was of a change that failed
)

// name is the name that a change concerns; its directory makes it durable.
func (n *note) name() string {
	if n.Kind == noteRename {
		return n.To
	}
	return n.Path
}

// settledBy reports whether the change is durable, or void, because of s.
func (n *note) settledBy(s note) bool {
	if n.Seq > s.Until {
		return false
	}
	switch s.Kind {
	case noteSynced:
		return n.Kind == noteContent && n.File == s.File
	case noteDirSynced:
		return n.Kind != noteContent && filepath.Dir(filepath.Clean(n.name())) == s.Path
	}
	return n.Seq == s.Until // void
}

const notesName = "notes"

// noteFile is the notes of one node that still count. One goroutine at a time.
type noteFile struct {
	dir  string
	file *os.File
	seq  uint64
	live []note
	open map[uint64]int // handles by inode
}

// openNotes takes over what a killed predecessor left, but for a line that is not whole: it would spoil the next one.
func openNotes(dir string) (*noteFile, error) {
	live, err := readNotes(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, notesName)
	f := &noteFile{dir: dir, live: live, open: map[uint64]int{}}
	if f.file, err = os.OpenFile(name+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return nil, err
	}
	for _, n := range live {
		f.seq = n.Seq
		err = errors.Join(err, f.write(n))
	}
	if err = errors.Join(err, os.Rename(name+".tmp", name), f.removeUnused()); err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

// readNotes returns the notes whose changes a power cut may take.
func readNotes(dir string) ([]note, error) {
	file, err := os.Open(filepath.Join(dir, notesName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	var live []note
	for r := bufio.NewReader(file); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return live, nil // the end, or a line that was never finished
		}
		var n note
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, fmt.Errorf("note %.80q: %w", line, err)
		}
		if live = settle(live, n); n.Until == 0 {
			live = append(live, n)
		}
	}
}

// settle returns the notes that still count after n.
func settle(live []note, n note) []note {
	if n.Until == 0 {
		return live
	}
	var gone []string // directories whose removal is durable, and with it all that was in them
	live = slices.DeleteFunc(live, func(l note) bool {
		settled := l.settledBy(n)
		if settled && l.Kind == noteRemoveDir && n.Kind == noteDirSynced {
			gone = append(gone, filepath.Clean(l.Path)+string(filepath.Separator))
		}
		return settled
	})
	return slices.DeleteFunc(live, func(l note) bool {
		return slices.ContainsFunc(gone, func(dir string) bool { return strings.HasPrefix(l.name(), dir) })
	})
}

func (f *noteFile) add(n note) (uint64, error) {
	f.seq++
	n.Seq = f.seq
	f.live = append(f.live, n)
	return n.Seq, f.write(n)
}

func (f *noteFile) void(seq uint64) error { return f.settle(note{Kind: noteVoid, Until: seq}) }

// settle drops what n makes durable. When nothing is left the file is emptied.
func (f *noteFile) settle(n note) error {
	if n.Until == 0 {
		return nil // nothing had been changed
	}
	f.live = settle(f.live, n)
	if len(f.live) > 0 {
		return f.write(n)
	}
	if err := f.file.Truncate(0); err != nil {
		return err
	}
	return f.removeUnused()
}

func (f *noteFile) write(n note) error {
	line, err := json.Marshal(n)
	if err != nil {
		return err
	}
	_, err = f.file.Write(append(line, '\n'))
	return err
}

// contentOf is the second name of a file that may be written.
func (f *noteFile) contentOf(id uint64) string {
	return filepath.Join(f.dir, fmt.Sprintf("content-%d", id))
}

// keep gives a file that is about to lose its name another one.
func (f *noteFile) keep(name string) (string, error) {
	kept := filepath.Join(f.dir, fmt.Sprintf("kept-%d", f.seq+1))
	return kept, linkIfMissing(name, kept)
}

// closed is told of each handle's end.
func (f *noteFile) closed(id uint64) {
	if f.open[id]--; f.open[id] > 0 {
		return
	}
	delete(f.open, id)
	if !slices.ContainsFunc(f.live, func(n note) bool { return n.Kind == noteContent && n.File == id }) {
		_ = os.Remove(f.contentOf(id)) // or it stays until the notes are empty
	}
}

// removeUnused removes the names that no note and no handle needs.
func (f *noteFile) removeUnused() error {
	needed := map[string]bool{notesName: true}
	for id := range f.open {
		needed[filepath.Base(f.contentOf(id))] = true
	}
	for _, n := range f.live {
		needed[filepath.Base(n.Old)] = true
		needed[filepath.Base(f.contentOf(n.File))] = true
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !needed[e.Name()] {
			if err := os.Remove(filepath.Join(f.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
