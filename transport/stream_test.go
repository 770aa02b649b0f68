package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// raftNode is one end of a pair of hashicorp/raft transports: it answers what arrives, as a node would.
type raftNode struct {
	peer      *Peer
	layer     *StreamLayer
	transport *raft.NetworkTransport
	stop      chan struct{}
	stopped   chan struct{}
}

func newRaftNode(t *testing.T, id string, group uint32) *raftNode {
	t.Helper()
	n := &raftNode{peer: newPeer(t, id)}
	n.start(t, group)
	return n
}

func (n *raftNode) start(t *testing.T, group uint32) {
	n.layer = n.peer.StreamLayer(group, nil)
	n.stop, n.stopped = make(chan struct{}), make(chan struct{})
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.layer, MaxPool: 2, MaxRPCsInFlight: 1, Timeout: 10 * time.Second, Logger: hclog.NewNullLogger(),
	})
	go n.answer()
	t.Cleanup(n.shutdown)
}

func (n *raftNode) shutdown() {
	select {
	case <-n.stop:
		return
	default:
	}
	_ = n.transport.Close()
	close(n.stop)
	<-n.stopped
}

func (n *raftNode) answer() {
	defer close(n.stopped)
	for {
		select {
		case <-n.stop:
			return
		case rpc := <-n.transport.Consumer():
			switch cmd := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Respond(&raft.AppendEntriesResponse{Term: cmd.Term, LastLog: cmd.PrevLogEntry + uint64(len(cmd.Entries)), Success: true}, nil)
			case *raft.InstallSnapshotRequest:
				got, err := io.Copy(io.Discard, rpc.Reader)
				if err == nil && got != cmd.Size {
					err = fmt.Errorf("got %d of %d bytes", got, cmd.Size)
				}
				rpc.Respond(&raft.InstallSnapshotResponse{Term: cmd.Term, Success: err == nil}, err)
			default:
				rpc.Respond(nil, fmt.Errorf("unexpected %T", cmd))
			}
		}
	}
}

func (n *raftNode) addr() raft.ServerAddress { return n.transport.LocalAddr() }

func (n *raftNode) append(to *raftNode, size int) error {
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte(n.addr())}, Term: 7, PrevLogEntry: 41,
		Entries: []*raft.Log{{Index: 42, Term: 7, Type: raft.LogCommand, Data: make([]byte, size)}},
	}
	var resp raft.AppendEntriesResponse
	if err := n.transport.AppendEntries("other", to.addr(), req, &resp); err != nil {
		return err
	}
	if !resp.Success || resp.Term != 7 || resp.LastLog != 42 {
		return fmt.Errorf("answer %+v", resp)
	}
	return nil
}

func TestRaftTransportsTalkOverStreamLayers(t *testing.T) {
	checkLeaks(t)
	a, b := newRaftNode(t, "n1", 3), newRaftNode(t, "n2", 3)
	for i := range 20 {
		if err := a.append(b, i*10000); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
		if err := b.append(a, 10); err != nil {
			t.Fatalf("append %d back: %v", i, err)
		}
	}
	snapshot := make([]byte, 5<<20)
	var resp raft.InstallSnapshotResponse
	err := a.transport.InstallSnapshot("other", b.addr(), &raft.InstallSnapshotRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, SnapshotVersion: 1, Term: 7, Size: int64(len(snapshot)),
	}, &resp, bytes.NewReader(snapshot))
	if err != nil || !resp.Success {
		t.Errorf("install a snapshot: %+v, %v", resp, err)
	}
}

// A group is stopped and started again on the same port: old connections end, new ones work.
func TestGroupRestartsOnTheSamePort(t *testing.T) {
	checkLeaks(t)
	a, b := newRaftNode(t, "n1", 0), newRaftNode(t, "n2", 0)
	if err := a.append(b, 10); err != nil {
		t.Fatal(err)
	}
	b.shutdown()
	b.peer.mu.Lock()
	open := len(b.peer.conns)
	b.peer.mu.Unlock()
	if open > 0 {
		t.Errorf("%d connections of the stopped group are open", open)
	}
	if err := a.append(b, 10); err == nil {
		t.Error("the stopped group answered")
	}
	b.start(t, 0)
	waitFor(t, "the restarted group to answer", func() bool { return a.append(b, 10) == nil })
}

func TestNewLayerReplacesTheOldOne(t *testing.T) {
	checkLeaks(t)
	p := newPeer(t, "n1")
	old := p.StreamLayer(1, nil)
	fresh := p.StreamLayer(1, nil)
	if _, err := old.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the old layer: %v", err)
	}
	other := newPeer(t, "n2").StreamLayer(1, nil)
	if _, err := other.Dial(raft.ServerAddress(p.Addr().String()), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if conn, err := fresh.Accept(); err != nil {
		t.Errorf("the new layer: %v", err)
	} else {
		_ = conn.Close()
	}
}

func TestUnknownGroupIsRefused(t *testing.T) {
	checkLeaks(t)
	p := newPeer(t, "n1")
	p.StreamLayer(1, nil)
	_, err := newPeer(t, "n2").StreamLayer(2, nil).Dial(raft.ServerAddress(p.Addr().String()), 10*time.Second)
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "no raft group 2") {
		t.Errorf("got %v", err)
	}
}

func TestAcceptQueueIsBounded(t *testing.T) {
	checkLeaks(t)
	p := newPeer(t, "n1")
	layer := p.StreamLayer(0, nil) // nobody accepts
	dialer := newPeer(t, "n2").StreamLayer(0, nil)
	addr := raft.ServerAddress(p.Addr().String())
	for i := range streamBacklog {
		if _, err := dialer.Dial(addr, 10*time.Second); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	var refused *RefusedError
	if _, err := dialer.Dial(addr, 10*time.Second); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "is full") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := layer.Accept(); err != nil {
		t.Fatal(err)
	}
	if _, err := dialer.Dial(addr, 10*time.Second); err != nil {
		t.Errorf("a place was free: %v", err)
	}
}

func TestStreamDialGivesUpInTime(t *testing.T) {
	checkLeaks(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	layer := newPeer(t, "n1").StreamLayer(0, nil)
	if _, err := layer.Dial(raft.ServerAddress(listener.Addr().String()), 50*time.Millisecond); !errors.Is(err, ErrNotSent) {
		t.Errorf("got %v", err)
	}
}

func TestAdvertisedAddressIsRaftsAddress(t *testing.T) {
	p := newPeer(t, "n1")
	advertised := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 9379}
	if got := p.StreamLayer(0, advertised).Addr().String(); got != "10.1.2.3:9379" {
		t.Errorf("got %s", got)
	}
	if got := p.StreamLayer(1, nil).Addr().String(); got != p.Addr().String() {
		t.Errorf("got %s, want the listener's %s", got, p.Addr())
	}
}
