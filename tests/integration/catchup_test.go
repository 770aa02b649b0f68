package integration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// steadyWrites writes values of 1 KiB, each in an entry of its own, over a fixed set of keys, at a rate, until it is ended.
type steadyWrites struct {
	stop    chan struct{}
	done    chan struct{}
	written atomic.Int64
	failed  error // read after done
}

func startSteadyWrites(t *testing.T, c *cluster, keys int, perSecond int) *steadyWrites {
	t.Helper()
	w := &steadyWrites{stop: make(chan struct{}), done: make(chan struct{})}
	sdk := openSDK(t, c.addrs())
	go func() {
		defer close(w.done)
		w.failed = w.run(sdk, keys, perSecond)
	}()
	t.Cleanup(func() { w.end(t) })
	return w
}

func (w *steadyWrites) run(sdk sdk, keys, perSecond int) error {
	const size = 1 << 10
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := sdk.Set(context.Background(), fmt.Sprintf("steady-%d", n%keys), valueOf(uint64(n))[:size]); err != nil {
			return err
		}
		w.written.Add(1)
		select {
		case <-w.stop:
			return nil
		case <-tick.C:
		}
	}
}

// end stops the writes, and fails the test if one had failed.
func (w *steadyWrites) end(t *testing.T) {
	select {
	case <-w.stop:
		return
	default:
	}
	close(w.stop)
	<-w.done
	if w.failed != nil {
		t.Errorf("a write failed: %v", w.failed)
	}
}

// TestFollowerReturnsUnderConstantWrites lets a follower come back whose log is gone from the leader, over a network on
// which the snapshot takes longer than the leader needs to write, and to drop, many times the log that it keeps. It must
// not find after each snapshot that it needs another one (consul#9609).
func TestFollowerReturnsUnderConstantWrites(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c, network := startSeparable(t, 3, "--snapshot-bytes", "2MiB", "--trailing-bytes", "256KiB", "--segment-bytes", "4MiB")
	data := newDataset(rng)
	data.write(t, c.leader(), 16<<20)
	away, leader := c.follower(), c.leader()
	away.kill()
	data.write(t, leader, 80<<20) // more than the leader keeps in memory
	load := startSteadyWrites(t, c, 1000, 1000)
	network.Set(leader.id, away.id, netfault.Rule{BytesPerSecond: 12 << 20})
	away.start()
	away.waitReady()
	c.waitCaughtUp(away, 90*time.Second)
	if installed, _ := away.metric(metricSnapshotInstalled); installed < 1 || installed > 2 {
		t.Errorf("%s caught up after %v snapshots", away.id, installed)
	}
	if now := c.leader(); now != leader {
		t.Errorf("%s lost its leadership to %s meanwhile", leader.id, now.id)
	}
	t.Logf("%d writes", load.written.Load())
	load.end(t)
}
