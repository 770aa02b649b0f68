package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
)

// faultyDisks gives each node a disk whose log a test can make fail or hang.
type faultyDisks struct {
	mu   sync.Mutex
	hook map[string]func(op vfs.Op) *vfs.Fault // by node id
}

func (d *faultyDisks) set(id string, hook func(op vfs.Op) *vfs.Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook[id] = hook
}

func (d *faultyDisks) install(cfg *Config) {
	id := cfg.NodeID
	cfg.Engine.FS = vfs.NewFaulty(vfs.OS(), func(op vfs.Op) *vfs.Fault {
		d.mu.Lock()
		hook := d.hook[id]
		d.mu.Unlock()
		if hook == nil || !strings.HasSuffix(op.Name, ".seg") {
			return nil
		}
		return hook(op)
	})
}

// TestLeaderWithAHangingDiskGivesWay: raft alone would keep it leading, because heartbeats need no disk
// (hashicorp/raft#503, #614).
func TestLeaderWithAHangingDiskGivesWay(t *testing.T) {
	disks := &faultyDisks{hook: map[string]func(vfs.Op) *vfs.Fault{}}
	c := newTestCluster(t, func(cfg *Config) {
		disks.install(cfg)
		cfg.Timing.StallLeader, cfg.Timing.StallLimit = 300*time.Millisecond, time.Minute
	})
	c.three()
	c.write("k", "1")
	old := c.leader()
	release := make(chan struct{})
	disks.set(old.id, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpSync {
			<-release
		}
		return nil
	})
	hanging := make(chan error, 1)
	go func() { hanging <- tryPut(old, "k", "2") }()
	until(t, 20*time.Second, func() error {
		for _, n := range c.others(old) {
			if n.group.IsLeader() {
				return tryPut(n, "k2", "1")
			}
		}
		return errors.New("nobody else leads")
	})
	if err := old.Live(); !errors.Is(err, ErrStalled) {
		t.Errorf("the node with the hanging disk says %v", err)
	}
	if err := <-hanging; err == nil || (Definite(err) && !errors.Is(err, ErrNotLeader)) {
		t.Errorf("the hanging write ended with %v", err)
	}
	disks.set(old.id, nil)
	close(release)
	c.awaitValue(old, "k2", "1")
	if err := old.fatal.Load(); err != nil {
		t.Errorf("fatal: %v", *err)
	}
}

func TestDiskThatNeverComesBackIsFatal(t *testing.T) {
	disks := &faultyDisks{hook: map[string]func(vfs.Op) *vfs.Fault{}}
	c := newTestCluster(t, func(cfg *Config) {
		disks.install(cfg)
		cfg.Timing.StallLeader, cfg.Timing.StallLimit = 100*time.Millisecond, 300*time.Millisecond
		cfg.Timing.Write = 200 * time.Millisecond
	})
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	release := make(chan struct{})
	disks.set(n.id, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpSync {
			<-release
		}
		return nil
	})
	if err := tryPut(n, "k", "1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the write ended with %v, want ErrUnknown", err)
	}
	until(t, 10*time.Second, func() error {
		if err := n.fatal.Load(); err == nil || !errors.Is(*err, ErrStalled) {
			return errors.New("the node goes on")
		}
		return nil
	})
	close(release)
}

func TestFailedSyncIsFatal(t *testing.T) {
	disks := &faultyDisks{hook: map[string]func(vfs.Op) *vfs.Fault{}}
	c := newTestCluster(t, disks.install)
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	disks.set(n.id, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpSync {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	if err := tryPut(n, "k", "1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the write ended with %v, want ErrUnknown", err)
	}
	until(t, 10*time.Second, func() error {
		if err := n.fatal.Load(); err == nil || !errors.Is(*err, bitcask.ErrPoisoned) {
			return errors.New("the node goes on")
		}
		return nil
	})
	if n.Live() == nil {
		t.Error("the node is alive after a failed sync")
	}
}

func TestFullDiskRefusesWritesAndRecovers(t *testing.T) {
	disks := &faultyDisks{hook: map[string]func(vfs.Op) *vfs.Fault{}}
	c := newTestCluster(t, func(cfg *Config) {
		disks.install(cfg)
		cfg.Engine.SegmentBytes = 16 << 10 // the next segment needs space soon
	})
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	full := func(op vfs.Op) *vfs.Fault {
		switch op.Kind {
		case vfs.OpWrite, vfs.OpPreallocate, vfs.OpCreate:
			return &vfs.Fault{Err: syscall.ENOSPC}
		}
		return nil
	}
	if err := tryPut(n, "before", "1"); err != nil {
		t.Fatal(err)
	}
	disks.set(n.id, full)
	definite := 0
	for i := range 20 {
		err := tryPut(n, fmt.Sprint("full", i), strings.Repeat("x", 4<<10))
		if err != nil && !Definite(err) {
			t.Errorf("a full disk makes the outcome unknown: %v", err)
		}
		if err != nil {
			definite++
		}
		if got, _ := n.local("before"); got != "1" {
			t.Fatal("reads do not go on")
		}
	}
	if definite == 0 {
		t.Error("the disk was not full")
	}
	disks.set(n.id, nil)
	until(t, 20*time.Second, func() error { return tryPut(n, "after", "1") })
	if err := n.fatal.Load(); err != nil {
		t.Errorf("fatal: %v", *err)
	}
	for i := range 20 {
		key := fmt.Sprint("full", i)
		if _, there := n.local(key); there && i > 4 {
			t.Errorf("%s was refused and is there", key)
		}
	}
	if err := n.group.ConfirmLeader(context.Background()); err != nil {
		t.Error(err)
	}
}
