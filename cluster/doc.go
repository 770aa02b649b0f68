// Package cluster runs one node of a raftcask cluster: its Raft groups, the way writes and
// linearizable reads go through them, and how nodes find each other and become members.
//
//	node, err := cluster.Open(ctx, cfg)              // joins by itself, or bootstraps a new cluster
//	g := node.Group()
//	errs := g.Propose(ctx, 1, func(tx *cluster.Tx, _ int) { _ = tx.Put(key, value, 0) })
//	err = g.ConfirmLeader(ctx)                       // then read g.ReadTx(): linearizable
//	err = node.Close(ctx)                            // hands leadership over first
//
// # Writes
//
// The leader evaluates operations one after another and replicates their effects (Zab's primary
// order). One goroutine, the proposer, evaluates against the engine plus an overlay of effects that
// are proposed and not applied yet. Three rules make that right:
//
//   - A new leader evaluates nothing before its state machine has applied everything from earlier
//     terms (leadership.go, invariant I9), and nothing of an earlier evaluation is in flight.
//   - An entry names the term in which it was evaluated; in another term it is void on every replica.
//   - Within one term Raft refuses no entry and then accepts a later one. The library would do that
//     during a leadership transfer, so a transfer waits until nothing is in flight (transfer.go).
//
// Outcomes are three (errors.go, I10): applied, definitely not applied, unknown.
//
// # Reads
//
// A linearizable read waits for a confirmation round that began after it arrived: a majority of the
// voters, asked over our own channel, are still at the leader's term (rounds.go).
//
// # Files
//
//	<dir>/identity.json     node id, cluster id, bootstrap state (identity.go)
//	<dir>/peers.json        gossip addresses of the last known members
//	<dir>/groups/0000/cask  the engine: Raft log and data in one
//	<dir>/groups/0000/raft.db  Raft's term and vote, under a checksum (stable.go)
//
// # Goroutines
//
// Node owns: gossip joiner, membership loop (bootstrap until the node is a member, reconciliation
// while its group leads), freshener (staleness.go). Group owns: accept loop of the stream layer, stall watch, snapshot
// trigger, expiry sweep, watchdog. A session (one life of a raft.Raft inside the Group, see session.go) owns:
// leadership monitor, silence watch, proposer, completer, deadline sweeper, round runner. Close stops each owner's
// goroutines and waits for them.
package cluster
