package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
)

// group is what the executor needs of a *cluster.Group.
type group interface {
	IsLeader() bool
	Leader() (id, peerAddr, respAddr string, ok bool)
	// Propose evaluates n operations of about size bytes in order, and returns nil
	// or one error each.
	Propose(ctx context.Context, n int, size int64, eval func(tx command.Tx, i int)) []error
	ConfirmLeader(ctx context.Context) error
	ReadTx() readTx
}

// readTx is a view of the store at one time. SawExpired reports that a key was
// treated as absent because of this node's clock.
type readTx interface {
	command.Tx
	SawExpired() bool
	// Freeze holds commits back until thaw is called.
	Freeze() (thaw func())
}

// runRead runs a command that reads. One that may name several keys sees them at one moment: never half of an MSET.
func runRead(tx readTx, call command.Call) command.Reply {
	if call.Spec.Class == command.Read && len(call.Args) > 2 {
		thaw := tx.Freeze()
		defer thaw()
	}
	return call.Spec.Run(tx, call.Args)
}

const (
	// requestBudget is how long a batch may take. Clients give up, and send again
	// what they take for lost, after 2 s (Jedis) or 5 s (go-redis, redis-py): an
	// answer that says what is known has to come before that.
	requestBudget = 1800 * time.Millisecond
	// leaderWait is how long a batch that nobody has taken yet waits for a leader.
	// Detecting a dead one and electing another takes 0.5 to 1 s.
	leaderWait = 1200 * time.Millisecond
	// forwardMargin is kept by the leader's answer to find its way back in time.
	forwardMargin = 50 * time.Millisecond
)

// executor answers the data commands of the sessions, whichever node leads.
//
// A batch is the commands that a connection had sent when it was read. Their
// effects and replies are those of running them one after another. The node that
// leads executes a prefix of the batch; what it did not take, because it does not
// lead any more, was certainly not executed, and goes to the next leader. That is
// how a client rides over an election in which nothing of its own was in flight.
//
// It also keeps an order in the outcomes: what follows a refused command was not
// executed either. Client libraries depend on it. go-redis, for one, sends a whole
// pipeline again when its first reply is one that may be retried.
type executor struct {
	local   local
	remote  remote
	metrics *commandMetrics
	fresh   freshness   // nil: no stale reads
	removed func() bool // the node is no member any more; nil: never
}

// Exec implements resp.Backend.
func (e *executor) Exec(ctx context.Context, calls []command.Call) []command.Reply {
	begin := time.Now()
	if e.removed != nil && e.removed() {
		return slices.Repeat([]command.Reply{removedReply()}, len(calls))
	}
	replies := e.route(ctx, calls, begin)
	if len(replies) < len(calls) {
		refusal := e.notTakenReply()
		for len(replies) < len(calls) {
			replies = append(replies, refusal)
		}
	}
	e.metrics.observe(calls, replies, time.Since(begin))
	return replies
}

// budget is the time for a batch: always more than what its writes get at the proposer.
func budget(calls []command.Call) time.Duration {
	bytes := 0
	for i := range calls {
		bytes += callBytes(calls[i])
	}
	return requestBudget + time.Duration(bytes>>20)*cluster.TimePerMiB
}

func callBytes(call command.Call) int {
	bytes := 0
	for _, arg := range call.Args {
		bytes += len(arg)
	}
	return bytes
}

// route hands the batch to the leader, and what that leader did not take to the
// next, until all is answered or nobody has taken anything for too long.
// It returns the replies of a prefix; what follows it was not executed.
func (e *executor) route(ctx context.Context, calls []command.Call, begin time.Time) []command.Reply {
	deadline, giveUp := begin.Add(budget(calls)), begin.Add(leaderWait)
	replies := e.attempt(ctx, calls, deadline)
	if len(replies) == len(calls) {
		return replies
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for pause := pauseMin; len(replies) < len(calls); pause = min(2*pause, pauseMax) {
		if time.Now().Add(pause).After(giveUp) || !sleep(ctx, pause) {
			break
		}
		got := e.attempt(ctx, calls[len(replies):], deadline)
		replies = append(replies, got...)
		if len(got) > 0 {
			pause = pauseMin
		}
	}
	return replies
}

const (
	pauseMin = 2 * time.Millisecond
	pauseMax = 30 * time.Millisecond
)

// attempt gives the batch to whom this node takes for the leader. A first attempt
// here needs no context of its own, which would cost more than the rest: the group
// bounds each of its operations.
func (e *executor) attempt(ctx context.Context, calls []command.Call, deadline time.Time) []command.Reply {
	if e.local.group.IsLeader() {
		return e.local.run(ctx, calls, unbounded, deadline)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return e.remote.run(ctx, calls)
}

// notTakenReply says why a batch was not taken by anybody. None of it was executed.
func (e *executor) notTakenReply() command.Reply {
	if e.local.group.IsLeader() {
		return command.NotApplied("it had to wait too long: the disks or the network are slow")
	}
	if id, addr, _, ok := e.remote.group.Leader(); ok && id != e.remote.self {
		return command.NotApplied("the leader " + id + " at " + addr + " could not be reached")
	}
	return command.NoLeader()
}

// errorReply is the reply for an operation that ended with an error.
func errorReply(err error) command.Reply {
	switch {
	case errors.Is(err, cluster.ErrUnknown):
		return command.Unknown(reason(err))
	case errors.Is(err, cluster.ErrNoLeader):
		return command.NoLeader()
	}
	return command.NotApplied(reason(err))
}

// reason is the text of err for a client: without the name of the sentinel that
// begins it, because the reply begins with a code of its own.
func reason(err error) string {
	text := err.Error()
	for _, sentinel := range []error{cluster.ErrUnknown, cluster.ErrNotApplied, cluster.ErrNotLeader} {
		if rest, ok := strings.CutPrefix(text, sentinel.Error()+": "); ok {
			return rest
		}
	}
	return strings.TrimPrefix(text, "cluster: ")
}

// sleep waits for d; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
