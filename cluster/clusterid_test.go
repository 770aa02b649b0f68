package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestLogNamesItsCluster: every leader's first entry does, on every replica, and it is not seen by clients. A replica that is
// fed with another cluster's log stops.
func TestLogNamesItsCluster(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("k", "v")
	for _, n := range c.running() {
		c.awaitValue(n, "k", "v")
		if keys := n.group.store.Len(); keys != 1 {
			t.Errorf("%s has %d keys", n.id, keys)
		}
		until(t, 10*time.Second, func() error {
			var log raft.Log
			for i := n.group.store.FirstIndex(); i <= n.group.store.LastIndex(); i++ {
				if err := n.group.logs.GetLog(i, &log); err != nil {
					return err
				}
				if bytes.Contains(log.Extensions, []byte(n.ClusterID())) {
					return nil
				}
			}
			return fmt.Errorf("no entry of %s's log names cluster %s", n.id, n.ClusterID())
		})
	}
	victim := c.running()[0]
	term := victim.group.session().raft.CurrentTerm()
	victim.group.checkCluster(7, term-1, "another")
	victim.group.checkCluster(7, term, victim.ClusterID())
	if err := victim.fatal.Load(); err != nil {
		t.Fatalf("the node's own cluster, or an earlier one: %v", *err)
	}
	victim.group.checkCluster(7, term, "another")
	err := victim.fatal.Load()
	if err == nil || !errors.Is(*err, ErrIdentity) || !strings.Contains((*err).Error(), "entry 7 of the log is of cluster another") {
		t.Errorf("a log of another cluster: %v", err)
	}
}
