package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/cluster"
)

const (
	// viewEvery is how old the view of the other nodes may become.
	viewEvery = time.Second
	// viewTimeout bounds one look: a node that is down does not answer at all.
	viewTimeout = 2 * time.Second
)

// clusterView keeps what the other nodes said last, so that INFO and ROLE, which
// clients send when they look for the leader, never wait for a node that is down.
type clusterView struct {
	latest atomic.Pointer[cluster.ClusterStatus]
	cancel context.CancelFunc
	worker sync.WaitGroup
}

func watchCluster(node *cluster.Node) *clusterView {
	v := &clusterView{}
	v.latest.Store(&cluster.ClusterStatus{})
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	v.worker.Go(func() {
		for {
			look, done := context.WithTimeout(ctx, viewTimeout)
			status := node.ClusterStatus(look)
			done()
			v.latest.Store(&status)
			if !sleep(ctx, viewEvery) {
				return
			}
		}
	})
	return v
}

// get returns the latest view. It must not be modified.
func (v *clusterView) get() *cluster.ClusterStatus { return v.latest.Load() }

func (v *clusterView) close() {
	v.cancel()
	v.worker.Wait()
}

// respAddrs are the client addresses of the nodes that are known.
func (v *clusterView) respAddrs() []string {
	var addrs []string
	for _, n := range v.get().Nodes {
		if n.RespAddr != "" {
			addrs = append(addrs, n.RespAddr)
		}
	}
	return addrs
}
