package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
	"github.com/raftcask/raftcask/internal/vfs/vfstest"
)

// backupOf makes the backup of a store with ten keys: that of a node, or of an embedded store.
func backupOf(t *testing.T, replicated bool) string {
	t.Helper()
	s, err := bitcask.Open(filepath.Join(t.TempDir(), "store"), &bitcask.Options{Replicated: replicated})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }() // only the backup counts
	for i := range uint64(10) {
		var b bitcask.Batch
		b.Reset(3, 0)
		key, value := fmt.Append(nil, "k", i), []byte("v")
		if !replicated {
			err = s.Put(key, value)
		} else if err = b.Put(key, value, 0); err == nil {
			err = errors.Join(s.Append([]bitcask.Entry{{Index: i + 1, Term: 3, Data: b.Detach()}}), s.Commit(i+1))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dst := filepath.Join(t.TempDir(), "backup")
	if _, err := s.Backup(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

// TestRestoreIntoWhatOperatorsHave: a directory that is not there, a link to an empty one, a volume that was just mounted.
func TestRestoreIntoWhatOperatorsHave(t *testing.T) {
	backup := backupOf(t, true)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]func(t *testing.T) string{
		"missing": func(t *testing.T) string { return filepath.Join(t.TempDir(), "a", "b") },
		"link":    func(*testing.T) string { return link },
		"volume":  func(t *testing.T) string { return vfstest.SmallDisk(t, 64<<20) },
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			dir := dir(t)
			r, err := RestoreBackup(t.Context(), backup, dir, "r1")
			if err != nil {
				t.Fatal(err)
			}
			again, err := InspectRecovery(dir)
			if err != nil {
				t.Fatal(err)
			}
			if r.Keys != 10 || r.Applied != 10 || r.NodeID != "r1" || again.Keys != 10 || again.ClusterID != r.ClusterID || again.Interrupted || again.Term != 4 {
				t.Errorf("restored %+v, found %+v", r, again)
			}
			if _, err := RestoreBackup(t.Context(), backup, dir, "r1"); err == nil || !strings.Contains(err.Error(), "is not empty") {
				t.Errorf("a second time: %v", err)
			}
		})
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
}

// TestRestoreThatFailsLeavesNothing: what no cluster can be made of is refused, and the directory can be used again.
func TestRestoreThatFailsLeavesNothing(t *testing.T) {
	damaged := backupOf(t, true)
	segments, err := filepath.Glob(filepath.Join(damaged, "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, backup, id, want string }{
		{"a damaged backup", damaged, "r1", filepath.Base(segments[0])},
		{"of an embedded store", backupOf(t, false), "r1", "embedded store"},
		{"no backup", t.TempDir(), "r1", "MANIFEST"},
		{"a bad id", backupOf(t, true), "no/id", "id"},
	} {
		empty, missing := t.TempDir(), filepath.Join(t.TempDir(), "n")
		for _, dir := range []string{empty, missing} {
			if _, err := RestoreBackup(t.Context(), c.backup, dir, c.id); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.want)
			}
		}
		if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", c.name, left, err)
		}
		if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the directory is there: %v", c.name, err)
		}
	}
}

// TestRestoreThatBrokeOffStartsNoNode: the data is there, and nothing above it.
func TestRestoreThatBrokeOffStartsNoNode(t *testing.T) {
	dir := t.TempDir()
	ids, err := openIdentity(vfs.OS(), dir, "r1")
	if err != nil {
		t.Fatal(err)
	}
	if err := ids.update(func(id *identity) error { id.ClusterID, id.Recovering = "c", true; return nil }); err != nil {
		t.Fatal(err)
	}
	cask := filepath.Join(dir, groupsDir, "0000", "cask")
	if _, err := bitcask.Restore(t.Context(), backupOf(t, true), cask, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := NodeID(dir, "r1"); err == nil || !strings.Contains(err.Error(), "recover --backup") {
		t.Errorf("a start says %v", err)
	}
	if r, err := Recover(dir); err == nil {
		t.Errorf("recover takes it: %+v", r)
	} else {
		t.Log(err)
	}
	if _, err := NodeID(dir, "r1"); err == nil {
		t.Error("it starts after that")
	}
}
