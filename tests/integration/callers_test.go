package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/raftcask/raftcask/client"
)

// answer is what a client was told of one command.
type answer struct {
	outcome writeOutcome
	// reply of an acknowledged command: nil, string, int64, []any or redisError. A simple string is a string.
	reply any
}

// caller is a client of one of three kinds. It sends commands together and returns an answer for each. Not for concurrent use.
type caller interface {
	call(ctx context.Context, commands ...[]string) []answer
	close()
}

// judgeError decides what an error reply says of its command. A read that was not answered counts as not applied.
func judgeError(text string) answer {
	switch firstWord(text) {
	case "UNKNOWN":
		return answer{outcome: unknown}
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MOVED":
		return answer{outcome: notApplied}
	}
	for _, refusal := range []string{
		"ERR not applied", "ERR not answered", // among others of a pipeline that were
		"ERR read the value: ", "ERR read the present value: ", // which is damaged on the disk of that node
	} {
		if strings.HasPrefix(text, refusal) {
			return answer{outcome: notApplied}
		}
	}
	return answer{acknowledged, redisError(text)}
}

// sdkCaller follows the leader and tries again what was not applied.
type sdkCaller struct{ *client.Client }

func newSDKCaller(addrs []string) (caller, error) {
	c, err := client.New(client.Options{Addrs: addrs})
	return sdkCaller{c}, err
}

func (s sdkCaller) call(ctx context.Context, commands ...[]string) []answer {
	var batch client.Batch
	for _, c := range commands {
		batch.Do(anys(c)...)
	}
	results, err := s.Run(ctx, &batch)
	if len(results) != len(commands) {
		panic(fmt.Sprintf("the SDK refused %q: %v", commands, err)) // a mistake of this test
	}
	answers := make([]answer, len(results))
	for i, r := range results {
		answers[i] = judgeSDK(r)
	}
	return answers
}

func judgeSDK(r client.Result) answer {
	var refused *client.ServerError
	switch {
	case r.Err == nil:
		return answer{acknowledged, r.Value}
	case errors.As(r.Err, &refused):
		return judgeError(refused.Text)
	case errors.Is(r.Err, client.ErrNotApplied), errors.Is(r.Err, client.ErrUnavailable):
		return answer{outcome: notApplied}
	default:
		return answer{outcome: unknown}
	}
}

func (s sdkCaller) close() { _ = s.Close() } // nothing is under way

// goRedisCaller stays with one node, whatever role that has, and tries nothing again.
type goRedisCaller struct{ *goredis.Client }

func newGoRedisCaller(addr string) caller {
	return goRedisCaller{goredis.NewClient(&goredis.Options{
		Addr: addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: opTimeout, PoolSize: 1,
	})}
}

func (g goRedisCaller) call(ctx context.Context, commands ...[]string) []answer {
	pipe := g.Pipeline()
	sent := make([]*goredis.Cmd, len(commands))
	for i, c := range commands {
		sent[i] = pipe.Do(ctx, anys(c)...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	answers := make([]answer, len(sent))
	for i, cmd := range sent {
		answers[i] = judgeGoRedis(cmd)
	}
	return answers
}

func judgeGoRedis(cmd *goredis.Cmd) answer {
	err := cmd.Err()
	var fromServer goredis.Error
	var fromNet *net.OpError
	switch {
	case err == nil:
		return answer{acknowledged, cmd.Val()}
	case errors.Is(err, goredis.Nil):
		return answer{acknowledged, nil}
	case errors.As(err, &fromServer):
		return judgeError(err.Error())
	case errors.As(err, &fromNet) && fromNet.Op == "dial":
		return answer{outcome: notApplied}
	default:
		return answer{outcome: unknown}
	}
}

func (g goRedisCaller) close() { _ = g.Close() } // nothing is under way

// rawCaller speaks RESP2 by hand to one node.
type rawCaller struct {
	addr  string
	greet []string // sent first on each connection, if any
	conn  *redis   // nil: to be dialed
}

func (r *rawCaller) call(ctx context.Context, commands ...[]string) []answer {
	answers := make([]answer, len(commands))
	if err := r.dial(ctx); err != nil {
		for i := range answers {
			answers[i].outcome = notApplied
		}
		return answers
	}
	var request []byte
	for _, c := range commands {
		request = append(request, encode(c...)...)
	}
	_, err := r.conn.Write(request)
	for i := 0; i < len(commands) && err == nil; i++ {
		var reply any
		if reply, err = r.conn.receive(); err == nil {
			answers[i] = judgeRaw(reply)
		}
	}
	if err != nil { // the answers that are missing stay unknown
		r.close()
	}
	return answers
}

// dial connects if need be, and gives the connection the deadline of the context.
func (r *rawCaller) dial(ctx context.Context) error {
	deadline, _ := ctx.Deadline() // callers are given one
	if r.conn != nil {
		return r.conn.SetDeadline(deadline)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return err
	}
	r.conn = &redis{Conn: conn, r: bufio.NewReader(conn)}
	if err = r.conn.SetDeadline(deadline); err == nil && r.greet != nil {
		if _, err = conn.Write(encode(r.greet...)); err == nil {
			var reply any
			if reply, err = r.conn.receive(); err == nil && reply != status("OK") {
				err = fmt.Errorf("%q: %v", r.greet, reply)
			}
		}
	}
	if err != nil {
		r.close()
	}
	return err
}

func judgeRaw(reply any) answer {
	switch v := reply.(type) {
	case redisError:
		return judgeError(string(v))
	case status:
		return answer{acknowledged, string(v)}
	default:
		return answer{acknowledged, reply}
	}
}

func (r *rawCaller) close() {
	if r.conn != nil {
		_ = r.conn.Close() // given up
		r.conn = nil
	}
}

// silence keeps go-redis from writing a line for each connection that is refused: here that is the rule.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func anys(args []string) []any {
	list := make([]any, len(args))
	for i, arg := range args {
		list[i] = arg
	}
	return list
}
