package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"
)

// NoTTL is what TTL returns for a key that does not expire.
const NoTTL time.Duration = -1

// scanCount is how many keys Scan asks for at a time.
const scanCount = 500

// Get returns the value of a key. ErrNotFound means that there is none.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	return Result.Bytes(c.one(ctx, request{name: "GET", args: []any{key}}))
}

// Set sets the value of a key, and by default lets it live for ever. With a condition that does not hold it
// returns ErrConditionFailed.
func (c *Client) Set(ctx context.Context, key string, value []byte, opts ...SetOption) error {
	r, err := newSet(key, value, c.settings, opts)
	if err != nil {
		return err
	}
	return c.one(ctx, r).OK()
}

// Delete deletes keys and returns how many of them existed.
func (c *Client) Delete(ctx context.Context, keys ...string) (int64, error) {
	return c.integer(ctx, request{name: "DEL", args: texts(keys), write: true, repeatable: c.settings.retryUnknown})
}

// Exists returns how many of the keys exist; a key that is named twice counts twice.
func (c *Client) Exists(ctx context.Context, keys ...string) (int64, error) {
	return c.integer(ctx, request{name: "EXISTS", args: texts(keys)})
}

// Incr adds 1 to the number under a key, which is 0 when there is none, and returns the sum.
func (c *Client) Incr(ctx context.Context, key string) (int64, error) {
	return c.integer(ctx, request{name: "INCR", args: []any{key}, write: true})
}

// IncrBy adds delta, which may be negative, to the number under a key and returns the sum.
func (c *Client) IncrBy(ctx context.Context, key string, delta int64) (int64, error) {
	return c.integer(ctx, request{name: "INCRBY", args: []any{key, strconv.FormatInt(delta, 10)}, write: true})
}

// Append appends to the value of a key and returns the new length in bytes.
func (c *Client) Append(ctx context.Context, key string, value []byte) (int64, error) {
	return c.integer(ctx, request{name: "APPEND", args: []any{key, string(value)}, write: true})
}

// Expire makes a key expire after ttl, which must be at least 1 ms. ErrNotFound means that there is no such key.
func (c *Client) Expire(ctx context.Context, key string, ttl time.Duration) error {
	ms, err := milliseconds(ttl)
	if err != nil {
		return err
	}
	done, err := c.integer(ctx, request{name: "PEXPIRE", args: []any{key, ms}, write: true, repeatable: c.settings.retryUnknown})
	if err == nil && done == 0 {
		return ErrNotFound
	}
	return err
}

// TTL returns how long a key has to live: NoTTL when it does not expire, ErrNotFound when there is no such key.
func (c *Client) TTL(ctx context.Context, key string) (time.Duration, error) {
	ms, err := c.integer(ctx, request{name: "PTTL", args: []any{key}})
	switch {
	case err != nil:
		return 0, err
	case ms == -2:
		return 0, ErrNotFound
	case ms < 0:
		return NoTTL, nil
	default:
		return time.Duration(min(ms, int64(maxTTL/time.Millisecond))) * time.Millisecond, nil
	}
}

// Persist keeps a key from expiring. It reports false when the key does not exist or would not have expired.
func (c *Client) Persist(ctx context.Context, key string) (bool, error) {
	done, err := c.integer(ctx, request{name: "PERSIST", args: []any{key}, write: true, repeatable: c.settings.retryUnknown})
	return done == 1, err
}

// MGet returns the values of keys, in their order; nil for a key that does not exist.
func (c *Client) MGet(ctx context.Context, keys ...string) ([][]byte, error) {
	r := request{name: "MGET", args: texts(keys)}
	result := c.one(ctx, r)
	if result.Err != nil {
		return nil, result.Err
	}
	list, ok := result.Value.([]any)
	if !ok || len(list) != len(keys) {
		return nil, fmt.Errorf("client: MGET of %d keys was answered with %T of another length", len(keys), result.Value)
	}
	values := make([][]byte, len(list))
	for i, item := range list {
		value, err := Result{Value: item}.Bytes()
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		values[i] = value
	}
	return values, nil
}

// MSet sets several keys at once: all of them or none.
func (c *Client) MSet(ctx context.Context, values map[string][]byte) error {
	r := request{name: "MSET", args: make([]any, 0, 2*len(values)), write: true, repeatable: c.settings.retryUnknown}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		r.args = append(r.args, key, string(values[key]))
	}
	return c.one(ctx, r).OK()
}

// Scan goes through the keys that match a pattern as in KEYS; "" stands for all. A key that exists from the
// beginning to the end comes at least once; one that is written or deleted meanwhile may come or not, and any
// may come twice. An error is the last thing that comes.
func (c *Client) Scan(ctx context.Context, match string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for cursor := "0"; ; {
			keys, next, err := c.scanPage(ctx, cursor, match)
			if err != nil {
				yield("", err)
				return
			}
			for _, key := range keys {
				if !yield(key, nil) {
					return
				}
			}
			if next == "0" {
				return
			}
			cursor = next
		}
	}
}

func (c *Client) scanPage(ctx context.Context, cursor, match string) (keys []string, next string, err error) {
	r := request{name: "SCAN", args: []any{cursor, "COUNT", strconv.Itoa(scanCount)}}
	if match != "" {
		r.args = append(r.args, "MATCH", match)
	}
	result := c.one(ctx, r)
	if result.Err != nil {
		return nil, "", result.Err
	}
	unexpected := fmt.Errorf("client: SCAN was answered with something else: %.100v", result.Value)
	page, ok := result.Value.([]any)
	if !ok || len(page) != 2 {
		return nil, "", unexpected
	}
	next, isText := page[0].(string)
	list, isList := page[1].([]any)
	if !isText || !isList {
		return nil, "", unexpected
	}
	for _, item := range list {
		key, isText := item.(string)
		if !isText {
			return nil, "", unexpected
		}
		keys = append(keys, key)
	}
	return keys, next, nil
}

// Len returns how many keys there are.
func (c *Client) Len(ctx context.Context) (int64, error) {
	return c.integer(ctx, request{name: "DBSIZE"})
}

// Flush deletes all keys.
func (c *Client) Flush(ctx context.Context) error {
	return c.one(ctx, request{name: "FLUSHALL", write: true}).OK()
}

// Ping returns nil when a node answers. It does not tell whether the cluster has a leader; Get does.
func (c *Client) Ping(ctx context.Context) error {
	return c.one(ctx, request{name: "PING"}).Err
}

// Do sends any command. The answer is nil, string, int64, float64, bool, *big.Int, []any or map[any]any.
// Arguments may be string, []byte, int, int64, uint64 and float64. A command that this package does not know as
// a read is taken for a write: it is not sent again when its outcome is unknown. Commands that change the state
// of a connection, such as MULTI and SUBSCRIBE, are refused.
func (c *Client) Do(ctx context.Context, args ...any) (any, error) {
	r, err := parse(args)
	if err != nil {
		return nil, err
	}
	result := c.one(ctx, r)
	return result.Value, result.Err
}

// one sends one request until its fate is final.
func (c *Client) one(ctx context.Context, r request) Result {
	return c.run(ctx, []request{r})[0]
}

func (c *Client) integer(ctx context.Context, r request) (int64, error) {
	return c.one(ctx, r).Int()
}

func texts(list []string) []any {
	args := make([]any, len(list))
	for i, s := range list {
		args[i] = s
	}
	return args
}

// maxTTL keeps a time to live representable as a Duration on its way back.
const maxTTL = time.Duration(1<<63 - 1)

// milliseconds renders a time to live, rounded up: no key may expire earlier than was asked for.
func milliseconds(ttl time.Duration) (string, error) {
	if ttl <= 0 {
		return "", fmt.Errorf("client: a time to live of %v: it must be at least 1 ms", ttl)
	}
	ms := ttl / time.Millisecond
	if ttl%time.Millisecond > 0 {
		ms++
	}
	return strconv.FormatInt(int64(ms), 10), nil
}
