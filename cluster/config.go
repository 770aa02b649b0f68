package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// Channel is the kind of a message between nodes.
type Channel uint8

// The channels that this package uses.
const (
	// Confirm asks a voter for its term; answered by HandleConfirm.
	Confirm Channel = iota + 1
	// Control carries membership and status; answered by HandleControl.
	Control
)

// Peers is how a node talks to the others. The answer, or the error, is that of the other node's
// HandleConfirm or HandleControl. Call returns when ctx ends.
type Peers interface {
	Call(ctx context.Context, addr string, ch Channel, req []byte) ([]byte, error)
}

// Config of a node. Open copies it, fills the zero fields and validates it.
type Config struct {
	// NodeID names the node for all time; at most 64 letters, digits, '.', '_', '-'. Empty: the id in
	// the data directory, which is generated the first time.
	NodeID string
	// Dir is the data directory. One node at a time may have it.
	Dir string

	// PeerAddr, RespAddr and HTTPAddr are host:port as the other nodes and the clients reach this one.
	PeerAddr, RespAddr, HTTPAddr string
	// GossipBind is the host:port that memberlist listens on, UDP and TCP. Port 0 picks one.
	GossipBind string
	// GossipAdvertise is the host:port that others use; default GossipBind, with the host of PeerAddr
	// when GossipBind names no single host.
	GossipAdvertise string
	// Join lists gossip addresses of other nodes. They are tried again for ever.
	Join []string
	// BootstrapExpect is the number of nodes that form a new cluster together; 0 never bootstraps. It
	// is ignored by a node that is in a cluster. Every node of a new cluster needs the same number.
	BootstrapExpect int
	// NonVoter makes the node a read replica: it joins a cluster and never votes, so that it costs writes
	// nothing and saves nothing either when voters are lost. It founds no cluster. A member that votes already goes on voting;
	// a read replica that is started without it is promoted.
	NonVoter bool
	// Version of the program, shown in the status.
	Version string

	Peers       Peers            // required
	StreamLayer raft.StreamLayer // required; raft's connections. Owned by the node from Open on.
	Engine      bitcask.Options  // Replicated is set by Open
	Logger      *slog.Logger     // default slog.Default()
	// OnFatal is called at most once, from any goroutine, when the node must not go on: a failed or
	// stalled sync, damage, a broken invariant. It should end the process. Default: log and os.Exit(1).
	OnFatal func(error)

	Timing Timing
	Limits Limits
}

// Timing holds the node's time-outs. Zero fields mean the defaults.
type Timing struct {
	// Heartbeat without contact after which a follower doubts its leader, and Election, after which a candidate tries
	// again; default 500 ms each. A follower stands for election after 1.1 to 1.4 of the first (silence.go), a candidate
	// after 1 to 2 of the second. Shorter fails over sooner and elects falsely when the scheduler pauses longer than that.
	Heartbeat, Election time.Duration
	// Commit is how soon an idle follower learns of a commit; default 25 ms, randomized up to twice
	// that. Shorter costs an RPC per follower each time.
	Commit time.Duration
	// Write is how long an operation may take when its context has no earlier deadline; default 1.5 s.
	Write time.Duration
	// StallLeader is how long a disk operation may take before a leader stops its heartbeats, so that
	// another node takes over; default 2 s. StallLimit is when the process gives up; default 10 s.
	StallLeader, StallLimit time.Duration
	// Reconcile is the pause between two looks of the leader at the membership; default 1 s.
	Reconcile time.Duration
	// Stable is how long a new node must be caught up before it may vote; default 2 s.
	Stable time.Duration
	// Sweep is the pause between two looks for expired keys; default 1 s.
	Sweep time.Duration
	// Transfer limits handing over leadership when a node closes; default 2 s.
	Transfer time.Duration
}

// Limits holds the node's bounds in bytes and counts. Zero fields mean the defaults.
type Limits struct {
	// EntryBytes is where the proposer closes an entry; default 512 KiB. A single larger value is an
	// entry of its own. Larger entries need fewer syncs and hold up heartbeats longer.
	EntryBytes int
	// InFlight is the number of entries proposed and not answered; default 2. More than one only while a
	// full one waits.
	InFlight int
	// QueueBytes bounds what waits for the proposer; default 64 MiB. Beyond it: ErrOverloaded.
	QueueBytes int64
	// SnapshotBytes of log trigger a snapshot; default 256 MiB.
	SnapshotBytes int64
	// TrailingBytes of log are kept behind a snapshot, so that a follower that was away needs none;
	// default 128 MiB, at most half of SnapshotBytes. They take disk space.
	TrailingBytes int64
	// CatchUpEntries is how near a new node's log must be to the leader's before it may vote; default 128.
	CatchUpEntries uint64
}

const (
	mib = 1 << 20

	// defaultGroup is the only group that a node has today.
	defaultGroup = 0
)

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.Timing.Heartbeat, 500*time.Millisecond)
	setDefault(&c.Timing.Election, c.Timing.Heartbeat)
	setDefault(&c.Timing.Commit, 25*time.Millisecond)
	setDefault(&c.Timing.Write, 1500*time.Millisecond)
	setDefault(&c.Timing.StallLeader, 2*time.Second)
	setDefault(&c.Timing.StallLimit, 10*time.Second)
	setDefault(&c.Timing.Reconcile, time.Second)
	setDefault(&c.Timing.Stable, 2*time.Second)
	setDefault(&c.Timing.Sweep, time.Second)
	setDefault(&c.Timing.Transfer, 2*time.Second)
	setDefault(&c.Limits.EntryBytes, 512<<10)
	setDefault(&c.Limits.InFlight, 2)
	setDefault(&c.Limits.QueueBytes, int64(64*mib))
	setDefault(&c.Limits.SnapshotBytes, int64(256*mib))
	setDefault(&c.Limits.TrailingBytes, c.Limits.SnapshotBytes/2)
	setDefault(&c.Limits.CatchUpEntries, uint64(128))
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnFatal == nil {
		c.OnFatal = exitOnFatal(c.Logger)
	}
	c.Engine.Replicated = true
	if c.Engine.Logger == nil {
		c.Engine.Logger = c.Logger
	}
	if c.Engine.Now == nil {
		c.Engine.Now = time.Now
	}
	if c.Engine.MaxValueBytes == 0 {
		c.Engine.MaxValueBytes = 8 * mib
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	fail := func(field, format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrConfig, field, fmt.Sprintf(format, a...))
	}
	switch {
	case c.Dir == "":
		return fail("Dir", "a data directory is needed")
	case c.Peers == nil:
		return fail("Peers", "is needed")
	case c.StreamLayer == nil:
		return fail("StreamLayer", "is needed")
	case c.BootstrapExpect < 0:
		return fail("BootstrapExpect", "%d is negative", c.BootstrapExpect)
	case c.NonVoter && c.BootstrapExpect > 0:
		return fail("NonVoter", "a node that never votes cannot found a cluster: set no BootstrapExpect")
	case c.Timing.Election < c.Timing.Heartbeat:
		return fail("Timing.Election", "%s is shorter than the heartbeat time-out %s", c.Timing.Election, c.Timing.Heartbeat)
	case c.Timing.StallLimit < c.Timing.StallLeader:
		return fail("Timing.StallLimit", "%s is shorter than StallLeader %s", c.Timing.StallLimit, c.Timing.StallLeader)
	case c.Limits.TrailingBytes > c.Limits.SnapshotBytes/2:
		return fail("Limits.TrailingBytes", "%d is more than half of SnapshotBytes %d", c.Limits.TrailingBytes, c.Limits.SnapshotBytes)
	case c.Limits.InFlight < 1 || c.Limits.EntryBytes < 1 || c.Limits.QueueBytes < 1:
		return fail("Limits", "must be positive")
	}
	if c.NodeID != "" {
		if err := checkNodeID(c.NodeID); err != nil {
			return fail("NodeID", "%v", err)
		}
	}
	for _, a := range []struct{ field, addr string }{{"PeerAddr", c.PeerAddr}, {"GossipBind", c.GossipBind}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fail(a.field, "%q is no host:port", a.addr)
		}
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
