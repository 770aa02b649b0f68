package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

const (
	firstPause   = 4 * time.Millisecond
	longestPause = 100 * time.Millisecond
)

// request is one command, as it is sent.
type request struct {
	name       string
	args       []any // strings: they are read by a goroutine that may outlive the call
	write      bool
	stale      bool // RAFTCASK READ
	repeatable bool // a write that may be sent again after an unknown outcome
}

// describe names the command and its first argument, for errors.
func (r *request) describe() string {
	if r.stale {
		return describeStale(r)
	}
	if len(r.args) == 0 {
		return r.name
	}
	first, ok := r.args[0].(string)
	if !ok {
		return r.name
	}
	const most = 64
	if len(first) > most {
		return fmt.Sprintf("%s %q…", r.name, first[:most])
	}
	return fmt.Sprintf("%s %q", r.name, first)
}

// fate is what one try did to a request.
type fate int

const (
	notApplied fate = iota // certainly nothing happened
	answered
	refused // answered with an error that trying again would not change
	unknown // it was sent and not answered, or answered with UNKNOWN
)

// outcome is the state of one request after a try.
type outcome struct {
	fate    fate
	reply   any   // of answered
	err     error // of all others
	unknown error // of an earlier try that was repeated; it stays with the request to the end
}

// run sends requests in order until their fates are final. Only the end of the list is ever tried again, so
// that the order holds: the requests after the last one that is settled.
func (c *Client) run(ctx context.Context, requests []request) []Result {
	requests = c.settings.stale.wrap(requests)
	ctx, cancel := c.limit(ctx)
	defer cancel()

	outcomes := make([]outcome, len(requests))
	start, attempts, from := time.Now(), 0, 0
	var ended error // why there is no further try
	for pause := firstPause; from < len(requests); pause = min(2*pause, longestPause) {
		if ended = c.over(ctx); ended != nil {
			break
		}
		if attempts > 0 && !c.pause(ctx, pause/2+rand.N(pause/2)) {
			ended = c.over(ctx)
			break
		}
		attempts++
		c.try(ctx, requests[from:], outcomes[from:])
		from = unsettled(requests, outcomes)
	}

	results := make([]Result, len(requests))
	for i := range requests {
		results[i] = conclude(&requests[i], &outcomes[i], attempts, time.Since(start), ended)
		if requests[i].stale {
			results[i] = c.settings.stale.unwrap(&requests[i], results[i])
		}
	}
	return results
}

// limit gives a context without a deadline the default one.
func (c *Client) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.opts.Timeout)
}

// over returns why a call must end.
func (c *Client) over(ctx context.Context) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// pause waits for d; false means that the call is over.
func (c *Client) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	return false
}

// try sends the requests to one node once.
func (c *Client) try(ctx context.Context, requests []request, outcomes []outcome) {
	n, err := c.nodes.pickFor(allStale(requests))
	if err != nil {
		for i := range outcomes {
			outcomes[i].fate, outcomes[i].err = notApplied, err
		}
		return
	}
	fresh, failure := n.exchange(ctx, requests)
	for i := range fresh {
		if outcomes[i].unknown != nil {
			fresh[i].unknown = outcomes[i].unknown
		} else if fresh[i].fate == unknown && requests[i].write {
			fresh[i].unknown = fresh[i].err
		}
		if before := outcomes[i].err; before != nil && fresh[i].unknown == nil && ctx.Err() != nil && errors.Is(fresh[i].err, ctx.Err()) {
			fresh[i].err = before // that time is over is said anyway; this says why it took so long
		}
		outcomes[i] = fresh[i]
	}
	c.nodes.report(n, fresh, failure, ctx.Err() != nil)
}

// unsettled returns where the requests to try again begin. There are none when a write before them has an
// unknown outcome: it may still be applied, and would then come after what followed it.
func unsettled(requests []request, outcomes []outcome) int {
	from := len(requests)
	for from > 0 && repeats(&requests[from-1], &outcomes[from-1]) {
		from--
	}
	for i := range from {
		if requests[i].write && outcomes[i].fate == unknown {
			return len(requests)
		}
	}
	return from
}

// repeats is the retry policy.
func repeats(r *request, o *outcome) bool {
	switch o.fate {
	case notApplied:
		return true
	case unknown:
		return !r.write || r.repeatable
	default:
		return false
	}
}

// conclude turns the last outcome of a request into what its caller sees.
func conclude(r *request, o *outcome, attempts int, elapsed time.Duration, ended error) Result {
	if o.fate == answered {
		return Result{Value: o.reply}
	}
	if o.fate == refused && o.unknown == nil {
		return Result{Err: &ServerError{Command: r.describe(), Text: o.err.Error()}}
	}
	cause := o.err
	if ended != nil {
		cause = ended
		if o.err != nil && !errors.Is(o.err, ended) {
			cause = fmt.Errorf("%w; the last try: %w", ended, o.err)
		}
	}
	switch {
	case o.unknown != nil:
		if !errors.Is(cause, o.unknown) {
			cause = fmt.Errorf("%w; an earlier try: %w", cause, o.unknown)
		}
		return Result{Err: &UnknownError{Command: r.describe(), Cause: cause}}
	case r.write:
		return Result{Err: &NotAppliedError{Command: r.describe(), Attempts: attempts, Elapsed: elapsed, Cause: cause}}
	default:
		return Result{Err: &UnavailableError{Command: r.describe(), Attempts: attempts, Elapsed: elapsed, Cause: cause}}
	}
}

// argument turns what Do takes into what is sent.
func argument(arg any) (string, error) {
	switch v := arg.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case uint64:
		return strconv.FormatUint(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	default:
		return "", fmt.Errorf("client: an argument of type %T cannot be sent: use string, []byte, int, int64, uint64 or float64", arg)
	}
}

// parse builds a request from the arguments of Do.
func parse(args []any) (request, error) {
	if len(args) == 0 {
		return request{}, errors.New("client: Do without a command")
	}
	r := request{args: make([]any, 0, len(args)-1)}
	for i, arg := range args {
		text, err := argument(arg)
		if err != nil {
			return request{}, err
		}
		if i == 0 {
			r.name = strings.ToUpper(text)
		} else {
			r.args = append(r.args, text)
		}
	}
	second := ""
	if len(r.args) > 0 {
		if s, ok := r.args[0].(string); ok {
			second = " " + strings.ToUpper(s)
		}
	}
	if changesConnection[r.name] || changesConnection[r.name+second] {
		return request{}, fmt.Errorf("client: %s changes the state of one connection, but calls share connections: it cannot be sent with Do", r.name)
	}
	r.write = !reads[r.name] && !reads[r.name+second]
	return r, nil
}

// reads are the commands that change nothing. Do takes any other command for a write.
var reads = set("DBSIZE ECHO EXISTS EXPIRETIME GET GETRANGE INFO KEYS MGET PEXPIRETIME PING PTTL RANDOMKEY ROLE SCAN STRLEN SUBSTR TIME TOUCH TTL TYPE").
	with("RAFTCASK MEMBERS", "RAFTCASK STATUS")

// changesConnection are the commands whose effect would stay behind on a shared connection.
var changesConnection = set("ASKING AUTH DISCARD EXEC HELLO MONITOR MULTI PSUBSCRIBE PUNSUBSCRIBE QUIT READONLY READWRITE RESET SELECT SSUBSCRIBE "+
	"SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH").with("RAFTCASK READMODE", "CLIENT CACHING", "CLIENT REPLY", "CLIENT TRACKING")

type names map[string]bool

func set(list string) names { return names{}.with(strings.Fields(list)...) }

func (n names) with(more ...string) names {
	for _, name := range more {
		n[name] = true
	}
	return n
}
