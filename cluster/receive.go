package cluster

import (
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// snapshotIdle is how long a leader may send nothing in the middle of a snapshot. raft reads it on its main
// thread, which neither votes nor stands for election meanwhile: a leader that is paused there would take the
// receiver's vote with it.
const snapshotIdle = 5 * time.Second

var errSnapshotIdle = errors.New("the leader has stopped sending its snapshot")

// errNotWanted ends a connection in the middle of a snapshot that raft does not want, or no more.
var errNotWanted = errors.New("the rest of the snapshot is not wanted")

// Consumer implements raft.Transport. Snapshots are read through an incomingSnapshot, and no request commits more than it proves.
func (t *transport) Consumer() <-chan raft.RPC { return t.incoming }

// receive passes RPCs on until the transport is closed.
func (t *transport) receive() {
	defer close(t.received)
	for {
		select {
		case <-t.closing:
			return
		case rpc := <-t.NetworkTransport.Consumer():
			if rpc.Reader != nil {
				t.wrapSnapshot(&rpc)
			}
			if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				boundCommit(req)
			}
			select {
			case t.incoming <- rpc:
			case <-t.closing: // raft's transport answers it
				return
			}
		}
	}
}

// boundCommit lets a request commit only what it proves to be in the log: up to its last entry, or to the one before if it has
// none (Raft, figure 2). raft v1.7.3 takes the end of the receiver's log instead, which may be entries of a
// deposed leader; its leader sends a commit index beyond the entries of a request, when those were counted before the
// index was read. A follower then applied an entry that was never committed.
func boundCommit(req *raft.AppendEntriesRequest) {
	proven := req.PrevLogEntry
	if n := len(req.Entries); n > 0 {
		proven = req.Entries[n-1].Index
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, proven)
}

func (t *transport) wrapSnapshot(rpc *raft.RPC) {
	rpc.Reader = &idleReader{src: rpc.Reader, idle: t.snapshotIdle, drop: t.stream.dropAccepted}
	unsqueeze(rpc)
	rpc.Reader = &incomingSnapshot{src: rpc.Reader, drop: t.stream.dropAccepted}
}

// Close ends all connections and the passing on of RPCs. It never fails.
func (t *transport) Close() error {
	t.closeOnce.Do(func() { close(t.closing) })
	err := t.NetworkTransport.Close()
	<-t.received
	return err
}

// idleReader reads from a connection, and closes it when nothing comes for too long.
type idleReader struct {
	src  io.Reader
	idle time.Duration
	drop func() // closes the connection, and others
}

// Read implements io.Reader.
func (r *idleReader) Read(p []byte) (int, error) {
	late := time.AfterFunc(r.idle, r.drop)
	n, err := r.src.Read(p)
	if !late.Stop() && err != nil {
		err = errSnapshotIdle
	}
	return n, err
}

// incomingSnapshot is a snapshot as raft reads it. One goroutine uses it.
type incomingSnapshot struct {
	src  io.Reader
	drop func() // closes the connection, and others
	err  error
}

// Read implements io.Reader. After an error the connection is unusable, because nobody knows where the next RPC on
// it begins. So it is closed.
func (in *incomingSnapshot) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		in.drop()
	}
	in.err = err
	return n, err
}

// WriteTo implements io.WriterTo. raft calls it, through io.Copy, to get rid of what it has not read, so that the
// connection can be used again. That may be gigabytes, on its main thread; a new connection is cheaper.
func (in *incomingSnapshot) WriteTo(io.Writer) (int64, error) {
	if in.err == nil {
		in.err = errNotWanted
		in.drop()
	}
	if errors.Is(in.err, io.EOF) {
		return 0, nil
	}
	return 0, in.err
}
