package server

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
)

// raftcask answers RAFTCASK: what this program's own tools ask, and stale reads, which are for everybody.
func (s *Server) raftcask(ctx context.Context, args [][]byte) command.Reply {
	if s.node.Load().Removed() && !command.IsWord(args[1], "HELP") {
		return removedReply() // what it knows of the cluster is old
	}
	switch sub := args[1]; {
	case command.IsWord(sub, "STATUS") && len(args) == 2:
		return s.clusterStatus(ctx)
	case command.IsWord(sub, "MEMBERS") && len(args) == 2:
		return s.members(ctx)
	case command.IsWord(sub, "REMOVE") && len(args) == 3:
		return s.administer(ctx, cluster.AdminRequest{Op: cluster.AdminRemove, Node: string(args[2])})
	case command.IsWord(sub, "TRANSFER") && len(args) == 2:
		return s.administer(ctx, cluster.AdminRequest{Op: cluster.AdminTransfer})
	case command.IsWord(sub, "TRANSFER") && len(args) == 3:
		return s.administer(ctx, cluster.AdminRequest{Op: cluster.AdminTransfer, Node: string(args[2])})
	case command.IsWord(sub, "REPLACE") && (len(args) == 4 || len(args) == 5 && command.IsWord(args[4], "AGAIN")):
		return s.administer(ctx, cluster.AdminRequest{
			Op: cluster.AdminReplace, Node: string(args[2]), New: string(args[3]), Again: len(args) == 5,
		})
	case command.IsWord(sub, "LEAVE") && len(args) == 2:
		return s.leave(ctx)
	case command.IsWord(sub, "READ") && len(args) >= 4:
		return s.readStale(ctx, args)
	case command.IsWord(sub, "DIGEST") && len(args) == 2:
		return s.digest()
	case command.IsWord(sub, "HELP"):
		return command.Help("RAFTCASK",
			"STATUS", "Describe every node of the cluster, as JSON.",
			"MEMBERS", "List the configuration of the cluster, as JSON.",
			"REMOVE <id>", "Take a node out of the cluster.",
			"TRANSFER [<id>]", "Let another node lead.",
			"REPLACE <old> <new> [AGAIN]", "Take a node out once a new one votes; ask again with AGAIN until it is done.",
			"READ <max-staleness-ms | ANY> <command> [<arg> ...]", "Read from this node's own data; the reply is its age in ms, and that of the command.",
			"READMODE [LINEARIZABLE | STALE [<max-staleness-ms>]]", "Set how this connection reads, or tell it, with the age of the data of the last stale read.",
			"DIGEST", "Sum up this node's own data at its applied entry, as JSON; equal on all nodes at the same entry. Reads all of it.",
			"LEAVE", "Take this node out of its cluster, and stop it.")
	}
	return noSubcommand(args[1])
}

// noSubcommand is the reply to a subcommand of RAFTCASK that does not exist, or not with so many arguments.
func noSubcommand(sub []byte) command.Reply {
	for _, name := range []string{"STATUS", "MEMBERS", "REMOVE", "TRANSFER", "REPLACE", "LEAVE", "READ", "DIGEST"} {
		if command.IsWord(sub, name) {
			return command.WrongArgs("raftcask|" + strings.ToLower(name))
		}
	}
	return command.UnknownSubcommand("RAFTCASK", sub)
}

// digest sums up this node's own data.
func (s *Server) digest() command.Reply {
	d, err := s.node.Load().Group().Store().Digest()
	if err != nil {
		return command.Err("ERR " + err.Error())
	}
	return jsonReply(d)
}

// clusterStatus asks all nodes now: who types the command wants to know how it is
// now, and can wait a second for a node that is down.
func (s *Server) clusterStatus(ctx context.Context) command.Reply {
	ctx, cancel := context.WithTimeout(ctx, requestBudget)
	defer cancel()
	text, err := json.Marshal(s.node.Load().ClusterStatus(ctx))
	if err != nil {
		return command.Err("ERR status: " + err.Error())
	}
	return command.Bulk(text)
}
