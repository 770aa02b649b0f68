package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Control messages are rare and small, so they are JSON. Every answer carries the state of who answers.
type controlRequest struct {
	Op        string        `json:"op"`
	From      string        `json:"from"`                 // node id
	ClusterID string        `json:"cluster_id,omitempty"` // opWelcome, opReject, opRemoved
	Set       *bootstrapSet `json:"set,omitempty"`        // opPrepare
	Reason    string        `json:"reason,omitempty"`     // opRefuse
	Admin     *AdminRequest `json:"admin,omitempty"`      // opAdmin
}

// The operations.
const (
	opState     = "state"
	opStatus    = "status"
	opPrepare   = "prepare"    // agree to a bootstrap set
	opReject    = "reject"     // promise never to agree to one
	opWelcome   = "welcome"    // become a member of an existing cluster
	opRefuse    = "refuse"     // be told why this node is not taken
	opRemoved   = "removed"    // an operator took you out
	opReadIndex = "read-index" // confirm your leadership, and tell what you have applied
	opAdmin     = "admin"      // an operator wants something of the leader
)

type controlAnswer struct {
	Node      string        `json:"node"`
	ClusterID string        `json:"cluster_id,omitempty"`
	Prepared  *bootstrapSet `json:"prepared,omitempty"`
	Removed   bool          `json:"removed,omitempty"`
	Joined    bool          `json:"joined,omitempty"` // identity.Joined
	OK        bool          `json:"ok"`
	Never     bool          `json:"never,omitempty"`  // opPrepare: promised not to
	Reason    string        `json:"reason,omitempty"` // why not OK
	LastIndex uint64        `json:"last_index,omitempty"`
	Status    *Status       `json:"status,omitempty"` // opStatus
	Admin     *adminAnswer  `json:"admin,omitempty"`  // opAdmin
}

// controlTimeout bounds one message to one node.
const controlTimeout = time.Second

// HandleControl answers a control message. from is the node id that the connection named; it is for the log.
func (n *Node) HandleControl(ctx context.Context, from string, data []byte) ([]byte, error) {
	var req controlRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, fmt.Errorf("control message from %q is not understood: %w", from, err)
	}
	if req.Op == opAdmin {
		return n.handleAdmin(ctx, &req) // takes seconds, and reads no store
	}
	if req.Op == opReadIndex {
		return n.handleReadIndex(ctx)
	}
	n.serving.RLock()
	defer n.serving.RUnlock()
	if n.closed {
		return nil, ErrClosed
	}
	before := n.identity.changeCount()
	a, err := n.control(&req)
	if err != nil {
		return nil, err
	}
	if n.identity.changeCount() != before {
		n.poke() // only then: two nodes that ask each other must not keep each other busy
	}
	id := n.identity.get()
	a.Node, a.ClusterID, a.Prepared, a.Removed, a.Joined = id.NodeID, id.ClusterID, id.Prepared, id.Removed, id.Joined
	return json.Marshal(a)
}

func (n *Node) control(req *controlRequest) (*controlAnswer, error) {
	a := &controlAnswer{OK: true}
	var err error
	switch req.Op {
	case opState:
		if s := n.group.session(); s != nil {
			a.LastIndex = s.raft.AppliedIndex()
		}
	case opStatus:
		status := n.status()
		a.Status = &status
	case opPrepare:
		err = n.boot.prepare(req.Set, a)
	case opReject:
		err = n.boot.reject(req.ClusterID, a)
	case opWelcome:
		err = n.welcomed(req, a)
	case opRefuse:
		n.setRefusal(req.Reason)
	case opRemoved:
		err = n.removed(req, a)
	default:
		err = fmt.Errorf("control operation %q is not known", req.Op)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (a *controlAnswer) refuse(format string, args ...any) {
	a.OK, a.Reason = false, fmt.Sprintf(format, args...)
}

// welcomed makes this node a member of the leader's cluster.
func (n *Node) welcomed(req *controlRequest, a *controlAnswer) error {
	if req.ClusterID == "" {
		return fmt.Errorf("welcome from %q without a cluster id", req.From)
	}
	return n.identity.update(func(id *identity) error {
		switch {
		case id.ClusterID == req.ClusterID:
		case id.ClusterID != "":
			a.refuse("it belongs to cluster %s", id.ClusterID)
		case id.Prepared != nil:
			a.refuse("it takes part in founding cluster %s", id.Prepared.ClusterID)
		default:
			id.ClusterID = req.ClusterID
			n.log.Info("welcomed into a cluster", "cluster_id", req.ClusterID, "by", req.From)
		}
		return nil
	})
}

// removed notes that an operator took this node out of its cluster.
func (n *Node) removed(req *controlRequest, a *controlAnswer) error {
	if own := n.ClusterID(); own == "" || own != req.ClusterID {
		a.refuse("it belongs to cluster %q", own)
		return nil
	}
	return n.noteRemoved(req.From)
}

// ask sends a control message to one node and reads its answer.
func (n *Node) ask(ctx context.Context, addr string, req controlRequest) (controlAnswer, error) {
	return n.askWithin(ctx, controlTimeout, addr, req)
}

func (n *Node) askWithin(ctx context.Context, timeout time.Duration, addr string, req controlRequest) (controlAnswer, error) {
	req.From = n.ID()
	data, err := json.Marshal(req)
	if err != nil {
		return controlAnswer{}, fmt.Errorf("encode %s: %w", req.Op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, err = n.cfg.Peers.Call(ctx, addr, Control, data)
	if err != nil {
		return controlAnswer{}, fmt.Errorf("send %s to %s: %w", req.Op, addr, err)
	}
	var a controlAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return controlAnswer{}, fmt.Errorf("answer of %s to %s is not understood: %w", addr, req.Op, err)
	}
	return a, nil
}

// askNode is ask, and checks that it is the node that answers: its address may have another owner by now.
func (n *Node) askNode(ctx context.Context, id, addr string, req controlRequest) (controlAnswer, error) {
	a, err := n.ask(ctx, addr, req)
	if err == nil && a.Node != id {
		err = fmt.Errorf("node %q answers at %s, the address of %q", a.Node, addr, id)
	}
	return a, err
}

// peerAddrOf is where a node is now, by gossip; fallback if gossip does not know it.
func peerAddrOf(members []member, id, fallback string) string {
	if i := slices.IndexFunc(members, func(m member) bool { return m.ID == id }); i >= 0 {
		return members[i].PeerAddr
	}
	return fallback
}
