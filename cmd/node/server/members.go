package server

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
)

// changeBudget is how long a change of the membership may take: it may have to wait for an election, hand
// leadership over and wait for two changes of the configuration.
const changeBudget = 8 * time.Second

// leftLinger is how long a node that has left goes on to tell its clients so. They go to other nodes by that; a
// connection that is closed while a write is on its way gives the write an unknown outcome.
const leftLinger = time.Second

// members answers RAFTCASK MEMBERS.
func (s *Server) members(ctx context.Context) command.Reply {
	ctx, cancel := context.WithTimeout(ctx, requestBudget)
	defer cancel()
	return jsonReply(s.node.Load().Members(ctx))
}

// administer answers what an operator wants of the membership.
func (s *Server) administer(ctx context.Context, req cluster.AdminRequest) command.Reply {
	ctx, cancel := context.WithTimeout(ctx, changeBudget)
	defer cancel()
	return adminReply(s.node.Load().Administer(ctx, req))
}

// leave takes this node out of its cluster; the process ends after the reply.
func (s *Server) leave(ctx context.Context) command.Reply {
	ctx, cancel := context.WithTimeout(ctx, changeBudget)
	defer cancel()
	return adminReply(s.node.Load().Leave(ctx))
}

func adminReply(result cluster.AdminResult, err error) command.Reply {
	switch {
	case errors.Is(err, cluster.ErrUnknown):
		return command.Err("UNKNOWN the change may or may not have been made: " + reason(err))
	case errors.Is(err, cluster.ErrNoLeader), errors.Is(err, cluster.ErrNotLeader):
		return command.NoLeader()
	case err != nil:
		return command.Err("ERR refused: " + reason(err))
	}
	return jsonReply(result)
}

func jsonReply(v any) command.Reply {
	text, err := json.Marshal(v)
	if err != nil {
		return command.Err("ERR encode the answer: " + err.Error())
	}
	return command.Bulk(text)
}

// removedReply is the answer of a node that is no member any more, to all that is not about itself. Clients look for another
// node at such a code, and nothing was applied.
func removedReply() command.Reply {
	return command.Err("CLUSTERDOWN not applied: this node was removed from its cluster; connect to another node")
}
