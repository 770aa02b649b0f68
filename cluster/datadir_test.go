package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/bitcask"
)

func TestDirectoryHasOneHolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "n1")
	lock, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !errors.Is(err, bitcask.ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("second holder: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = LockDir(dir); err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestoredStoreIsNotTakenForANode: a node that is started on what "cask restore" made would serve nothing of it.
func TestRestoredStoreIsNotTakenForANode(t *testing.T) {
	for _, file := range []string{"MANIFEST", "00000001.seg"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, locked := LockDir(dir)
		_, inspected := InspectRecovery(dir)
		_, recovered := Recover(dir)
		for _, err := range []error{locked, inspected, recovered} {
			if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "backup of the engine") {
				t.Errorf("%s: got %v", file, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: the directory was changed: %v, %v", file, left, err)
		}
	}
}
