package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/raftcask/raftcask/bitcask"
)

// spoil flips a bit of a value in a node's files, as a disk may.
func spoil(t *testing.T, n *testNode, value string) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(n.cfg.Dir, groupsDir, "0000", "cask", "*.seg"))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(data, []byte(value))
		if at < 0 {
			continue
		}
		file, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt([]byte{value[0] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%q is in no segment of %s", value, n.id)
}

// TestNodeWithDamageStopsUnlessItIsNeeded: with one of three nodes away it goes on with what is intact; when that one is back
// it hands leadership over and stops.
func TestNodeWithDamageStopsUnlessItIsNeeded(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("whole", "a value that stays as it is")
	c.write("broken", "a value that the disk spoils")
	leader := c.leader()
	away := c.others(leader)[0]
	c.kill(away)
	spoil(t, leader, "a value that the disk spoils")
	if _, _, _, err := leader.group.ReadTx().Get([]byte("broken")); !errors.Is(err, bitcask.ErrCorrupt) {
		t.Fatalf("the damage was read as %v", err)
	}
	if leader.group.foundDamage() == nil {
		t.Fatal("it was not noted")
	}
	if leader.spared(context.Background(), leader.group.session()) {
		t.Error("the one other node that is left is taken for a majority")
	}
	if v, _ := leader.local("whole"); v != "a value that stays as it is" {
		t.Errorf("what is intact is %q", v)
	}
	if err := leader.fatal.Load(); err != nil {
		t.Errorf("it stopped while it was needed: %v", *err)
	}
	c.mustStart(away.id, away.peerAddr, 3)
	until(t, 20*time.Second, func() error {
		err := leader.fatal.Load()
		if err == nil {
			return fmt.Errorf("%s goes on with damaged data", leader.id)
		}
		if !errors.Is(*err, bitcask.ErrCorrupt) {
			return fmt.Errorf("it stopped because of %w", *err)
		}
		return nil
	})
	if leader.group.IsLeader() {
		t.Error("it stopped without handing over")
	}
}
