package command_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/command/commandtest"
)

func run(t *testing.T, tx command.Tx, line string) command.Reply {
	t.Helper()
	args := words(t, line)
	spec, ok := command.Find(args[0])
	if !ok || !spec.AcceptsArgs(len(args)) {
		t.Fatalf("%s: no such command", line)
	}
	return spec.Run(tx, args)
}

// brokenTx fails the nth of its operations that can fail.
type brokenTx struct {
	*commandtest.Memory
	fail *int
}

var errBroken = errors.New("segment 3 is corrupt")

func (b brokenTx) step() error {
	*b.fail--
	if *b.fail == 0 {
		return errBroken
	}
	return nil
}

func (b brokenTx) Lookup(key []byte) (command.Meta, bool, error) {
	if err := b.step(); err != nil {
		return command.Meta{}, false, err
	}
	return b.Memory.Lookup(key)
}

func (b brokenTx) Get(key []byte) ([]byte, command.Meta, bool, error) {
	if err := b.step(); err != nil {
		return nil, command.Meta{}, false, err
	}
	return b.Memory.Get(key)
}

func (b brokenTx) Put(key, value []byte, expireAt int64) error {
	if err := b.step(); err != nil {
		return err
	}
	return b.Memory.Put(key, value, expireAt)
}

func (b brokenTx) Delete(key []byte) error {
	if err := b.step(); err != nil {
		return err
	}
	return b.Memory.Delete(key)
}

func (b brokenTx) Clear() error {
	if err := b.step(); err != nil {
		return err
	}
	return b.Memory.Clear()
}

// TestStoreErrorsAreNeverHidden fails each operation of each command in turn: the reply must say so. An
// unreadable key must not look like an absent one.
func TestStoreErrorsAreNeverHidden(t *testing.T) {
	for _, line := range []string{
		"GET k", "SET k v", "SET k v NX", "SET k v XX GET", "SET k v KEEPTTL", "SET k v PXAT 1", "GETSET k v", "GETDEL k", "GETEX k EX 10",
		"GETEX k PXAT 1", "SETEX k 10 v", "PSETEX k 10 v", "SETNX new v", "APPEND k v", "STRLEN k", "GETRANGE k 0 1", "SETRANGE k 0 x",
		"MGET k j", "MSET k 1 j 2", "MSETNX new 1 newer 2", "INCR n", "INCRBYFLOAT n 1", "EXPIRE k 10", "EXPIRE k -1", "PERSIST k", "TTL k",
		"DEL k j", "EXISTS k j", "TYPE k", "RENAME k new", "RENAMENX k new", "COPY k new", "FLUSHALL",
	} {
		for n := 1; ; n++ {
			mem := commandtest.New()
			for _, setup := range []string{"SET k v EX 100", "SET j w", "SET n 1"} {
				run(t, mem, setup)
			}
			left := n
			reply := run(t, brokenTx{mem, &left}, line)
			if left > 0 { // it took fewer than n operations
				if n == 1 {
					t.Errorf("%s did nothing", line)
				}
				break
			}
			if want := "(error) ERR segment 3 is corrupt"; reply.String() != want {
				t.Errorf("%s, operation %d failed: %v", line, n, reply)
			}
		}
	}
}

func TestScanSeesEveryKeyOnce(t *testing.T) {
	mem := commandtest.New()
	want := map[string]bool{}
	for i := range 500 {
		key := fmt.Sprintf("key:%d", i)
		run(t, mem, "SET "+key+" v")
		if strings.HasSuffix(key, "7") {
			want[key] = true
		}
	}
	seen := map[string]bool{}
	cursor := "0"
	for range 1000 {
		reply := run(t, mem, "SCAN "+cursor+" MATCH *7 COUNT 7")
		parts := slices.Collect(reply.All())
		for key := range parts[1].All() {
			if seen[string(key.Bytes())] {
				t.Errorf("%s was seen twice", key.Bytes())
			}
			seen[string(key.Bytes())] = true
		}
		if cursor = string(parts[0].Bytes()); cursor == "0" {
			break
		}
	}
	if cursor != "0" || len(seen) != len(want) {
		t.Errorf("cursor %s; %d keys, want %d", cursor, len(seen), len(want))
	}
	keys := run(t, mem, "KEYS *7")
	if keys.Len() != len(want) {
		t.Errorf("KEYS lists %d keys, want %d", keys.Len(), len(want))
	}
}

func TestRandomKeyDrawsEveryKey(t *testing.T) {
	mem := commandtest.New()
	for i := range 40 {
		run(t, mem, fmt.Sprintf("SET key:%d v", i))
	}
	drawn := map[string]bool{}
	for range 100_000 {
		drawn[string(run(t, mem, "RANDOMKEY").Bytes())] = true
		if len(drawn) == 40 {
			return
		}
	}
	t.Errorf("only %d of 40 keys were ever drawn", len(drawn))
}

func TestValuesInRepliesAndEffectsAreCopies(t *testing.T) {
	mem := commandtest.New()
	run(t, mem, "SET k abc")
	before := run(t, mem, "GET k").Bytes()
	run(t, mem, "APPEND k def")
	run(t, mem, "SETRANGE k 0 xyz")
	if string(before) != "abc" {
		t.Errorf("a value that was answered changed to %q", before)
	}
}

func TestCheckCountsOnlyKeysAsKeys(t *testing.T) {
	lim := command.Limits{MaxKeyBytes: 4, MaxValueBytes: 8}
	for _, c := range []struct {
		line string
		ok   bool
	}{
		{"SET abcd 12345678", true}, {"SET abcde 1", false}, {"SET abcd 123456789", false},
		{"MSET a 12345678 b 12345678", true}, {"MSET a 1 abcde 1", false}, {"MSET a 1 b 123456789", false},
		{"DEL a b abcde", false}, {"GET abcde", false}, {`SET "" v`, false}, {`MSET a 1 "" 2`, false}, {`GET ""`, true},
		{"SCAN 0 MATCH 12345678", true}, {"SCAN 0 MATCH 123456789", false},
		{"SETRANGE k 7 x", true}, {"SETRANGE k 8 x", false}, {`SETRANGE k 8 ""`, true}, {"SETRANGE k x x", true}, {"SETRANGE k -1 x", true},
		{"SETRANGE k 9223372036854775807 x", false},
	} {
		args := words(t, c.line)
		spec, _ := command.Find(args[0])
		if refused := command.Check(spec, args, lim); (refused == nil) != c.ok {
			t.Errorf("%s: %v", c.line, refused)
		}
	}
}

func TestReplyString(t *testing.T) {
	var s command.Strings
	s.Add([]byte("a"))
	s.Add([]byte("b"))
	got := command.Array(command.Int(1), command.Map(command.BulkString("k"), command.Nil()), s.Reply(), command.Array()).String()
	want := "1) (integer) 1\n2) 1# \"k\"\n   2# (nil)\n3) 1) \"a\"\n   2) \"b\"\n4) (empty)"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOutcomesBeginWithTheirCode(t *testing.T) {
	for want, reply := range map[string]command.Reply{
		"TRYAGAIN not applied: ":                               command.NotApplied("the queue is full"),
		"CLUSTERDOWN not applied: ":                            command.NoLeader(),
		"UNKNOWN the write may or may not have been applied: ": command.Unknown("leadership was lost"),
	} {
		if !reply.IsErr() || !strings.HasPrefix(reply.Text(), want) {
			t.Errorf("%v does not begin with %q", reply, want)
		}
		if command.IsNotApplied(&reply) == strings.HasPrefix(want, "UNKNOWN") {
			t.Errorf("IsNotApplied is wrong about %v", reply)
		}
	}
}

func TestServerReplies(t *testing.T) {
	params := []command.Param{{Name: "appendonly", Value: "yes"}, {Name: "save", Value: ""}, {Name: "maxmemory", Value: "0"}}
	for line, want := range map[string]string{
		"CONFIG GET save APPEND*":    "1# \"appendonly\"\n2# \"yes\"\n3# \"save\"\n4# \"\"",
		"CONFIG GET nothing":         "(empty)",
		"CONFIG GET":                 "(error) ERR wrong number of arguments for 'config|get' command",
		"CONFIG SET maxmemory 1":     "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory') - can't set immutable config",
		"CONFIG SET foo 1":           "(error) ERR Unknown option or number of arguments for CONFIG SET - 'foo'",
		"CONFIG SET save":            "(error) ERR wrong number of arguments for 'config|set' command",
		"CONFIG SET save 1 foo":      "(error) ERR wrong number of arguments for 'config|set' command",
		"CONFIG REWRITE":             "(error) ERR unknown subcommand 'REWRITE'. Try CONFIG HELP.",
		"CONFIG SET maxmemory 1 a b": "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory') - can't set immutable config",
	} {
		if got := command.Config(words(t, line), params).String(); got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
	sections := []command.Section{
		{Title: "Server", Lines: []command.Param{{Name: "redis_version", Value: "7.4.0"}}},
		{Title: "Clients", Lines: []command.Param{{Name: "connected_clients", Value: "1"}}},
	}
	for line, want := range map[string]string{
		"INFO":                "# Server\r\nredis_version:7.4.0\r\n\r\n# Clients\r\nconnected_clients:1\r\n",
		"INFO everything":     "# Server\r\nredis_version:7.4.0\r\n\r\n# Clients\r\nconnected_clients:1\r\n",
		"INFO clients":        "# Clients\r\nconnected_clients:1\r\n",
		"INFO none":           "",
		"INFO none CLIENTS x": "# Clients\r\nconnected_clients:1\r\n",
	} {
		if got := command.Info(words(t, line), sections).Text(); got != want {
			t.Errorf("%s: %q", line, got)
		}
	}
	if got := command.Time(time.UnixMicro(12_000_345)).String(); got != "1) \"12\"\n2) \"345\"" {
		t.Errorf("TIME: %s", got)
	}
	if got := command.RoleMaster(7, []command.Replica{{Host: "h", Port: 1, Offset: 6}}).String(); got != "1) \"master\"\n2) (integer) 7\n3) 1) 1) \"h\"\n      2) \"1\"\n      3) \"6\"" {
		t.Errorf("ROLE: %s", got)
	}
	if got := command.RoleReplica("h", 1, "connected", 5).String(); got != "1) \"slave\"\n2) \"h\"\n3) (integer) 1\n4) \"connected\"\n5) (integer) 5" {
		t.Errorf("ROLE: %s", got)
	}
}
