package cluster

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func testTransport(t *testing.T) (*transport, *streamHub) {
	t.Helper()
	hub := newStreamHub(newTCPLayer(t, "127.0.0.1:0"))
	trans := newTransport(hub.open(), &addressBook{}, noWatch(), newHclog(quiet(), "raft"), &counters{})
	t.Cleanup(func() {
		_ = trans.Close()
		_ = hub.Close()
	})
	return trans, hub
}

// TestEntriesOfADeposedLeaderAreNotCommitted: a follower that had such an entry at the end of its log was told to commit beyond
// what the request held, applied it, and stopped when its log was to be corrected.
func TestEntriesOfADeposedLeaderAreNotCommitted(t *testing.T) {
	noLeaks(t)
	receiver, _ := testTransport(t)
	sender, _ := testTransport(t)
	entries := []*raft.Log{{Index: 6, Term: 2}, {Index: 7, Term: 2}}
	for _, c := range []struct {
		entries      []*raft.Log
		commit, want uint64
	}{{nil, 9, 5}, {nil, 5, 5}, {nil, 3, 3}, {nil, 0, 0}, {entries, 9, 7}, {entries, 7, 7}, {entries, 6, 6}, {entries[:1], 9, 6}} {
		req := &raft.AppendEntriesRequest{
			Term: 2, PrevLogEntry: 5, PrevLogTerm: 1, Entries: c.entries, LeaderCommitIndex: c.commit,
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("x")},
		}
		result := make(chan error, 1)
		go func() {
			result <- sender.AppendEntries("r", receiver.LocalAddr(), req, &raft.AppendEntriesResponse{})
		}()
		select {
		case rpc := <-receiver.Consumer():
			got, ok := rpc.Command.(*raft.AppendEntriesRequest)
			if !ok || got.LeaderCommitIndex != c.want {
				t.Errorf("after entry 5, with %d entries and commit index %d: raft sees %+v, wanted %d", len(c.entries), c.commit, rpc.Command, c.want)
			}
			rpc.Respond(&raft.AppendEntriesResponse{}, nil)
		case <-time.After(5 * time.Second):
			t.Fatal("the request did not arrive")
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeartbeatsTakeTheMainPath: hashicorp/raft#695. On the bare transport the handler would get the heartbeat.
func TestHeartbeatsTakeTheMainPath(t *testing.T) {
	noLeaks(t)
	receiver, _ := testTransport(t)
	sender, _ := testTransport(t)
	handled := make(chan raft.RPC, 10)
	var asRaftSeesIt raft.Transport = receiver
	asRaftSeesIt.SetHeartbeatHandler(func(rpc raft.RPC) {
		handled <- rpc
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	heartbeat := &raft.AppendEntriesRequest{Term: 1, RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("x")}}
	result := make(chan error, 1)
	send := func() {
		result <- sender.AppendEntries("r", receiver.LocalAddr(), heartbeat, &raft.AppendEntriesResponse{})
	}
	go send()
	select {
	case <-handled:
		t.Fatal("a heartbeat was handled beside raft's main thread")
	case rpc := <-receiver.Consumer():
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	case <-time.After(5 * time.Second):
		t.Fatal("the heartbeat did not arrive")
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	// The same without the wrapper.
	receiver.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		handled <- rpc
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	go send()
	select {
	case <-handled:
	case <-receiver.Consumer():
		t.Error("raft has no fast path for heartbeats any more: the wrapper can go")
	}
	<-result
}

func TestTransportKeepsPreVoteAndDropsPipelining(t *testing.T) {
	trans, _ := testTransport(t)
	var asRaftSeesIt raft.Transport = trans
	if _, ok := asRaftSeesIt.(raft.WithPreVote); !ok {
		t.Error("raft turns pre-vote off")
	}
	if _, ok := asRaftSeesIt.(raft.WithClose); !ok {
		t.Error("raft does not close the transport")
	}
	if _, err := asRaftSeesIt.AppendEntriesPipeline("x", "x"); err != raft.ErrPipelineReplicationNotSupported { //nolint:errorlint // raft compares it so
		t.Errorf("pipelining is on: %v (hashicorp/raft#612)", err)
	}
}

func TestAddressBookOverridesTheConfiguration(t *testing.T) {
	noLeaks(t)
	receiver, _ := testTransport(t)
	hub := newStreamHub(newTCPLayer(t, "127.0.0.1:0"))
	book := &addressBook{}
	sender := newTransport(hub.open(), book, noWatch(), newHclog(quiet(), "raft"), &counters{})
	defer hub.Close()
	defer sender.Close()
	book.replace(map[raft.ServerID]raft.ServerAddress{"moved": receiver.LocalAddr()})
	go func() {
		rpc := <-receiver.Consumer()
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	}()
	err := sender.TimeoutNow("moved", "127.0.0.1:1", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
	if err != nil {
		t.Errorf("the old address was used: %v", err)
	}
	if err := sender.TimeoutNow("unknown", "127.0.0.1:1", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}); err == nil {
		t.Error("nobody is at the fallback address")
	}
}

// TestStreamCanBeOpenedAgain: raft closes its stream layer at shutdown; the group's next raft needs it.
func TestStreamCanBeOpenedAgain(t *testing.T) {
	noLeaks(t)
	layer := newTCPLayer(t, "127.0.0.1:0")
	hub := newStreamHub(layer)
	addr := raft.ServerAddress(layer.Addr().String())
	for range 3 {
		s := hub.open()
		out, err := s.Dial(addr, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() { _, err := in.Read(make([]byte, 1)); read <- err }()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-read; err == nil {
			t.Error("an accepted connection outlives its stream")
		}
		if _, err := out.Write([]byte("x")); err == nil {
			t.Error("a dialed connection outlives its stream")
		}
		if _, err := s.Accept(); err == nil {
			t.Error("a closed stream accepts")
		}
		if _, err := s.Dial(addr, time.Second); err == nil {
			t.Error("a closed stream dials")
		}
	}
	if err := hub.Close(); err != nil {
		t.Error(err)
	}
	if conn, err := net.DialTimeout("tcp", string(addr), time.Second); err == nil {
		conn.Close()
		t.Error("the layer is open still")
	}
}
