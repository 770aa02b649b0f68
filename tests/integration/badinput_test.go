package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	maxKeyBytes   = 64<<10 - 1
	maxValueBytes = 8 << 20
)

// TestOversizedKeysAndValuesAreRefused goes to the limits and one byte beyond, through the leader and through a follower.
func TestOversizedKeysAndValuesAreRefused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	for _, n := range []*node{leader, c.others(leader)[0]} {
		conn := dialRedis(t, n.resp)
		conn.do("FLUSHALL")

		longKey, bigValue := strings.Repeat("k", maxKeyBytes), strings.Repeat("v", maxValueBytes)
		if got := conn.do("SET", longKey, "fits"); got != status("OK") {
			t.Fatalf("%s: SET of the longest key: %v", n.id, got)
		}
		if got := conn.do("SET", "big", bigValue); got != status("OK") {
			t.Fatalf("%s: SET of the largest value: %v", n.id, got)
		}
		if got := conn.do("GET", "big"); got != bigValue {
			t.Errorf("%s: GET of the largest value returns another (%d bytes)", n.id, len(fmt.Sprint(got)))
		}

		refused := [][]string{
			{"SET", longKey + "k", "v"},
			{"SET", "bigger", bigValue + "v"},
			{"MSET", "fine", "v", longKey + "k", "v"},
			{"MSET", "fine", "v", "bigger", bigValue + "v"},
			{"APPEND", "big", "v"},
			{"INCR", longKey + "k"},
		}
		for _, args := range refused {
			e, ok := conn.do(args...).(redisError)
			if !ok || len(e) > 500 {
				t.Errorf("%s: %.40q beyond the limit: %.500v, want an error", n.id, args, e)
			}
		}
		if got := conn.do("GET", "big"); got != bigValue {
			t.Errorf("%s: a refused APPEND changed the value", n.id)
		}
		if got := mustDBSize(t, n.resp); got != 2 {
			t.Errorf("%s: %d keys after refused writes, want the 2 that were accepted", n.id, got)
		}
	}
}

// TestBrokenRESPHurtsNobodyElse sends what is not RESP. The sender gets a protocol error or the end of its connection; another
// connection, open all the time, notices nothing.
func TestBrokenRESPHurtsNobodyElse(t *testing.T) {
	c := startCluster(t, 1)
	n := c.nodes[0]
	bystander := dialRedis(t, n.resp)
	bystander.do("SET", "k", "v")

	broken := map[string]string{
		"huge array":               "*1000000000\r\n",
		"huge bulk":                "*1\r\n$1000000000000\r\n",
		"negative bulk":            "*2\r\n$3\r\nGET\r\n$-1\r\n",
		"array length not a digit": "*x\r\n",
		"bulk length not a digit":  "*1\r\n$x\r\n",
		"overflowing length":       "*1\r\n$18446744073709551617\r\n",
		"no bulk in the array":     "*1\r\n:1\r\n",
		"bulk without its end":     "*1\r\n$4\r\nPINGxx\r\n",
		"endless inline":           strings.Repeat("a", 1<<20),
		"unbalanced quotes":        "SET \"k v\r\n",
		"HTTP":                     "POST / HTTP/1.1\r\nHost: example.com\r\n\r\n",
		"TLS":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 500),
		"binary":                   "\x00\xff\xfe\x01\r\n\x00\r\n",
	}
	for name, text := range broken {
		t.Run(name, func(t *testing.T) {
			conn := dialRedis(t, n.resp)
			if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
				t.Fatal(err)
			}
			// The server may close before it has read everything, which shows here or below.
			if _, err := io.WriteString(conn, text); err != nil && !connectionLost(err) {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(conn.closeWrite())
			if err != nil && !connectionLost(err) {
				t.Fatalf("the connection stays open: %v (read %.200q)", err, rest)
			}
			if len(rest) > 0 && rest[0] != '-' {
				t.Errorf("the reply is %.200q, want an error", rest)
			}
			if got := bystander.do("GET", "k"); got != "v" {
				t.Errorf("another connection reads %v", got)
			}
		})
	}
	if got := mustDBSize(t, n.resp); got != 1 {
		t.Errorf("%d keys, want the 1 that was set", got)
	}
	if !n.running() {
		t.Error("the node ended")
	}
}

// closeWrite says that no more will be sent.
func (c *redis) closeWrite() io.Reader {
	c.t.Helper()
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil && !connectionLost(err) {
		c.t.Fatal(err)
	}
	return c.r
}

func connectionLost(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, io.EOF)
}

// refusedStart starts a node that must not come up, and returns its output: one clear line, exit code 1.
func refusedStart(t *testing.T, n *node, says ...string) {
	t.Helper()
	o, err := startCommand(t, n.command()).finish(readyTimeout)
	if err != nil {
		t.Fatalf("%s should have been refused: %v", n.id, err)
	}
	if o.code != 1 {
		t.Errorf("%s: %v, want exit code 1", n.id, o)
	}
	for _, want := range says {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("%s: the error does not name %q:\n%s", n.id, want, o.stderr)
		}
	}
	for _, bad := range []string{"panic: ", "goroutine 1 "} {
		if strings.Contains(o.stderr, bad) {
			t.Errorf("%s panics:\n%s", n.id, o.stderr)
		}
	}
}

// single prepares a node that is a cluster by itself.
func single(t *testing.T, dir, id string) *node {
	t.Helper()
	return newNode(t, dir, id, "--bootstrap-expect", "1")
}

func TestPortInUseIsNamed(t *testing.T) {
	c := startCluster(t, 1)
	first := c.nodes[0]
	for name, take := range map[string]func(n *node) string{
		"resp":   func(n *node) string { n.resp = first.resp; return n.resp },
		"http":   func(n *node) string { n.http = first.http; return n.http },
		"peer":   func(n *node) string { n.peer = first.peer; return n.peer },
		"gossip": func(n *node) string { n.gossip = first.gossip; return n.gossip },
	} {
		t.Run(name, func(t *testing.T) {
			n := single(t, testDir(t), "second")
			_, port, err := net.SplitHostPort(take(n))
			if err != nil {
				t.Fatal(err)
			}
			refusedStart(t, n, port)
		})
	}
	if err := first.ready(); err != nil {
		t.Errorf("the node that had the ports: %v", err)
	}
}

func TestDataDirectoryInUseNamesTheHolder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	first := c.nodes[0]
	dialRedis(t, first.resp).do("SET", "k", "v")

	second := single(t, testDir(t), first.id)
	second.data = first.data
	refusedStart(t, second, first.data, fmt.Sprint(first.proc.cmd.Process.Pid))

	if got := dialRedis(t, first.resp).do("GET", "k"); got != "v" {
		t.Errorf("the node that holds the directory reads %v", got)
	}
	first.kill()
	first.start() // the lock of a dead process does not count
	first.waitReady()
	if got := dialRedis(t, first.resp).do("GET", "k"); got != "v" {
		t.Errorf("after a restart it reads %v", got)
	}
}

// TestDirectoryOfAnotherClusterDoesNotMix starts a node with the directory of one cluster and the addresses of another. It goes
// on with its own cluster, which may be all that is right, but says which seed belongs to which other one; nothing mixes.
func TestDirectoryOfAnotherClusterDoesNotMix(t *testing.T) {
	t.Parallel()
	here, there := startCluster(t, 1), startCluster(t, 1)
	dialRedis(t, here.nodes[0].resp).do("SET", "k", "here")
	dialRedis(t, there.nodes[0].resp).do("SET", "k", "there")
	ownID, otherID := here.mustStatus().ClusterID, there.mustStatus().ClusterID
	here.nodes[0].stop()

	stray := here.nodes[0]
	stray.flags = []string{"--bootstrap-expect", "1", "--join", there.nodes[0].gossip}
	stray.start()
	eventually(t, 15*time.Second, "the node says that the seed belongs to another cluster", func() error {
		for line := range strings.Lines(stray.log()) {
			if strings.Contains(line, there.nodes[0].gossip) && strings.Contains(line, ownID) && strings.Contains(line, otherID) {
				return nil
			}
		}
		return fmt.Errorf("no line of its log names the seed %s and the clusters %s and %s", there.nodes[0].gossip, ownID, otherID)
	})

	stray.waitReady()
	for c, want := range map[*cluster]string{here: "here", there: "there"} {
		if got := dialRedis(t, c.nodes[0].resp).do("GET", "k"); got != want {
			t.Errorf("the cluster %q reads %v", want, got)
		}
		if s := c.mustStatus(); len(s.Nodes) != 1 {
			t.Errorf("the cluster %q has other members than its own: %+v", want, s)
		}
	}
}

func TestDirectoryOfAnotherNodeIsRefused(t *testing.T) {
	c := startCluster(t, 1)
	c.nodes[0].stop()
	other := single(t, testDir(t), "other")
	other.data = c.nodes[0].data
	refusedStart(t, other, "other", c.nodes[0].id)
}

// TestUnusableDirectoryIsNamed tries a directory in which nothing can be written, and a file in place of a directory. Root may
// write everywhere, so as root the node runs as nobody.
func TestUnusableDirectoryIsNamed(t *testing.T) {
	dir := testDir(t)

	t.Run("read-only", func(t *testing.T) {
		n := single(t, dir, "readonly")
		if err := os.Mkdir(n.data, 0o555); err != nil {
			t.Fatal(err)
		}
		cmd := n.command()
		if os.Geteuid() == 0 {
			const nobody = 65534
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		o, err := startCommand(t, cmd).finish(readyTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if o.code != 1 || !strings.Contains(o.stderr, n.data) || !strings.Contains(o.stderr, "permission denied") {
			t.Errorf("%v, want exit code 1 and an error that names %s", o, n.data)
		}
	})

	t.Run("a file", func(t *testing.T) {
		n := single(t, dir, "file")
		if err := os.WriteFile(n.data, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		refusedStart(t, n, n.data)
		if text, err := os.ReadFile(n.data); err != nil || string(text) != "mine" {
			t.Errorf("the file holds %q, %v", text, err)
		}
	})
}

// TestCorruptSegmentStopsItsNodeOnly flips one byte of a synced entry. The node refuses to start and names file and offset,
// because the byte may belong to something it has acknowledged; the others serve on with all data.
func TestCorruptSegmentStopsItsNodeOnly(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	const keys = 200
	conn := dialRedis(t, c.leader().resp)
	value := strings.Repeat("precious", 32)
	for i := range keys {
		if got := conn.do("SET", fmt.Sprint("k", i), value); got != status("OK") {
			t.Fatal(got)
		}
	}
	victim := c.follower()
	c.waitCaughtUp(victim, time.Minute)
	victim.kill()

	file, offset := findInFiles(t, victim.data, ".seg", []byte(value))
	flipByte(t, file, offset)
	refusedStart(t, victim, file, "offset")

	for _, n := range c.others(victim) {
		conn := dialRedis(t, n.resp)
		for i := range keys {
			if got := conn.do("GET", fmt.Sprint("k", i)); got != value {
				t.Fatalf("%s: GET k%d: %.40v", n.id, i, got)
			}
		}
		if got := conn.do("SET", "after", "fine"); got != status("OK") {
			t.Errorf("%s: SET with the corrupt node away: %v", n.id, got)
		}
	}

	flipByte(t, file, offset) // whole again: the refusal has changed nothing on disk
	victim.start()
	victim.waitReady()
	c.waitCaughtUp(victim, time.Minute)
}

// findInFiles returns the first file below dir with the extension that holds the text, and where.
func findInFiles(t *testing.T, dir, extension string, text []byte) (file string, offset int64) {
	t.Helper()
	for _, name := range filesBelow(t, dir) {
		if !strings.HasSuffix(name, extension) {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(content, text); i >= 0 {
			return name, int64(i)
		}
	}
	t.Fatalf("no file *%s below %s holds %.20q", extension, dir, text)
	return "", 0
}

func flipByte(t *testing.T, name string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // WriteAt reports what matters
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// TestMistakesOnTheCommandLineExitWith2 gives each kind of mistake its one clear line.
func TestMistakesOnTheCommandLineExitWith2(t *testing.T) {
	config := testDir(t) + "/raftcask.yaml"
	if err := os.WriteFile(config, []byte("id: n1\nresp-adr: 127.0.0.1:7379\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"serve", "--resp-adr", "127.0.0.1:1"}, "--resp-addr"},
		{[]string{"serve", "--resp-addr", "nowhere"}, "resp-addr"},
		{[]string{"serve", "--config", config}, "resp-addr"},
		{[]string{"serve", "--config", "/nonexistent.yaml"}, "/nonexistent.yaml"},
		{[]string{"sreve"}, "serve"},
		{[]string{"get"}, "get"},
		{[]string{"cluster", "status", "--output", "xml"}, "json"},
	} {
		o := runCLI(t, 30*time.Second, test.args...)
		if o.code != 2 || strings.Count(strings.TrimSpace(o.stderr), "\n") != 0 || !strings.Contains(o.stderr, test.says) {
			t.Errorf("raftcask %q: %v, want exit code 2 and one line that says %q", test.args, o, test.says)
		}
	}
}
