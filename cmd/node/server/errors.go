package server

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/cluster"
)

// portError is a port that could not be opened.
type portError struct {
	what, flag, addr string
	err              error
}

func (e *portError) Unwrap() error { return e.err }

func (e *portError) Error() string {
	switch {
	case errors.Is(e.err, syscall.EADDRINUSE):
		return fmt.Sprintf("the %s address %s is in use: stop the program that has it, or choose another with %s", e.what, e.addr, e.flag)
	case errors.Is(e.err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("the %s address %s is not one of this machine: correct %s", e.what, e.addr, e.flag)
	case errors.Is(e.err, syscall.EACCES):
		return fmt.Sprintf("the %s address %s may not be used by this user: choose a port above 1023 with %s", e.what, e.addr, e.flag)
	}
	return fmt.Sprintf("cannot listen on the %s address %s (%s): %v", e.what, e.addr, e.flag, e.err)
}

// rejoin is the way back for a node whose data is damaged. Under its old id it would have forgotten what it voted for; so
// an older copy of the directory is no way back either, as long as there are other nodes.
const rejoin = "Move the directory away, start the node with an empty one and a new id (--id), so that it is filled from the others, " +
	"and then run \"raftcask cluster replace OLD-ID NEW-ID\". If it was the only node, restore a backup."

// explain turns an error of the start into what the operator needs: what is wrong,
// and what to do next. The cause stays in the chain.
func explain(cfg Config, err error) error {
	var port *portError
	switch {
	case errors.As(err, &port):
		return err
	case errors.Is(err, bitcask.ErrLocked):
		return fmt.Errorf("--data %s: %w", cfg.DataDir, err) // the engine names the holder and says what to do
	case errors.Is(err, bitcask.ErrCorrupt):
		return fmt.Errorf("the data in %s is damaged and was left as it is, and this node does not serve. %s The damage: %w", cfg.DataDir, rejoin, err)
	case errors.Is(err, cluster.ErrIdentity):
		return err // says what to do
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the data directory %s is not writable: change its permissions, or choose another with --data: %w", cfg.DataDir, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("no space is left for the data directory %s: make room, or choose another with --data: %w", cfg.DataDir, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("--data %s is not a directory: %w", cfg.DataDir, err)
	}
	return err
}

// fatalText says what happened and what to do when a running node must not go on.
func fatalText(dir string, err error) string {
	advice := "the data was left as it is; look at the cause, then start the node again"
	switch {
	case errors.Is(err, cluster.ErrStalled):
		advice = "the disk does not answer; the data was left as it is; check the disk, then start the node again"
	case errors.Is(err, bitcask.ErrPoisoned):
		advice = "the disk may have lost writes that were reported as done; check it, then start the node again: it reads what is really there"
	case errors.Is(err, bitcask.ErrCorrupt):
		advice = "the damaged file was left as it is. " + rejoin
	}
	return fmt.Sprintf("the node stops at once: %v (data directory %s): %s", err, dir, advice)
}
