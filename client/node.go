package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// node is one address of the cluster and the connections to it. go-redis keeps the connections and speaks the
// protocol; everything about trying again is switched off there, because it decides by other rules than this
// package.
type node struct {
	core *core
	addr string
	rdb  *redis.Client

	// Guarded by topology.mu.
	users     int       // tries under way
	retired   bool      // no longer part of the cluster: closed when users reaches 0
	failures  int       // tries in a row that broke
	downUntil time.Time // left alone until then
}

func newNode(c *core, addr string) *node {
	n := &node{core: c, addr: addr}
	n.rdb = redis.NewClient(&redis.Options{
		Addr:                     addr,
		Dialer:                   n.dial,
		Protocol:                 3,
		Username:                 c.opts.Username,
		Password:                 c.opts.Password,
		ClientName:               c.opts.ClientName,
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              c.opts.DialTimeout,
		ContextTimeoutEnabled:    true, // the deadline of each try rules; the next three are only above it
		ReadTimeout:              c.opts.AttemptTimeout + time.Second,
		WriteTimeout:             c.opts.AttemptTimeout + time.Second,
		PoolTimeout:              c.opts.AttemptTimeout + time.Second,
		PoolSize:                 c.opts.PoolSize,
		PipelinePoolSize:         -1, // one pool for everything
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return n
}

// definite are the codes of error answers that mean: certainly not applied, try again, here or elsewhere.
var definite = set("TRYAGAIN CLUSTERDOWN MOVED READONLY LOADING")

// What has become of a command that was given to go-redis.
const (
	waiting   int32 = iota // not a byte of it was written, not even into a buffer
	written                // at least its beginning was; from here on it may be executed
	abandoned              // it will never be written
)

// mark stands for the name of a command. go-redis asks it for its bytes at the very moment when it begins to
// write the command: that tells a command which never left, whatever the error, from one that may have been
// executed. Errors alone do not.
type mark struct {
	name  string
	state *atomic.Int32
}

var errAbandoned = errors.New("abandoned before it was sent")

// MarshalBinary lets a command be written once.
func (m mark) MarshalBinary() ([]byte, error) {
	if !m.state.CompareAndSwap(waiting, written) {
		return nil, errAbandoned
	}
	return []byte(m.name), nil
}

// exchange sends requests, as one pipeline, and waits for their answers. failure is what broke the exchange as
// a whole; nil when the node answered at all.
func (n *node) exchange(caller context.Context, requests []request) (outcomes []outcome, failure error) {
	// Its end frees a command that still waits for a connection. One that was sent is left to the deadline of
	// its socket.
	ctx, cancel := context.WithTimeout(caller, n.core.opts.AttemptTimeout)
	defer cancel()
	states := make([]atomic.Int32, len(requests))
	commands := make([]*redis.Cmd, len(requests))
	for i, r := range requests {
		args := append(make([]any, 0, 1+len(r.args)), mark{r.name, &states[i]})
		commands[i] = redis.NewCmd(ctx, append(args, r.args...)...)
	}
	done := make(chan error, 1)
	started := n.core.start(func() {
		defer n.core.nodes.release(n)
		done <- n.send(ctx, commands)
	})
	if !started {
		n.core.nodes.release(n)
		return n.judge(states, nil, ErrClosed), ErrClosed
	}
	select {
	case err := <-done:
		return n.judge(states, commands, err), breakdown(commands, err)
	case <-ctx.Done():
		failure = caller.Err()
		if failure == nil {
			failure = fmt.Errorf("no answer within %v", n.core.opts.AttemptTimeout)
		}
	case <-n.core.ctx.Done():
		failure = ErrClosed
	}
	return n.judge(states, nil, n.because(failure)), failure
}

// breakdown returns what broke an exchange, nil when every command was answered.
func breakdown(commands []*redis.Cmd, err error) error {
	for _, cmd := range commands {
		if e := cmd.Err(); e != nil && !isAnswer(e) {
			return e
		}
	}
	if err != nil && !isAnswer(err) {
		return err
	}
	return nil
}

// send runs in a goroutine of its own: go-redis heeds the deadline of ctx while it reads, but not its end.
func (n *node) send(ctx context.Context, commands []*redis.Cmd) error {
	if len(commands) == 1 {
		return n.rdb.Process(ctx, commands[0])
	}
	pipe := n.rdb.Pipeline()
	for _, cmd := range commands {
		if err := pipe.Process(ctx, cmd); err != nil { // only queues
			return err
		}
	}
	_, err := pipe.Exec(ctx)
	return err
}

// judge decides the fate of each request. commands is nil when they were given up: then they still belong to
// send. err is why they were given up, or what send returned.
func (n *node) judge(states []atomic.Int32, commands []*redis.Cmd, err error) []outcome {
	outcomes := make([]outcome, len(states))
	heard := answeredBeforeBreak(commands)
	for i := range states {
		o := &outcomes[i]
		sent := !states[i].CompareAndSwap(waiting, abandoned)
		if commands == nil {
			o.err = err
			if sent {
				o.fate = unknown
			}
			continue
		}
		reply, own := commands[i].Result()
		switch {
		case i < heard && (own == nil || !isAnswer(own)):
			o.fate, o.reply = answered, reply
		case sent && (own == nil || errors.Is(own, redis.Nil)):
			o.fate, o.reply = answered, reply
		case own == nil && err == nil:
			o.err = n.because(errAbandoned)
		case own == nil: // a pipeline that got no connection does not always tell its commands
			o.fate, o.err = n.judgeError(sent, err)
		default:
			o.fate, o.err = n.judgeError(sent, own)
		}
	}
	return outcomes
}

// answeredBeforeBreak returns how many commands at the front were certainly answered, although go-redis stamps
// the error that breaks a pipeline on all of its commands. It reads the answers in order and stops at the first
// one that fails: whatever comes before an answer was answered. The last answer itself must not look like what
// a failed read leaves behind.
func answeredBeforeBreak(commands []*redis.Cmd) int {
	for i, cmd := range slices.Backward(commands) {
		if isAnswer(cmd.Err()) {
			return i + 1
		}
		switch reply := cmd.Val().(type) {
		case nil:
			continue
		case string:
			if reply != "" {
				return i + 1
			}
		case int64:
			if reply != 0 && reply != math.MaxInt64 && reply != math.MinInt64 {
				return i + 1
			}
		}
		return i
	}
	return 0
}

// judgeError decides the fate of a request that ended with an error, and puts the error into words.
func (n *node) judgeError(sent bool, err error) (fate, error) {
	text := err.Error()
	switch {
	case isAnswer(err) && definite[code(text)]:
		return notApplied, n.because(err)
	case isAnswer(err) && code(text) == "UNKNOWN":
		return unknown, n.because(err)
	case isAnswer(err):
		return refused, err
	case sent:
		return unknown, n.because(err)
	default:
		return notApplied, n.because(err)
	}
}

// because adds the node to an error.
func (n *node) because(err error) error { return fmt.Errorf("%s: %w", n.addr, err) }

// isAnswer reports whether err is an error answer of the server.
func isAnswer(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// answerText returns the text of the error answer in err, or "".
func answerText(err error) string {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return ""
	}
	return answer.Error()
}
