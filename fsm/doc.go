// Package fsm makes a bitcask.Store the three things that hashicorp/raft wants of
// a node: the log, the state machine and the snapshot store. They are thin,
// because they are one thing: the Raft log is the Bitcask's active file.
//
//	store, err := bitcask.Open(dir, &bitcask.Options{Replicated: true})
//	machine := fsm.New(store, logger)
//	logs := fsm.NewLogStore(store)
//	raft.NewRaft(conf, machine, logs, stable, fsm.NewSnapshotStore(logs, logger), transport)
//
// Append (LogStore.StoreLogs) is the only disk write of an entry, ApplyBatch moves
// pointers in memory, and a snapshot is a reference to files that are there
// already. An applied entry is therefore always durable: it was synced before it
// could be committed here.
//
// raft runs with NoSnapshotRestoreOnStart: the engine is at its applied index when
// it opens, and entries up to it that raft applies again are skipped.
//
// Ownership: raft's main goroutine calls StoreLogs and DeleteRange, its FSM goroutine
// ApplyBatch, Snapshot and Restore, its snapshot goroutine Persist, its replicators
// GetLog and Open. The package starts no goroutine.
package fsm
