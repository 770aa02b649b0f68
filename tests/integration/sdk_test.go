package integration

import (
	"context"
	"errors"
	"net"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/raftcask/raftcask/client"
)

// writeOutcome is what a client was told of its write.
type writeOutcome uint8

const (
	unknown writeOutcome = iota
	acknowledged
	notApplied
)

// register is what the writers need of a client.
type register interface {
	set(ctx context.Context, key, value string) writeOutcome
	// get returns "" for a key that is absent.
	get(ctx context.Context, key string) (string, error)
}

// sdk is the Go SDK: it finds the leader, follows it, and tries again what was not applied.
type sdk struct{ *client.Client }

func openSDK(t testing.TB, addrs []string) sdk {
	t.Helper()
	c, err := client.New(client.Options{Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	return sdk{c}
}

func (s sdk) set(ctx context.Context, key, value string) writeOutcome {
	switch err := s.Set(ctx, key, []byte(value)); {
	case err == nil:
		return acknowledged
	case errors.Is(err, client.ErrNotApplied):
		return notApplied
	default:
		return unknown
	}
}

func (s sdk) get(ctx context.Context, key string) (string, error) {
	value, err := s.Get(ctx, key)
	if errors.Is(err, client.ErrNotFound) {
		err = nil
	}
	return string(value), err
}

// pinned stays with one node, whatever role that has, and tries nothing again.
type pinned struct{ *goredis.Client }

func openPinned(t testing.TB, addr string) pinned {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: opTimeout})
	t.Cleanup(func() { _ = c.Close() }) // nothing is under way
	return pinned{c}
}

func (p pinned) set(ctx context.Context, key, value string) writeOutcome {
	err := p.Set(ctx, key, value, 0).Err()
	var fromServer goredis.Error
	var fromNet *net.OpError
	switch {
	case err == nil:
		return acknowledged
	case errors.As(err, &fromServer) && unsettled(redisError(err.Error())) && firstWord(err.Error()) != "UNKNOWN":
		return notApplied
	case errors.As(err, &fromNet) && fromNet.Op == "dial":
		return notApplied
	default:
		return unknown
	}
}

func (p pinned) get(ctx context.Context, key string) (string, error) {
	value, err := p.Get(ctx, key).Result()
	if errors.Is(err, goredis.Nil) {
		err = nil
	}
	return value, err
}
