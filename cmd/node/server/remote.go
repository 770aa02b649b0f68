package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/transport"
)

const (
	// maxMessageBytes bounds one message between nodes. The largest value the
	// store can be configured for, 64 MiB, has to fit with its command around it.
	maxMessageBytes = 80 << 20
	// forwardBytes closes a request to the leader; a longer batch goes in several,
	// one after another. One command may be longer.
	forwardBytes = 4 << 20
	// answerBytes closes an answer: the commands after it are asked for again.
	answerBytes = 8 << 20
	// roomForErrors is kept in a full answer for the errors that replace what does
	// not fit.
	roomForErrors = 8 << 20
)

// caller reaches the node at addr over the peer port.
type caller interface {
	Call(ctx context.Context, addr string, kind transport.Kind, group uint32, req []byte) ([]byte, error)
}

// remote executes batches at the leader, when that is another node.
//
// Request: command.AppendCalls. Answer: command.AppendReplies, for a prefix of the
// calls; the others were certainly not executed. A node that does not lead answers
// with no reply at all: a batch is never forwarded twice.
type remote struct {
	self    string // node id
	group   group
	groupID uint32
	peers   caller
}

// run sends calls to the leader and returns the replies of a prefix, as local.run.
func (r remote) run(ctx context.Context, calls []command.Call) []command.Reply {
	id, addr, _, ok := r.group.Leader()
	if !ok || id == r.self { // elected, and not ready yet
		return nil
	}
	var replies []command.Reply
	for len(calls) > 0 {
		n := forwardable(calls)
		got := r.send(ctx, addr, calls[:n])
		replies = append(replies, got...)
		if len(got) == 0 {
			break
		}
		calls = calls[len(got):]
	}
	return replies
}

// forwardable counts the commands of the next request.
func forwardable(calls []command.Call) int {
	bytes := 0
	for i := range calls {
		bytes += callBytes(calls[i])
		if bytes > forwardBytes {
			return max(i, 1)
		}
	}
	return len(calls)
}

func (r remote) send(ctx context.Context, addr string, calls []command.Call) []command.Reply {
	answer, err := r.peers.Call(ctx, addr, transport.KindForward, r.groupID, command.AppendCalls(nil, calls))
	if errors.Is(err, transport.ErrNotSent) {
		return nil
	}
	var refusal *transport.RemoteError
	if errors.As(err, &refusal) {
		return refusedReplies(calls, refusal.Text)
	}
	if err != nil {
		return brokenReplies(calls, err)
	}
	replies, err := command.ParseReplies(answer)
	if err == nil && len(replies) > len(calls) {
		err = fmt.Errorf("%d replies to %d commands", len(replies), len(calls))
	}
	if err != nil {
		return brokenReplies(calls, fmt.Errorf("the leader's answer cannot be read: %w", err))
	}
	return replies
}

// refusedReplies is for a request that serveForward could not understand: it fails
// before anything is executed, never after.
func refusedReplies(calls []command.Call, text string) []command.Reply {
	replies := make([]command.Reply, len(calls))
	for i := range replies {
		replies[i] = command.Err("ERR not applied: the leader refused it: " + text)
	}
	return replies
}

// brokenReplies is for a request that was sent and not answered. Its writes may
// have been applied. The reads after the last write had no effect and saw nothing:
// they are left for another try. A read before a write is not, because by now it could see what came after it.
func brokenReplies(calls []command.Call, err error) []command.Reply {
	last := len(calls)
	for last > 0 && calls[last-1].Spec.Class != command.Write {
		last--
	}
	replies := make([]command.Reply, last)
	text := brokenText(err)
	for i := range replies {
		if calls[i].Spec.Class == command.Write {
			replies[i] = command.Unknown(text)
			continue
		}
		// Not a code that lets a library send the whole pipeline again.
		replies[i] = command.Err("ERR not answered: " + text + "; the outcome of the writes after it is unknown")
	}
	return replies
}

func brokenText(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the leader did not answer in time"
	}
	return "the connection to the leader broke before it answered"
}

// serveForward answers the batches that other nodes forward: transport.Handler.
func (e *executor) serveForward(ctx context.Context, _ transport.Hello, req []byte) ([]byte, error) {
	if !e.local.group.IsLeader() {
		return command.AppendReplies(nil, nil), nil
	}
	calls, err := command.ParseCalls(req, maxMessageBytes)
	if err != nil {
		return nil, fmt.Errorf("forwarded batch: %w", err) // from a node of another version
	}
	for i := range calls {
		if !calls[i].Spec.Class.Data() {
			return nil, fmt.Errorf("forwarded batch: %s is not for forwarding", calls[i].Spec.Name)
		}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(requestBudget)
	}
	deadline = deadline.Add(-forwardMargin)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return encodeReplies(e.local.run(ctx, calls, answerBytes, deadline)), nil
}

// encodeReplies makes the answer to a forwarded batch. What it contains was
// executed, so what does not fit into a message is replaced by an error.
func encodeReplies(replies []command.Reply) []byte {
	size := 0
	for i := range replies {
		n := replyBytes(&replies[i])
		if size+n > maxMessageBytes-roomForErrors {
			replies[i] = command.Err("ERR executed, but the reply is too long to come through this node: ask the leader, or for fewer keys at a time")
			n = replyBytes(&replies[i])
		}
		size += n
	}
	return command.AppendReplies(make([]byte, 0, size), replies)
}
