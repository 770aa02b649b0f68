package cluster

import (
	"errors"
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
