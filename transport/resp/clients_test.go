package resp

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/raftcask/raftcask/command"
)

// TestGoRedis uses the most common Go client with its default settings, in both versions of the protocol.
func TestGoRedis(t *testing.T) {
	for _, proto := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			srv := start(t, Config{}, newFake())
			rdb := redis.NewClient(&redis.Options{Addr: srv.Addr().String(), Protocol: proto, ClientName: "conformance"})
			defer rdb.Close()
			testGoRedis(t, rdb)
		})
	}
}

func testGoRedis(t *testing.T, rdb *redis.Client) {
	ctx := context.Background()
	check := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v (%v), want %v", what, got, err, want)
		}
	}
	ok, err := rdb.Set(ctx, "k", "v", time.Hour).Result()
	check("SET", ok, "OK", err)
	v, err := rdb.Get(ctx, "k").Result()
	check("GET", v, "v", err)
	if _, err := rdb.Get(ctx, "none").Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("GET of nothing: %v", err)
	}
	if _, err := rdb.SetArgs(ctx, "none", "x", redis.SetArgs{Mode: "XX", Get: true}).Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("SET XX GET of nothing: %v", err)
	}
	d, err := rdb.TTL(ctx, "k").Result()
	check("TTL", d, time.Hour, err)
	n, err := rdb.IncrBy(ctx, "n", 41).Result()
	check("INCRBY", n, 41, err)
	f, err := rdb.IncrByFloat(ctx, "n", 0.5).Result()
	check("INCRBYFLOAT", f, 41.5, err)
	many, err := rdb.MGet(ctx, "k", "none").Result()
	check("MGET", many, []any{"v", nil}, err)
	changed, err := rdb.ExpireNX(ctx, "n", time.Minute).Result()
	check("EXPIRE NX", changed, true, err)
	keys, cursor, err := rdb.Scan(ctx, 0, "*", 100).Result()
	check("SCAN", fmt.Sprint(len(keys), cursor), "2 0", err)
	if err := rdb.Incr(ctx, "k").Err(); err == nil || err.Error() != "ERR value is not an integer or out of range" {
		t.Errorf("INCR of text: %v", err)
	}

	replies, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 1000 {
			p.Set(ctx, fmt.Sprintf("p:%d", i), i, 0)
			p.Get(ctx, fmt.Sprintf("p:%d", i))
		}
		return nil
	})
	check("pipeline", len(replies), 2000, err)
	for i := 1; i < len(replies); i += 2 {
		if got := replies[i].(*redis.StringCmd).Val(); got != fmt.Sprint(i/2) {
			t.Fatalf("reply %d of the pipeline: %q", i, got)
		}
	}

	commands, err := rdb.Command(ctx).Result()
	check("COMMAND", commands["mset"].StepCount, 2, err)
	check("COMMAND", commands["get"].ReadOnly, true, err)
	list, err := rdb.CommandList(ctx, &redis.FilterBy{Pattern: "getd*"}).Result()
	check("COMMAND LIST", list, []string{"getdel"}, err)
	of, err := rdb.CommandGetKeys(ctx, "mset", "a", "1", "b", "2").Result()
	check("COMMAND GETKEYS", of, []string{"a", "b"}, err)
	config, err := rdb.ConfigGet(ctx, "append*").Result()
	check("CONFIG GET", config, map[string]string{"appendonly": "yes"}, err)
	info, err := rdb.InfoMap(ctx, "server").Result()
	check("INFO", info["Server"]["redis_version"], Version, err)
	name, err := rdb.ClientGetName(ctx).Result()
	check("CLIENT GETNAME", name, "conformance", err)
	self, err := rdb.ClientInfo(ctx).Result()
	if err != nil || self.Name != "conformance" || self.LibName == "" {
		t.Errorf("CLIENT INFO: %+v (%v)", self, err)
	}
	if _, err := rdb.Time(ctx).Result(); err != nil {
		t.Errorf("TIME: %v", err)
	}
	if err := rdb.Do(ctx, "MULTI").Err(); err == nil || !strings.HasPrefix(err.Error(), "ERR unknown command 'MULTI', with args beginning with:") {
		t.Errorf("MULTI: %v", err)
	}
	size, err := rdb.DBSize(ctx).Result()
	check("DBSIZE", size, 1002, err)
	ok, err = rdb.FlushAll(ctx).Result()
	check("FLUSHALL", ok, "OK", err)
}

func TestRueidis(t *testing.T) {
	srv := start(t, Config{}, newFake())
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{srv.Addr().String()}, DisableCache: true, ForceSingleClient: true, ClientName: "conformance",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	if err := c.Do(ctx, c.B().Set().Key("k").Value("v").ExSeconds(100).Build()).Error(); err != nil {
		t.Errorf("SET: %v", err)
	}
	if v, err := c.Do(ctx, c.B().Get().Key("k").Build()).ToString(); err != nil || v != "v" {
		t.Errorf("GET: %q, %v", v, err)
	}
	if err := c.Do(ctx, c.B().Get().Key("none").Build()).Error(); !rueidis.IsRedisNil(err) {
		t.Errorf("GET of nothing: %v", err)
	}
	if n, err := c.Do(ctx, c.B().Incr().Key("n").Build()).AsInt64(); err != nil || n != 1 {
		t.Errorf("INCR: %d, %v", n, err)
	}
	if entry, err := c.Do(ctx, c.B().Scan().Cursor(0).Count(100).Build()).AsScanEntry(); err != nil || len(entry.Elements) != 2 {
		t.Errorf("SCAN: %v, %v", entry, err)
	}
	if m, err := c.Do(ctx, c.B().ConfigGet().Parameter("save").Build()).AsStrMap(); err != nil || len(m) != 1 {
		t.Errorf("CONFIG GET: %v, %v", m, err)
	}
	var batch rueidis.Commands
	for i := range 500 {
		batch = append(batch, c.B().Set().Key(fmt.Sprint("p:", i)).Value(fmt.Sprint(i)).Build(), c.B().Get().Key(fmt.Sprint("p:", i)).Build())
	}
	for i, reply := range c.DoMulti(ctx, batch...) {
		got, err := reply.ToString()
		want := "OK"
		if i%2 == 1 {
			want = fmt.Sprint(i / 2)
		}
		if err != nil || got != want {
			t.Fatalf("reply %d of the pipeline: %q, %v", i, got, err)
		}
	}
}

// TestRedisCLI runs the command line tool of Redis, with its help that it makes from COMMAND DOCS.
func TestRedisCLI(t *testing.T) {
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip("redis-cli is not installed")
	}
	srv := start(t, Config{}, newFake())
	_, port, _ := strings.Cut(srv.Addr().String(), ":")
	for _, c := range []struct{ args, input, want string }{
		{"set k hello", "", "OK"},
		{"get k", "", "hello"},
		{"-3 get none", "", ""},
		{"-3 --no-raw get none", "", "(nil)"},
		{"-3 --no-raw config get save", "", `1# "save" => ""`},
		{"--no-raw mget k none", "", "1) \"hello\"\n2) (nil)"},
		{"", "set a 1\nincr a\nget a\n", "OK\n2\n2"},
		{"-r 3 incr n", "", "1\n2\n3"},
		{"--scan --pattern a*", "", "a"},
		{"-e foo bar", "", "ERR unknown command 'foo', with args beginning with: 'bar'"},
		{"-n 1 get k", "", "SELECT 1 failed: ERR DB index is out of range\nhello"},
		{"--pipe", "SET piped 1\r\nINCR piped\r\n", "errors: 0, replies: 2"},
		{"command count", "", fmt.Sprint(len(command.All()))},
		{"--bigkeys", "", "Biggest string found"},
		{"help set", "", "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]"},
		{"help mset", "", "key value [key value ...]"},
		{"help @string", "", "Add to the end of a value."},
		{"help copy", "", "source destination [DB destination-db] [REPLACE]"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := exec.CommandContext(ctx, cli, append([]string{"-p", port}, strings.Fields(c.args)...)...)
		cmd.Stdin = strings.NewReader(c.input)
		out, _ := cmd.CombinedOutput() // the exit code says nothing that the output does not
		cancel()
		if got := strings.TrimSpace(string(out)); !strings.Contains(got, c.want) || (c.want == "" && got != "") {
			t.Errorf("redis-cli %s:\n%s\nwant %s", c.args, got, c.want)
		}
	}
}
