package resp

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
)

// staleFake answers stale reads with STALE and the bound, to be told from others.
type staleFake struct{ *fakeBackend }

func (staleFake) ExecStale(_ context.Context, calls []command.Call, maxAge time.Duration) ([]command.Reply, time.Duration, bool) {
	replies := make([]command.Reply, len(calls))
	for i := range replies {
		replies[i] = command.Simple(fmt.Sprintf("STALE:%d", maxAge.Milliseconds()))
	}
	return replies, 1500 * time.Microsecond, true
}

// TestReadModeIsThatOfOneConnection also checks the order in a pipeline: a mode holds from its command on.
func TestReadModeIsThatOfOneConnection(t *testing.T) {
	srv := start(t, Config{}, staleFake{newFake()})
	c, other := dial(t, srv), dial(t, srv)
	for _, step := range []struct{ send, want string }{
		{"RAFTCASK READMODE", "*3 $12 linearizable :-1 :-1"},
		{"SET k v", "+OK"},
		{"GET k|RAFTCASK READMODE STALE|GET k", "$1 v +OK +STALE:0"},
		{"GET k|SET k w|GET k", "$1 v +OK $1 w"}, // ordered by the leader
		{"RAFTCASK READMODE STALE 250|GET k|RAFTCASK READMODE", "+OK +STALE:250 *3 $5 stale :250 :2"},
		{"RAFTCASK READMODE STALE 0", "-ERR the staleness"},
		{"RAFTCASK READMODE STALE soon", "-ERR the staleness"},
		{"RAFTCASK READMODE OFTEN", "-ERR READMODE takes"},
		{"GET k|RAFTCASK READMODE LINEARIZABLE|GET k", "+STALE:250 +OK $1 w"},
		{"RAFTCASK READMODE STALE 9|RESET|GET k", "+OK +RESET $1 w"},
	} {
		if got := c.lines(t, step.send, step.want); !strings.HasPrefix(got, step.want) {
			t.Errorf("%s\n got %s\nwant %s", step.send, got, step.want)
		}
		if got := other.lines(t, "RAFTCASK READMODE", "*3 $12 linearizable :-1 :-1"); got != "*3 $12 linearizable :-1 :-1" {
			t.Errorf("after %s another connection is in the mode %s", step.send, got)
		}
	}
	plain := dial(t, start(t, Config{}, newFake()))
	if got := plain.lines(t, "RAFTCASK READMODE STALE", "-ERR"); !strings.HasPrefix(got, "-ERR stale reads are not offered") {
		t.Errorf("a backend without stale reads: %s", got)
	}
}

// lines sends commands at once and reads as many lines as are wanted.
func (c *client) lines(t testing.TB, commands, want string) string {
	t.Helper()
	if _, err := io.WriteString(c.conn, strings.ReplaceAll(commands, "|", "\r\n")+"\r\n"); err != nil {
		t.Fatal(err)
	}
	n := len(strings.Fields(want))
	if strings.HasPrefix(want, "-") {
		n = 1
	}
	var got []string
	for range n {
		line, err := c.in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v after %q", commands, err, got)
		}
		got = append(got, strings.TrimSpace(line))
	}
	return strings.Join(got, " ")
}
