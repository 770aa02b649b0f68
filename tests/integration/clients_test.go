package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// TestRedisClients uses three clients of Redis, as their users would, through every node of one cluster.
func TestRedisClients(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	for _, n := range c.nodes {
		for name, use := range map[string]func(*testing.T, *node){"go-redis": useGoRedis, "rueidis": useRueidis, "redis-cli": useRedisCLI} {
			t.Run(name+"/"+n.id, func(t *testing.T) { use(t, n) })
		}
		t.Run("ROLE/"+n.id, func(t *testing.T) {
			// A leader learns within a second what its followers say of themselves.
			eventually(t, 5*time.Second, "ROLE and INFO agree with who leads", func() error { return checkRole(t, c, n, n == leader) })
		})
	}
}

func useGoRedis(t *testing.T, n *node) {
	ctx := t.Context()
	rdb := goredis.NewClient(&goredis.Options{Addr: n.resp, ClientName: "integration"}) // RESP3, CLIENT SETINFO: its defaults
	defer func() { _ = rdb.Close() }()                                                  // everything is answered
	key := "go-redis-" + n.id

	if err := rdb.Set(ctx, key, "1", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := rdb.Get(ctx, key).Result(); err != nil || got != "1" {
		t.Errorf("GET: %q, %v", got, err)
	}
	if got, err := rdb.TTL(ctx, key).Result(); err != nil || got < 59*time.Minute || got > time.Hour {
		t.Errorf("TTL: %v, %v", got, err)
	}
	if got, err := rdb.IncrBy(ctx, key, 41).Result(); err != nil || got != 42 {
		t.Errorf("INCRBY: %d, %v", got, err)
	}
	if ok, err := rdb.SetNX(ctx, key, "again", 0).Result(); err != nil || ok {
		t.Errorf("SET NX of an existing key: %v, %v", ok, err)
	}
	if got, err := rdb.Get(ctx, key+"-absent").Result(); !errors.Is(err, goredis.Nil) {
		t.Errorf("GET of an absent key: %q, %v", got, err)
	}
	values, err := rdb.MGet(ctx, key, key+"-absent").Result()
	if err != nil || len(values) != 2 || values[0] != "42" || values[1] != nil {
		t.Errorf("MGET: %v, %v", values, err)
	}
	pipe := rdb.Pipeline()
	incr := pipe.Incr(ctx, key)
	get := pipe.Get(ctx, key)
	pipe.Del(ctx, key)
	exists := pipe.Exists(ctx, key)
	if _, err := pipe.Exec(ctx); err != nil || incr.Val() != 43 || get.Val() != "43" || exists.Val() != 0 {
		t.Errorf("pipeline: %v, %v, %v, %v", incr, get, exists, err)
	}
	if got, err := rdb.ClientGetName(ctx).Result(); err != nil || got != "integration" {
		t.Errorf("CLIENT GETNAME: %q, %v", got, err)
	}
	if err := rdb.Do(ctx, "ZADD", "z", "1", "m").Err(); err == nil || !strings.HasPrefix(err.Error(), "ERR unknown command 'ZADD'") {
		t.Errorf("ZADD: %v, want Redis's text for an unknown command", err)
	}
}

func useRueidis(t *testing.T, n *node) {
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{n.resp}, ForceSingleClient: true,
		DisableCache: true, // client-side caching needs CLIENT TRACKING
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, key := t.Context(), "rueidis-"+n.id

	if err := client.Do(ctx, client.B().Set().Key(key).Value("v").Ex(time.Hour).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Do(ctx, client.B().Get().Key(key).Build()).ToString(); err != nil || got != "v" {
		t.Errorf("GET: %q, %v", got, err)
	}
	if got, err := client.Do(ctx, client.B().Append().Key(key).Value("w").Build()).AsInt64(); err != nil || got != 2 {
		t.Errorf("APPEND: %d, %v", got, err)
	}
	if err := client.Do(ctx, client.B().Get().Key(key+"-absent").Build()).Error(); !rueidis.IsRedisNil(err) {
		t.Errorf("GET of an absent key: %v", err)
	}
	// rueidis pipelines by itself what goroutines send at the same time.
	results := client.DoMulti(ctx,
		client.B().Incr().Key(key+"-n").Build(), client.B().Incr().Key(key+"-n").Build(), client.B().Get().Key(key+"-n").Build())
	if got, err := results[2].ToString(); err != nil || got != "2" {
		t.Errorf("two INCR and a GET: %q, %v", got, err)
	}
}

func useRedisCLI(t *testing.T, n *node) {
	host, port, err := net.SplitHostPort(n.resp)
	if err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), replyTimeout)
		defer cancel()
		out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("redis-cli %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	key := "redis-cli-" + n.id
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"ping"}, "PONG"},
		{[]string{"set", key, "hello"}, "OK"},
		{[]string{"get", key}, "hello"},
		{[]string{"-3", "get", key}, "hello"},
		{[]string{"--no-raw", "ttl", key}, "(integer) -1"},
		{[]string{"--scan", "--pattern", key}, key},
		{[]string{"config", "get", "appendonly"}, "appendonly\nyes"},
		{[]string{"get"}, "ERR wrong number of arguments for 'get' command"},
		{[]string{"select", "1"}, "ERR DB index is out of range"},
	} {
		if got := cli(test.args...); got != test.want {
			t.Errorf("redis-cli %q: %q, want %q", test.args, got, test.want)
		}
	}
	// A follower counts the keys that it has applied itself: a moment after the leader answered.
	eventually(t, 10*time.Second, "INFO has every section", func() error {
		info := cli("info")
		for _, want := range []string{"# Server", "redis_version:", "# Clients", "# Memory", "# Replication", "role:", "# Keyspace", "db0:keys="} {
			if !strings.Contains(info, want) {
				return fmt.Errorf("INFO does not say %q:\n%s", want, info)
			}
		}
		return nil
	})
}

// checkRole compares ROLE and INFO with who leads.
func checkRole(t *testing.T, c *cluster, n *node, leads bool) error {
	t.Helper()
	conn := dialRedis(t, n.resp)
	reply, ok := conn.do("ROLE").([]any)
	if !ok || len(reply) < 3 {
		t.Fatalf("ROLE: %v", reply)
	}
	info := fmt.Sprint(conn.do("INFO", "replication"))
	if leads {
		replicas, ok := reply[2].([]any)
		if reply[0] != "master" || !ok || len(replicas) != 2 || !strings.Contains(info, "role:master") {
			return fmt.Errorf("ROLE of the leader: %v\n%s", reply, info)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(c.leader().resp)
	if err != nil {
		t.Fatal(err)
	}
	if reply[0] != "slave" || reply[1] != host || fmt.Sprint(reply[2]) != port || !strings.Contains(info, "role:slave") {
		return fmt.Errorf("ROLE of a follower: %v, want slave of %s:%s\n%s", reply, host, port, info)
	}
	return nil
}
