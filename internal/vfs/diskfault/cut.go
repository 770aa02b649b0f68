package diskfault

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// pageBytes is what a disk writes whole or not at all, as far as a file system tells.
const pageBytes = 4096

// Loss is what a power cut took.
type Loss struct{ Names, Pages, Sizes int }

func (l Loss) String() string {
	return fmt.Sprintf("%d changes of names, %d pages, %d changes of size lost", l.Names, l.Pages, l.Sizes)
}

// Cut does to the files of a dead process what a power cut may do to them: changes that no sync made durable are undone. Each
// page and each file's size survives with the given probability, and of the changes of names a beginning does; with 0
// everything goes. dir is Settings.Dir.
func Cut(dir string, rng *rand.Rand, survival float64) (Loss, error) {
	live, err := readNotes(dir)
	if err != nil {
		return Loss{}, err
	}
	c := cut{dir: dir, rng: rng, survival: survival}
	files := map[uint64][]note{}
	var names []note
	for _, n := range live {
		if n.Kind == noteContent {
			files[n.File] = append(files[n.File], n)
		} else {
			names = append(names, n)
		}
	}
	ids := make([]uint64, 0, len(files))
	for id := range files {
		ids = append(ids, id)
	}
	slices.Sort(ids) // so that a seed repeats
	for _, id := range ids {
		if err := c.undoContents(id, files[id]); err != nil {
			return c.loss, err
		}
	}
	if err := c.undoNames(names); err != nil {
		return c.loss, err
	}
	return c.loss, os.RemoveAll(dir)
}

type cut struct {
	dir      string
	rng      *rand.Rand
	survival float64
	loss     Loss
}

func (c *cut) survives() bool { return c.survival > 0 && c.rng.Float64() < c.survival }

// undoContents brings lost pages, and the size if it is lost, back to what they were at the last sync.
func (c *cut) undoContents(id uint64, notes []note) (err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, fmt.Sprintf("content-%d", id)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	file := lostFile{f: f, size: info.Size(), pages: map[int64]bool{}}
	if synced := notes[0].Size; file.size != synced && !c.survives() {
		c.loss.Sizes++
		file.sizeLost, file.size = true, synced
	}
	for i := len(notes) - 1; i >= 0; i-- {
		if err := c.restore(&file, notes[i]); err != nil {
			return err
		}
	}
	for _, lost := range file.pages {
		if lost {
			c.loss.Pages++
		}
	}
	return f.Truncate(file.size)
}

// lostFile is a file that is being undone.
type lostFile struct {
	f        *os.File
	size     int64 // that it will have
	sizeLost bool
	pages    map[int64]bool // lost or not, once that is decided
}

// restore puts back what there was before one change, in the pages that are lost.
func (c *cut) restore(file *lostFile, n note) error {
	// What was written behind the old end reads as zeros when it is lost.
	end := n.Off + n.Len
	if n.Size <= end && !n.Cut {
		end = file.size
	}
	for off, end := n.Off, min(end, file.size); off < end; {
		page := off / pageBytes
		next := min(end, (page+1)*pageBytes)
		lost, decided := file.pages[page]
		if !decided {
			lost = !c.survives()
			file.pages[page] = lost
		}
		if n.Cut {
			lost = file.sizeLost // the bytes that were cut off come back with the size, and only then
		}
		if lost {
			if _, err := file.f.WriteAt(n.old(off, next), off); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// old is what was at these offsets before.
func (n *note) old(from, to int64) []byte {
	b := make([]byte, to-from)
	if at := from - n.Off; at < int64(len(n.Data)) {
		copy(b, n.Data[at:])
	}
	return b
}

// undoNames takes back the newest changes of names, the last first.
func (c *cut) undoNames(names []note) error {
	slices.SortFunc(names, func(a, b note) int { return cmp.Compare(a.Seq, b.Seq) })
	kept := 0
	for kept < len(names) && c.survives() {
		kept++
	}
	for i := len(names) - 1; i >= kept; i-- {
		if err := undoName(names[i]); err != nil {
			return fmt.Errorf("undo %s of %s: %w", names[i].Kind, names[i].name(), err)
		}
		c.loss.Names++
	}
	return nil
}

func undoName(n note) error {
	switch n.Kind {
	case noteCreate:
		return unlessMissing(os.Remove(n.Path))
	case noteMakeDir:
		return os.RemoveAll(n.Path)
	case noteRemoveDir:
		return os.MkdirAll(n.Path, 0o755)
	case noteRemove:
		if _, err := os.Lstat(n.Path); err == nil {
			return nil // the kill came before the removal
		}
		return unlessMissing(os.Link(n.Old, n.Path))
	case noteRename:
		id, err := inode(n.To)
		if err != nil {
			return unlessMissing(err)
		}
		if id != n.File {
			return nil // the kill came before the renaming, or another change followed that is durable
		}
		if err := unlessMissing(os.Rename(n.To, n.Path)); err != nil || n.Old == "" {
			return err
		}
		return os.Link(n.Old, n.To)
	}
	return fmt.Errorf("kind %q is not known", n.Kind)
}

// unlessMissing: the directory of a change may be gone with one that is durable.
func unlessMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
