package transport

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHandshakeKeepsClustersApart(t *testing.T) {
	tests := []struct {
		kind              Kind
		accepting, dialer string
		refusal           string // "": accepted
	}{
		{KindConfirm, "a", "a", ""},
		{KindForward, "a", "a", ""},
		{KindControl, "a", "a", ""},
		{KindConfirm, "a", "b", `this node belongs to cluster "a", you belong to cluster "b"`},
		{KindForward, "a", "b", `this node belongs to cluster "a"`},
		{KindControl, "a", "b", `this node belongs to cluster "a"`},
		{KindRaft, "a", "b", `this node belongs to cluster "a"`},
		{KindConfirm, "", "b", "this node belongs to no cluster yet"},
		{KindRaft, "", "b", "this node belongs to no cluster yet"},
		{KindForward, "a", "", "you belong to no cluster yet"},
		{KindRaft, "", "", "this node belongs to no cluster yet"},
		{KindControl, "a", "", ""},
		{KindControl, "", "b", ""},
		{KindControl, "", "", ""},
	}
	for _, test := range tests {
		t.Run(test.kind.String()+" "+test.accepting+" from "+test.dialer, func(t *testing.T) {
			checkLeaks(t)
			p := listenPeer(t, "n1", inCluster(test.accepting))
			for _, kind := range []Kind{KindConfirm, KindForward, KindControl} {
				p.Handle(kind, echo)
			}
			p.StreamLayer(0, nil)
			servePeer(t, p)
			conn := dialRaw(t, p)
			if _, err := conn.Write(appendHello(nil, Hello{ClusterID: test.dialer, NodeID: "n2", Kind: test.kind})); err != nil {
				t.Fatal(err)
			}
			err := readAnswer(conn)
			if test.refusal == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(refused.Reason, test.refusal) {
				t.Fatalf("got %v, want a refusal with %q", err, test.refusal)
			}
			if !errors.Is(err, ErrNotSent) {
				t.Error("a refused handshake must be an ErrNotSent")
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the refused connection is still open: %v", err)
			}
		})
	}
}

func TestClusterIDIsAskedForEachConnection(t *testing.T) {
	checkLeaks(t)
	id := make(chan string, 1)
	id <- ""
	current := func() string { v := <-id; id <- v; return v }
	p := listenPeer(t, "n1", func(cfg *PeerConfig) { cfg.ClusterID = current })
	p.Handle(KindConfirm, echo)
	servePeer(t, p)
	caller := newPeer(t, "n2")
	if _, err := caller.Call(short(t), p.Addr().String(), KindConfirm, 0, nil); !errors.Is(err, ErrNotSent) {
		t.Fatalf("call before the bootstrap: %v", err)
	}
	<-id
	id <- testCluster // bootstrapped
	waitFor(t, "a call after the bootstrap", func() bool {
		_, err := caller.Call(short(t), p.Addr().String(), KindConfirm, 0, nil)
		return err == nil
	})
}

func TestNodeWithoutClusterOpensOnlyControlConnections(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	server.Handle(KindControl, echo)
	server.Handle(KindForward, echo)
	servePeer(t, server)
	newcomer := newPeer(t, "n2", inCluster(""))
	if _, err := newcomer.Call(short(t), server.Addr().String(), KindControl, 0, nil); err != nil {
		t.Errorf("control call: %v", err)
	}
	_, err := newcomer.Call(short(t), server.Addr().String(), KindForward, 0, nil)
	if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "belongs to no cluster yet") {
		t.Errorf("forward call: %v", err)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	tests := map[string]string{
		"http":    "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"redis":   "*1\r\n$4\r\nPING\r\n",
		"tls":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"zeros":   strings.Repeat("\x00", 64),
		"garbage": "\xf5RCX\x01\x00\x08whatever it is",
	}
	for name, bytes := range tests {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := listenPeer(t, "n1")
			p.Handle(KindConfirm, echo)
			servePeer(t, p)
			conn := dialRaw(t, p)
			if _, err := io.WriteString(conn, bytes); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			var reset *net.OpError
			if len(got) > 0 || (err != nil && !errors.As(err, &reset)) {
				t.Errorf("got %q, %v, want a closed connection and no bytes", got, err)
			}
			if _, err := newPeer(t, "n2").Call(short(t), p.Addr().String(), KindConfirm, 0, nil); err != nil {
				t.Errorf("a node after the stranger: %v", err)
			}
		})
	}
}

func TestBrokenHelloIsToldWhy(t *testing.T) {
	good := appendHello(nil, Hello{ClusterID: testCluster, NodeID: "n2", Kind: KindConfirm})
	change := func(i int, b byte) []byte {
		out := bytes.Clone(good)
		out[i] = b
		return out
	}
	tests := map[string]struct {
		hello  []byte
		reason string
	}{
		"other version": {change(4, 9), "speaks version 1 of the peer protocol, you speak version 9"},
		"too long":      {change(5, 0xff), "at most"},
		"too short":     {append([]byte(magic), protocolVersion, 0, 3), "hello of 3 bytes"},
		"unknown kind":  {change(7, 'Z'), "unknown kind of connection 0x5a"},
		"cut id":        {change(12, 200), "cut off inside an id"},
		"short id":      {change(12, 1), "hello"},
		"no node id":    {appendHello(nil, Hello{ClusterID: testCluster, Kind: KindConfirm}), "without a node id"},
		"control chars": {appendHello(nil, Hello{ClusterID: "a\nb", NodeID: "n", Kind: KindConfirm}), "unprintable"},
		"no handler":    {appendHello(nil, Hello{ClusterID: testCluster, NodeID: "n2", Kind: KindControl}), "answers no calls of kind control"},
		"no group":      {appendHello(nil, Hello{ClusterID: testCluster, NodeID: "n2", Kind: KindRaft, Group: 7}), "no raft group 7"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := listenPeer(t, "n1")
			p.Handle(KindConfirm, echo)
			servePeer(t, p)
			conn := dialRaw(t, p)
			if _, err := conn.Write(test.hello); err != nil {
				t.Fatal(err)
			}
			var refused *RefusedError
			if err := readAnswer(conn); !errors.As(err, &refused) || !strings.Contains(refused.Reason, test.reason) {
				t.Errorf("got %v, want a refusal with %q", err, test.reason)
			}
		})
	}
}

func TestDialerRefusesOtherAnswers(t *testing.T) {
	accept := appendAnswer(nil, "")
	tests := map[string]struct {
		answer []byte
		want   string
	}{
		"http":          {[]byte("HTTP/1.1 400 Bad Request\r\n"), "not the raftcask peer protocol"},
		"other version": {append([]byte(magic), 2, accepted, 0, 0), "the peer speaks version 2"},
		"long reason":   {append([]byte(magic), 1, refused, 0xff, 0xff), "at most 1024"},
		"cut off":       {accept[:5], "read the answer"},
		"closed":        {nil, "read the answer"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					if _, _, err := readHello(conn); err == nil {
						_, _ = conn.Write(test.answer)
					}
					_ = conn.Close()
				}
			}()
			_, err = newPeer(t, "n1").Call(short(t), listener.Addr().String(), KindConfirm, 0, nil)
			if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want ErrNotSent with %q", err, test.want)
			}
		})
	}
}

// The node's logger has its own id as "node".
func TestRefusedPeerIsNotLoggedAsTheNode(t *testing.T) {
	checkLeaks(t)
	lines := &logLines{written: make(chan string, 8)}
	p := newPeer(t, "n1", func(cfg *PeerConfig) {
		cfg.Logger = slog.New(slog.NewTextHandler(lines, nil)).With("node", "n1")
	})
	if _, err := newPeer(t, "n2", inCluster("other")).Call(short(t), p.Addr().String(), KindConfirm, 0, nil); err == nil {
		t.Fatal("another cluster's node was let in")
	}
	if line := <-lines.written; strings.Count(line, " node=") != 1 || !strings.Contains(line, " peer=n2") {
		t.Errorf("logged %s", line)
	}
}

// logLines passes on what is logged, a line at a time.
type logLines struct{ written chan string }

func (l *logLines) Write(line []byte) (int, error) {
	select {
	case l.written <- string(line):
	default:
	}
	return len(line), nil
}

// A stranger who opens a connection and trickles bytes gives his place back after handshakeTimeout.
func TestSlowHandshakeIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Peer{cfg: PeerConfig{NodeID: "n1", ClusterID: func() string { return testCluster }}}
		p.refusals.logger = discard
		ours, theirs := net.Pipe()
		start := time.Now()
		trickled := make(chan struct{})
		go func() {
			defer close(trickled)
			for _, b := range appendHello(nil, Hello{ClusterID: testCluster, NodeID: "slow", Kind: KindConfirm}) {
				if _, err := theirs.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(handshakeTimeout / 10)
			}
		}()
		_, _, err := p.acceptHello(ours)
		if err == nil {
			t.Fatal("the slow handshake was accepted")
		}
		if took := time.Since(start); took != handshakeTimeout {
			t.Errorf("cut off after %v, want %v", took, handshakeTimeout)
		}
		_ = ours.Close()
		_ = theirs.Close()
		<-trickled
	})
}

func TestHandshakesAreBounded(t *testing.T) {
	checkLeaks(t)
	p := listenPeer(t, "n1")
	p.Handle(KindConfirm, echo)
	p.handshakes = make(chan struct{}, 2)
	servePeer(t, p)
	silent := []net.Conn{dialRaw(t, p), dialRaw(t, p)}
	waitFor(t, "both places taken", func() bool { return len(p.handshakes) == 2 })
	if _, err := dialRaw(t, p).Read(make([]byte, 1)); err == nil {
		t.Error("the third connection was served")
	}
	for _, conn := range silent {
		_ = conn.Close()
	}
	waitFor(t, "a call once the places are free", func() bool {
		_, err := newPeer(t, "n2").Call(short(t), p.Addr().String(), KindConfirm, 0, nil)
		return err == nil
	})
}

func FuzzHello(f *testing.F) {
	f.Add(appendHello(nil, Hello{ClusterID: testCluster, NodeID: "n1", Group: 3, Kind: KindRaft})[preambleBytes:])
	f.Add(appendHello(nil, Hello{NodeID: "n1", Kind: KindControl})[preambleBytes:])
	f.Add([]byte("R\x00\x00\x00\x00\xffa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		encoded := appendHello(nil, h)
		if !bytes.Equal(encoded[preambleBytes:], b) {
			t.Fatalf("%+v was decoded from %x and encodes to %x", h, b, encoded[preambleBytes:])
		}
		again, _, err := readHello(bytes.NewReader(encoded))
		if err != nil || again != h {
			t.Fatalf("%+v reads back as %+v, %v", h, again, err)
		}
	})
}

func FuzzHandshake(f *testing.F) {
	f.Add(appendHello(nil, Hello{ClusterID: testCluster, NodeID: "n1", Kind: KindRaft}))
	f.Add(appendAnswer(nil, "because"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, refusal, err := readHello(bytes.NewReader(b))
		if err == nil && (refusal != "" || h.NodeID == "" || !h.Kind.valid()) {
			t.Fatalf("accepted %+v with refusal %q", h, refusal)
		}
		if err := readAnswer(bytes.NewReader(b)); err != nil {
			_ = err.Error()
		}
	})
}
