package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AnyAge is for Stale: the data may be of any age.
const AnyAge time.Duration = 0

// Stale makes the reads of a variant (see With) be answered by any node from its own data, which may lack the
// latest writes, this program's own among them: by at most maxAge, or without a bound with AnyAge. A node whose data is
// older catches up, or asks the leader. Reads with AnyAge work while there is no leader. maxAge is at
// least 1 ms; parts of a millisecond are dropped.
//
// It holds for Get, MGet, Exists, TTL and the other reads of keys, but not for Scan, whose steps must all be
// answered by one node, nor in a Batch that also writes.
//
//	local := c.With(client.Stale(2 * time.Second))
//	value, err := local.Get(ctx, "greeting")
func Stale(maxAge time.Duration) StaleOption { return StaleOption{maxAge: maxAge} }

// StaleOption is what Stale returns.
type StaleOption struct {
	maxAge time.Duration
	tell   func(age time.Duration, known bool)
}

// Tell makes fn be called with the age of the data of each read, before the read returns: the data had all
// writes that were acknowledged longer ago than that. A node that has just started does not know it. fn is called from the
// goroutines that read.
func (o StaleOption) Tell(fn func(age time.Duration, known bool)) StaleOption {
	o.tell = fn
	return o
}

func (o StaleOption) applyCall(s *settings) { s.stale = &o }

// readsKeys are the commands that may be stale.
var readsKeys = set("DBSIZE EXISTS EXPIRETIME GET GETRANGE KEYS MGET PEXPIRETIME PTTL RANDOMKEY STRLEN SUBSTR TOUCH TTL TYPE")

// wrap makes stale reads of requests, unless one of them writes: what follows it must see it.
func (o *StaleOption) wrap(requests []request) []request {
	if o == nil {
		return requests
	}
	bound := "ANY"
	if o.maxAge != AnyAge {
		bound = strconv.FormatInt(max(o.maxAge.Milliseconds(), 1), 10)
	}
	wrapped := make([]request, len(requests))
	for i, r := range requests {
		if r.write {
			return requests
		}
		if wrapped[i] = r; readsKeys[r.name] {
			args := append([]any{"READ", bound, r.name}, r.args...)
			wrapped[i] = request{name: "RAFTCASK", args: args, stale: true}
		}
	}
	return wrapped
}

// unwrap takes the value out of [age, value].
func (o *StaleOption) unwrap(r *request, result Result) Result {
	if result.Err != nil {
		return result
	}
	pair, ok := result.Value.([]any)
	var age int64
	if ok = ok && len(pair) == 2; ok {
		age, ok = pair[0].(int64)
	}
	if !ok {
		return Result{Err: &ServerError{Command: r.describe(), Text: fmt.Sprintf("ERR a stale read was answered with %v", result.Value)}}
	}
	if o.tell != nil {
		o.tell(time.Duration(max(age, 0))*time.Millisecond, age >= 0)
	}
	return Result{Value: pair[1]}
}

// allStale tells that any node may answer.
func allStale(requests []request) bool {
	for i := range requests {
		if !requests[i].stale {
			return false
		}
	}
	return true
}

// describeStale names the command inside a stale read.
func describeStale(r *request) string {
	inner := request{args: r.args[3:]}
	inner.name = strings.TrimSpace(fmt.Sprint(r.args[2]))
	return inner.describe()
}
