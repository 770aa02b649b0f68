package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestNodeThatIsNotTakenKnowsWhy: the reason was in the leader's log only.
func TestNodeThatIsNotTakenKnowsWhy(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	gone := c.others(leader)[0]
	c.kill(gone)
	var log lockedBuffer
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	n4 := c.mustStart("n4", gone.peerAddr, 0, leader.GossipAddr())
	want := fmt.Sprintf("n4 has the address %s of member %s", gone.peerAddr, gone.id)
	until(t, 15*time.Second, func() error {
		if err := n4.Ready(); err == nil || !strings.Contains(err.Error(), want) {
			return fmt.Errorf("it says %v", err) //nolint:errorlint // it may be nil
		}
		return nil
	})
	if !strings.Contains(log.String(), want) {
		t.Errorf("its log:\n%s", log.String())
	}
	leader.must(t, AdminRequest{Op: AdminRemove, Node: gone.id})
	c.awaitReady(n4)
}

func TestNodeWithoutClusterSaysForWhomItWaits(t *testing.T) {
	c := newTestCluster(t, nil)
	var log lockedBuffer
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	n1 := c.mustStart("n1", "", 3)
	c.mustStart("n2", "", 3, n1.GossipAddr())
	until(t, 2*waitingFirst, func() error {
		if strings.Count(log.String(), "3 nodes with the same --bootstrap-expect, seen 2") != 2 {
			return errors.New(log.String())
		}
		return nil
	})
	time.Sleep(time.Second) // the membership loop has gone round some times
	if n := strings.Count(log.String(), "waiting_for"); n != 2 {
		t.Errorf("two nodes said it %d times", n)
	}
}
