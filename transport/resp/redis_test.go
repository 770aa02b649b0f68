package resp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
)

// startRedis runs a real redis-server without persistence until the test ends.
func startRedis(t *testing.T) string {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed: nothing to compare with")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	_, port, _ := strings.Cut(addr, ":")
	cmd := exec.Command(path, "--port", port, "--databases", "1", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("stop redis-server: %v", err)
		}
		_ = cmd.Wait() // killed
	})
	eventually(t, "redis-server answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

// TestSameRepliesAsRedis sends the same random commands to a real redis-server and to ours, over sockets,
// and compares the bytes of the replies. Redis 7.0 and 7.4 agree in all that is sent.
func TestSameRepliesAsRedis(t *testing.T) {
	addr := startRedis(t)
	srv := start(t, Config{}, newFake())
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := &source{Rand: rand.New(rand.NewPCG(seed, 1))}
	for _, proto := range []string{"2", "3"} {
		theirs, ours := dialAddr(t, addr), dial(t, srv)
		for _, c := range []*client{theirs, ours} {
			c.send(encode("HELLO", proto))
			c.next()
		}
		for range 15_000 {
			args := rng.command()
			for _, c := range []*client{theirs, ours} {
				c.send(encode(args...))
			}
			want, got := theirs.next(), ours.next()
			if got != want && !closeEnough(args[0], got, want) {
				t.Fatalf("RESP%s: %q\n ours: %.300q\nredis: %.300q", proto, args, got, want)
			}
		}
	}
}

// closeEnough allows keys in another order, and times that differ by the time between the two.
func closeEnough(name, got, want string) bool {
	switch strings.ToUpper(name) {
	case "KEYS", "SCAN":
		g, w := strings.Split(got, "\r\n"), strings.Split(want, "\r\n")
		slices.Sort(g)
		slices.Sort(w)
		return slices.Equal(g, w)
	case "TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME":
		g, err1 := strconv.ParseInt(strings.TrimSpace(got[1:]), 10, 64)
		w, err2 := strconv.ParseInt(strings.TrimSpace(want[1:]), 10, 64)
		return err1 == nil && err2 == nil && min(g, w) > 0 && max(g-w, w-g) < 5000
	}
	return false
}

func dialAddr(t *testing.T, addr string) *client {
	return dial(t, &Server{ln: fixedAddr{addr: addr}})
}

// fixedAddr lets dial reach another server.
type fixedAddr struct {
	net.Listener
	addr string
}

func (f fixedAddr) Addr() net.Addr {
	addr, err := net.ResolveTCPAddr("tcp", f.addr)
	if err != nil {
		panic(err)
	}
	return addr
}

// source draws commands that mean something often enough, and nonsense for the rest.
type source struct {
	*rand.Rand
	drawnTimes int64
}

func (s *source) pick(words ...string) string { return words[s.IntN(len(words))] }

func (s *source) key() string { return s.pick("a", "b", "c", "d", "e", "key:1", "key:2", "[x", "x*") }

func (s *source) integer() string {
	return s.pick("0", "1", "-1", "2", "10", "100", "-5", "007", "+1", " 1", "1.5", "abc", "", "9223372036854775807", "-9223372036854775808",
		"9223372036854775808", "92233720368547758", strconv.Itoa(s.IntN(1000)-500), strconv.FormatInt(s.Int64(), 10))
}

func (s *source) value() string {
	return s.pick("", "v", "hello world", "1", "41", "-7", "3.25", "1e3", "a\r\nb", "\x00\xff", s.integer(), s.float(), strings.Repeat("x", s.IntN(200)))
}

func (s *source) float() string {
	return s.pick("1.5", "-0.25", "1e10", "3.0", "0.1", ".5", "5.", "1e-5", "inf", "-inf", "nan", "1e400", "abc", "0x1p4", "1_0", "1e", "--1", "",
		strconv.FormatFloat(s.NormFloat64()*1000, 'g', -1, 64))
}

// distant is a number of seconds that was not drawn before: at least 1000, so that nothing expires while
// the test runs, and 100 apart from the others, so that GT and LT do not depend on the time between two commands.
func (s *source) distant() int64 {
	s.drawnTimes++
	return 1000 + 100*(s.drawnTimes*7919%100_003)
}

func (s *source) ttl() string {
	soon := strconv.FormatInt(s.distant(), 10)
	return s.pick(soon, soon, soon, "0", "-1", "x", "9223372036854775807", "9223372036854775")
}

func (s *source) millis() string {
	soon := strconv.FormatInt(1000*s.distant(), 10)
	return s.pick(soon, soon, soon, "0", "-1", "", "9223372036854775807")
}

func (s *source) at(unit time.Duration) string {
	soon := strconv.FormatInt((time.Now().Unix()+s.distant())*int64(time.Second/unit), 10)
	return s.pick(soon, soon, soon, "1", "0", "-1", "y", "9223372036854775807")
}

func (s *source) pattern() string {
	return s.pick("*", "a", "?", "key:*", "[a-c]", "[^a]", "[c-a]", "\\[x", "[x", "x\\*", "*:?", "[", "[^]", "[]", "[a-", "\\", "**", "*[0-9]", "", "[\\[]x", "k*y:[12]")
}

func (s *source) setOption() []string {
	switch s.IntN(12) {
	case 0, 1:
		return []string{s.pick("NX", "nx")}
	case 2, 3:
		return []string{s.pick("XX", "Xx")}
	case 4, 5:
		return []string{"GET"}
	case 6:
		return []string{"KEEPTTL"}
	case 7:
		return []string{"EX", s.ttl()}
	case 8:
		return []string{"PX", s.millis()}
	case 9:
		return []string{"EXAT", s.at(time.Second)}
	case 10:
		return []string{"PXAT", s.at(time.Millisecond)}
	}
	return []string{s.pick("PERSIST", "FOO", "EX", "", "NXX")}
}

func (s *source) some(n int, word func() string) []string {
	var out []string
	for range 1 + s.IntN(n) {
		out = append(out, word())
	}
	return out
}

// command draws a command. Now and then one argument too few or too many.
func (s *source) command() []string {
	args := s.drawn()
	if args[0] == "HELLO" || args[0] == "COMMAND" { // those would be described, which differs
		return args
	}
	switch s.IntN(60) {
	case 0:
		args = args[:len(args)-min(1, len(args)-1)]
	case 1:
		args = append(args, s.pick("x", "1", "more"))
	}
	return args
}

func (s *source) drawn() []string {
	key := s.key()
	flags := func() string { return s.pick("NX", "XX", "GT", "LT", "gt", "FOO") }
	with := func(args []string, more ...string) []string { return append(args, more...) }
	simple := []func() []string{
		func() []string {
			return []string{s.pick("GET", "get", "GetDel", "STRLEN", "TYPE", "INCR", "DECR", "TTL", "PTTL", "PERSIST", "EXPIRETIME", "PEXPIRETIME"), key}
		},
		func() []string { return []string{s.pick("INCRBY", "DECRBY"), key, s.integer()} },
		func() []string { return []string{"INCRBYFLOAT", key, s.float()} },
		func() []string { return []string{s.pick("APPEND", "GETSET", "SETNX", "SET", "SET"), key, s.value()} },
		func() []string { return []string{"SETEX", key, s.ttl(), s.value()} },
		func() []string { return []string{"PSETEX", key, s.millis(), s.value()} },
		func() []string { return []string{s.pick("GETRANGE", "SUBSTR"), key, s.integer(), s.integer()} },
		func() []string {
			return []string{"SETRANGE", key, s.pick("0", "1", "5", "100", "-1", "x", "536870912", "9223372036854775807"), s.value()}
		},
		func() []string {
			return with([]string{s.pick("MGET", "DEL", "UNLINK", "EXISTS", "TOUCH")}, s.some(4, s.key)...)
		},
		func() []string {
			args := []string{s.pick("MSET", "MSETNX")}
			for range 1 + s.IntN(3) {
				args = append(args, s.key(), s.value())
			}
			return args
		},
		func() []string { return []string{s.pick("RENAME", "RENAMENX"), key, s.key()} },
		func() []string {
			return with([]string{"COPY", key, s.key()}, s.pick("REPLACE", "replace", "FOO", "DB"))
		},
	}
	timed := []func() []string{
		func() []string { return []string{s.pick("EXPIRE", "expire"), key, s.ttl()} },
		func() []string { return []string{"PEXPIRE", key, s.millis()} },
		func() []string { return []string{"EXPIREAT", key, s.at(time.Second)} },
		func() []string { return []string{"PEXPIREAT", key, s.at(time.Millisecond)} },
		func() []string { return with([]string{"EXPIRE", key, s.ttl()}, s.some(3, flags)...) },
		func() []string { return with([]string{"PEXPIREAT", key, s.at(time.Millisecond)}, s.some(2, flags)...) },
	}
	other := []func() []string{
		func() []string { return []string{"KEYS", s.pattern()} },
		func() []string { return []string{"SCAN", "0", "COUNT", "1000", "MATCH", s.pattern()} },
		func() []string {
			return []string{"SCAN", s.pick("0", "x", "1.5"), s.pick("COUNT", "MATCH", "TYPE", "FOO"), s.pick("0", "-1", "x")}
		},
		func() []string {
			return []string{s.pick("FLUSHALL", "FLUSHDB"), s.pick("ASYNC", "SYNC", "sync", "NOW")}
		},
		func() []string {
			return []string{s.pick("PING", "ECHO", "NONSENSE", "Get", "bad\r\nname", ""), s.value()}
		},
		func() []string { return []string{"SELECT", s.pick("0", "x", "-1", "99", "99999999999", "")} },
		func() []string {
			return []string{"CLIENT", s.pick("GETNAME", "NO-EVICT", "NO-TOUCHED", "ID2", "a\r\nb"), s.pick("ON", "x")}
		},
		func() []string { return []string{"CLIENT", "SETNAME", s.pick("me", "a b", "é", "")} },
		func() []string { return with([]string{"COMMAND", "GETKEYS"}, simple[s.IntN(len(simple))]()...) },
		func() []string {
			return with([]string{"COMMAND", "GETKEYS", s.pick("PING", "foo", "mset", "mget")}, s.some(3, func() string { return s.pick("PING", "foo", "mset") })...)
		},
		func() []string { return []string{"HELLO", s.pick("4", "1", "x", "99999999999999999999")} },
		func() []string { return []string{"CONFIG", s.pick("GET", "SET", "FOO", "SETT")} },
	}
	switch n := s.IntN(100); {
	case n < 30:
		args := []string{"SET", key, s.value()}
		for range s.IntN(4) {
			args = append(args, s.setOption()...)
		}
		return args
	case n < 36:
		return with([]string{"GETEX", key}, s.setOption()...)
	case n < 75:
		return simple[s.IntN(len(simple))]()
	case n < 90:
		return timed[s.IntN(len(timed))]()
	}
	return other[s.IntN(len(other))]()
}

// TestSameTableAsRedis compares arity, flags and key positions with COMMAND INFO of the real server.
func TestSameTableAsRedis(t *testing.T) {
	theirs, ours := dialAddr(t, startRedis(t)), dial(t, start(t, Config{}, newFake()))
	for _, spec := range command.All() {
		switch spec.Name {
		case "client", "config": // containers carry their flags in their subcommands
			continue
		case "ping", "raftcask": // 7.0 and 7.4 differ; ours alone
			continue
		}
		var lines [2][]string
		for i, c := range []*client{theirs, ours} {
			c.send(encode("COMMAND", "INFO", spec.Name))
			lines[i] = strings.Split(c.next(), "\r\n")
		}
		// *1 *10 $n name :arity *flags +flag… :first :last :step
		n := 0
		if _, err := fmt.Sscanf(lines[0][5], "*%d", &n); err != nil {
			t.Fatal(err)
		}
		for i := range 6 + n + 3 {
			if i >= len(lines[1]) || lines[0][i] != lines[1][i] {
				t.Errorf("%s: ours %q, redis %q", spec.Name, lines[1][:min(len(lines[1]), 6+n+3)], lines[0][:6+n+3])
				break
			}
		}
	}
}
