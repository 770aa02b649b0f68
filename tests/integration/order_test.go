package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// TestProgramOrder sends pipelines that mix reads and writes of few keys, and compares every reply with a model: a connection
// sees its own commands in their order, whichever node it talks to, however the bytes are cut, while others write as well.
func TestProgramOrder(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c := startCluster(t, 3)
	leader := c.leader()
	follower := c.others(leader)[0]

	var wg sync.WaitGroup
	for i, n := range []*node{leader, leader, follower, follower} {
		connRng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		wg.Go(func() {
			name := fmt.Sprintf("raw-%d-%s-", i, n.id)
			checkOrder(t, connRng, name, rawPipeline(t, connRng, n.resp))
		})
	}
	for i, n := range []*node{leader, follower} {
		clientRng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		wg.Go(func() {
			name := fmt.Sprintf("go-redis-%d-%s-", i, n.id)
			checkOrder(t, clientRng, name, clientPipeline(t, n.resp))
		})
	}
	wg.Wait()
}

// pipeline sends all steps before it reads the first reply.
type pipeline func(steps []step) ([]any, error)

const orderPipelines = 250

// checkOrder runs pipelines of all lengths against a model. An election in between makes the rest of a pipeline unpredictable,
// so the connection goes on with other keys; that must be rare.
func checkOrder(t *testing.T, rng *rand.Rand, prefix string, send pipeline) {
	m := newModel(rng, prefix)
	elections := 0
	for i := range orderPipelines {
		var steps []step
		for range 1 + rng.IntN(1<<rng.IntN(8)) {
			steps = append(steps, m.next())
		}
		replies, err := send(steps)
		if err != nil {
			t.Errorf("%s: pipeline %d of %d commands: %v", prefix, i, len(steps), err)
			return
		}
		for j, reply := range replies {
			if unsettled(reply) {
				elections++
				m = newModel(rng, fmt.Sprintf("%s%d-", prefix, elections))
				break
			}
			if err := steps[j].check(reply); err != nil {
				t.Errorf("%s: pipeline %d, command %d of %d: %v", prefix, i, j, len(steps), err)
				return
			}
		}
	}
	if elections > orderPipelines/10 {
		t.Errorf("%s: %d of %d pipelines met an election: too few were checked", prefix, elections, orderPipelines)
	}
}

// rawPipeline cuts the bytes at random places.
func rawPipeline(t *testing.T, rng *rand.Rand, addr string) pipeline {
	conn := dialRedis(t, addr)
	return func(steps []step) ([]any, error) {
		if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
			return nil, err
		}
		var b []byte
		for _, s := range steps {
			b = append(b, encode(s.args...)...)
		}
		for len(b) > 0 {
			n := 1 + rng.IntN(len(b))
			if _, err := conn.Write(b[:n]); err != nil {
				return nil, err
			}
			b = b[n:]
		}
		replies := make([]any, len(steps))
		for i := range steps {
			var err error
			if replies[i], err = conn.receive(); err != nil {
				return nil, fmt.Errorf("reply %d: %w", i, err)
			}
		}
		return replies, nil
	}
}

func clientPipeline(t *testing.T, addr string) pipeline {
	rdb := goredis.NewClient(&goredis.Options{Addr: addr, PoolSize: 1, MaxRetries: -1, ReadTimeout: replyTimeout})
	t.Cleanup(func() { _ = rdb.Close() }) // nothing is under way
	return func(steps []step) ([]any, error) {
		pipe := rdb.Pipeline()
		for _, s := range steps {
			args := make([]any, len(s.args))
			for i, arg := range s.args {
				args[i] = arg
			}
			pipe.Do(t.Context(), args...)
		}
		cmds, err := pipe.Exec(t.Context())
		if len(cmds) != len(steps) {
			return nil, fmt.Errorf("%d replies: %w", len(cmds), err)
		}
		replies := make([]any, len(cmds))
		for i, cmd := range cmds {
			if replies[i], err = asReply(cmd.(*goredis.Cmd), steps[i].want); err != nil {
				return nil, fmt.Errorf("reply %d: %w", i, err)
			}
		}
		return replies, nil
	}
}

// asReply turns what go-redis makes of a reply back into what redis.receive returns. go-redis has one type for simple and bulk
// strings, so the expected one tells which it is.
func asReply(cmd *goredis.Cmd, want any) (any, error) {
	reply, err := cmd.Result()
	var fromServer goredis.Error
	switch {
	case errors.Is(err, goredis.Nil):
		return nil, nil
	case errors.As(err, &fromServer):
		return redisError(fromServer.Error()), nil
	case err != nil:
		return nil, err
	}
	if text, ok := reply.(string); ok {
		if _, simple := want.(status); simple {
			return status(text), nil
		}
	}
	return reply, nil
}

// TestModelAgreesWithRedis asks Redis itself, so that the model above is not just one author's opinion.
func TestModelAgreesWithRedis(t *testing.T) {
	rng := newRand(t)
	addr := startRedis(t)
	checkOrder(t, rng, "raw-", rawPipeline(t, rng, addr))
	checkOrder(t, rng, "go-redis-", clientPipeline(t, addr))
}
