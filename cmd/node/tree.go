package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// file is one regular file of a tree, and the key that it has in the store.
type file struct {
	path  string
	key   string
	bytes int64
}

// tree is what import and verify work on.
type tree struct {
	files   []file
	bytes   int64
	skipped int     // symbolic links, sockets and the like
	errs    []error // of entries that could not be looked at
}

// readTree lists the regular files under dir. The key of a file is prefix and its
// path from dir with slashes, on every system. Links are not followed: they could leave the tree or never end.
func readTree(dir, prefix string) (*tree, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	root, err := filepath.EvalSymlinks(dir) // dir itself may be a link
	if err != nil {
		return nil, err
	}
	t := &tree{}
	return t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			t.errs = append(t.errs, err)
			return nil // what is below a directory that cannot be read is left out
		}
		switch {
		case entry.IsDir():
		case entry.Type().IsRegular():
			t.add(root, prefix, path, entry)
		default:
			t.skipped++
		}
		return nil
	})
}

func (t *tree) add(root, prefix, path string, entry fs.DirEntry) {
	info, err := entry.Info()
	if err != nil {
		t.errs = append(t.errs, err)
		return
	}
	relative, err := filepath.Rel(root, path)
	if err != nil {
		t.errs = append(t.errs, err)
		return
	}
	t.files = append(t.files, file{path: path, key: prefix + filepath.ToSlash(relative), bytes: info.Size()})
	t.bytes += info.Size()
}

// errTooLarge is a file that no value can hold.
type errTooLarge struct{ bytes, limit int64 }

func (e errTooLarge) Error() string {
	return fmt.Sprintf("%s is more than a value may have, %s (see --max-value-bytes of \"raftcask serve\")", humanSize(e.bytes), humanSize(e.limit))
}

// read returns the contents of the file, unless there are more than limit bytes:
// it may have grown since the tree was listed.
func (f file) read(limit int64) ([]byte, error) {
	if f.bytes > limit {
		return nil, errTooLarge{f.bytes, limit}
	}
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read
	data := make([]byte, 0, f.bytes+1)
	for {
		n, err := in.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, errTooLarge{int64(len(data)), limit}
		}
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err // it names the file
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}
