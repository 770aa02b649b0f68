package client

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// maxBatch bounds the commands of a Batch: all of them are in memory here and on the node.
const maxBatch = 10_000

// Batch collects commands that are sent together and executed in their order, though not as one: other clients'
// commands may come in between. The zero value is an empty Batch. It is not safe for concurrent use.
type Batch struct {
	requests []request
	err      error // of the first command that could not be built
}

// Len returns how many commands the Batch holds.
func (b *Batch) Len() int { return len(b.requests) }

// Get adds a Get; its result is read with Bytes.
func (b *Batch) Get(key string) { b.add(request{name: "GET", args: []any{key}}, nil) }

// Set adds a Set; its result is read with OK.
func (b *Batch) Set(key string, value []byte, opts ...SetOption) {
	b.add(newSet(key, value, settings{}, opts))
}

// Delete adds a Delete; its result is read with Int.
func (b *Batch) Delete(keys ...string) {
	b.add(request{name: "DEL", args: texts(keys), write: true}, nil)
}

// IncrBy adds an IncrBy; its result is read with Int.
func (b *Batch) IncrBy(key string, delta int64) {
	b.add(request{name: "INCRBY", args: []any{key, strconv.FormatInt(delta, 10)}, write: true}, nil)
}

// Append adds an Append; its result is read with Int.
func (b *Batch) Append(key string, value []byte) {
	b.add(request{name: "APPEND", args: []any{key, string(value)}, write: true}, nil)
}

// Expire adds an Expire; its result is read with Int: 0 when there is no such key.
func (b *Batch) Expire(key string, ttl time.Duration) {
	ms, err := milliseconds(ttl)
	b.add(request{name: "PEXPIRE", args: []any{key, ms}, write: true}, err)
}

// Do adds any command; see Client.Do.
func (b *Batch) Do(args ...any) { b.add(parse(args)) }

func (b *Batch) add(r request, err error) {
	switch {
	case b.err != nil:
	case err != nil:
		b.err = err
	case len(b.requests) == maxBatch:
		b.err = fmt.Errorf("client: a batch has at most %d commands", maxBatch)
	default:
		b.requests = append(b.requests, r)
	}
}

// Run sends a Batch. There is one result for each command, in order, and the error is the first one among them;
// a key that does not exist and a condition that does not hold are results, not errors. When a command could
// not be built nothing is sent and there are no results.
//
// Commands are tried again as the package comment says, but never out of order: once a command of the Batch was
// answered, or its outcome is unknown, those before it are not tried again, and those after a write with an
// unknown outcome are not either.
func (c *Client) Run(ctx context.Context, b *Batch) ([]Result, error) {
	if b.err != nil || len(b.requests) == 0 {
		return nil, b.err
	}
	results := c.run(ctx, b.requests)
	for _, r := range results {
		if r.Err != nil {
			return results, r.Err
		}
	}
	return results, nil
}

// Result is the outcome of one command.
type Result struct {
	Value any   // as in Client.Do
	Err   error // as the method of the same name returns it
}

// Bytes returns the answer of a command that answers with a value. ErrNotFound means that there is none.
func (r Result) Bytes() ([]byte, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	switch v := r.Value.(type) {
	case nil:
		return nil, ErrNotFound
	case string:
		return []byte(v), nil
	default:
		return nil, fmt.Errorf("client: the answer is a %T, not a value", r.Value)
	}
}

// Int returns the answer of a command that answers with a number.
func (r Result) Int() (int64, error) {
	if r.Err != nil {
		return 0, r.Err
	}
	n, ok := r.Value.(int64)
	if !ok {
		return 0, fmt.Errorf("client: the answer is a %T, not a number", r.Value)
	}
	return n, nil
}

// OK returns nil for the answer of a command that was carried out, and ErrConditionFailed for a Set whose
// condition did not hold.
func (r Result) OK() error {
	switch {
	case r.Err != nil:
		return r.Err
	case r.Value == nil:
		return ErrConditionFailed
	default:
		return nil
	}
}
