package server

import (
	"context"
	"fmt"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/transport"
)

// clusterGroup is a *cluster.Group as the executor sees it.
type clusterGroup struct{ *cluster.Group }

func (g clusterGroup) Propose(ctx context.Context, n int, size int64, eval func(tx command.Tx, i int)) []error {
	return g.ProposeSized(ctx, n, size, func(tx *cluster.Tx, i int) { eval(tx, i) })
}

func (g clusterGroup) ReadTx() readTx { return g.Group.ReadTx() }

// peers is the peer port as the cluster sees it.
type peers struct{ port *transport.Peer }

func (p peers) Call(ctx context.Context, addr string, ch cluster.Channel, req []byte) ([]byte, error) {
	switch ch {
	case cluster.Confirm:
		return p.port.Call(ctx, addr, transport.KindConfirm, groupID, req)
	case cluster.Control:
		return p.port.Call(ctx, addr, transport.KindControl, groupID, req)
	}
	return nil, fmt.Errorf("no connections of kind %d", ch)
}

// nameAddr is an address with a host name, which is looked up when it is dialed.
type nameAddr string

func (nameAddr) Network() string  { return "tcp" }
func (a nameAddr) String() string { return string(a) }
