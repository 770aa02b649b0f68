package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// AdminOp is what an operator can ask of the membership.
type AdminOp string

// The operations.
const (
	AdminRemove   AdminOp = "remove"   // take Node out
	AdminTransfer AdminOp = "transfer" // let Node lead, or the best one if it is empty
	AdminReplace  AdminOp = "replace"  // take Node out once New votes in its place
)

// AdminRequest asks for a change of the membership. Any node takes it and brings it to the leader.
type AdminRequest struct {
	Op   AdminOp `json:"op"`
	Node string  `json:"node,omitempty"`
	New  string  `json:"new,omitempty"`
	// Again says that this replacement was begun before: then Node may be gone already.
	Again bool `json:"again,omitempty"`
}

// AdminResult is what became of a request. The JSON names are what the program's tools read.
type AdminResult struct {
	// Done is false while a replacement waits for the new node; the request is sent again then.
	Done    bool   `json:"done"`
	Message string `json:"message"` // for a person
}

const (
	// adminTimeout bounds one request at the leader: a hand-over and a change of the configuration.
	adminTimeout = 6 * time.Second
	// adminPause is the pause before the next leader is asked.
	adminPause = 50 * time.Millisecond
)

// errNotMember: the node that an operator named is not in the configuration.
var errNotMember = fmt.Errorf("%w: there is no such member", ErrNotApplied)

// Administer does what an operator asks, at whichever node leads. An error is ErrUnknown if the change may be
// made all the same; after any other one nothing has changed, except that leadership may have moved.
func (n *Node) Administer(ctx context.Context, req AdminRequest) (AdminResult, error) {
	for {
		result, err := n.administerOnce(ctx, req)
		if err == nil || !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrNoLeader) {
			return result, err
		}
		select {
		case <-ctx.Done():
			return AdminResult{}, err
		case <-n.ctx.Done():
			return AdminResult{}, ErrClosed
		case <-time.After(adminPause):
		}
	}
}

// administerOnce asks the node that leads now.
func (n *Node) administerOnce(ctx context.Context, req AdminRequest) (AdminResult, error) {
	if n.group.IsLeader() {
		return n.administer(ctx, req)
	}
	id, addr, _, ok := n.group.Leader()
	if !ok || id == n.ID() {
		return AdminResult{}, ErrNoLeader
	}
	a, err := n.askWithin(ctx, adminTimeout, addr, controlRequest{Op: opAdmin, Admin: &req})
	switch {
	case err != nil && a.Node == "" && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) && req.Op == AdminTransfer:
		return AdminResult{}, fmt.Errorf("%w: %w", ErrNoLeader, err) // to hand over twice does no harm
	case err != nil:
		return AdminResult{}, fmt.Errorf("%w: the leader %s did not answer: %w; look at \"raftcask cluster members\" before you try again", ErrUnknown, id, err)
	case a.Admin == nil:
		return AdminResult{}, fmt.Errorf("%w: the leader %s does not know such requests: it runs another version", ErrNotApplied, id)
	}
	return a.Admin.open()
}

// administer does what was asked, on the leader.
func (n *Node) administer(ctx context.Context, req AdminRequest) (AdminResult, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	s := n.group.session()
	if s == nil {
		return AdminResult{}, n.group.notLeader()
	}
	if _, ok := s.leading(); !ok {
		return AdminResult{}, n.group.notLeader()
	}
	switch req.Op {
	case AdminRemove:
		return n.remove(ctx, s, req.Node)
	case AdminTransfer:
		return n.transferTo(ctx, s, req.Node)
	case AdminReplace:
		return n.replace(ctx, s, &req)
	}
	return AdminResult{}, fmt.Errorf("%w: the operation %q is not known", ErrNotApplied, req.Op)
}

// Remove takes a node out of the cluster; see Administer.
func (n *Node) Remove(ctx context.Context, id string) error {
	_, err := n.Administer(ctx, AdminRequest{Op: AdminRemove, Node: id})
	return err
}

// remove takes a member out. It is refused if the voters that remain could not act: more than half of them must
// answer. The node is told, so that it does not come back by itself. A leader that is to go hands over and
// answers ErrNotLeader: the next leader does the rest.
func (n *Node) remove(ctx context.Context, s *session, id string) (AdminResult, error) {
	n.changing.Lock() // or reconcile would take the node in again before it knows
	defer n.changing.Unlock()
	c, err := n.examine(ctx, s, id)
	if err != nil {
		return AdminResult{}, err
	}
	if err := c.checkRemoval(id); err != nil {
		return AdminResult{}, err
	}
	if id == n.ID() {
		return AdminResult{}, n.handOverBeforeRemoval(ctx, s, c)
	}
	err = n.change(ctx, func() raft.IndexFuture { return s.raft.RemoveServer(c.target.ID, 0, changeTimeout) })
	if err != nil {
		return AdminResult{}, changeOutcome(err)
	}
	n.log.Info("removed a node", "member", id)
	message := fmt.Sprintf("%s was removed; voters now: %s", id, strings.Join(c.voters, ", "))
	if _, err := n.askNode(ctx, id, string(c.target.Address), controlRequest{Op: opRemoved, ClusterID: n.ClusterID()}); err != nil {
		n.log.Warn("the removed node does not answer; it will be told when it comes back", "member", id, "error", err)
		message += "; " + id + " does not answer, and will be told when it comes back"
	}
	return AdminResult{Done: true, Message: message}, nil
}

func (n *Node) handOverBeforeRemoval(ctx context.Context, s *session, c *census) error {
	to, err := c.successor(n.cfg.Limits.CatchUpEntries, s.raft.AppliedIndex())
	if err != nil {
		return err
	}
	if err := n.handTo(ctx, s, to); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s handed over to %s, to be removed", ErrNotLeader, n.ID(), to)
}

// transferTo lets another node lead.
func (n *Node) transferTo(ctx context.Context, s *session, id string) (AdminResult, error) {
	if id == n.ID() {
		return AdminResult{Done: true, Message: id + " leads already"}, nil
	}
	c, err := n.examine(ctx, s, id)
	if err != nil {
		return AdminResult{}, err
	}
	lag, applied := n.cfg.Limits.CatchUpEntries, s.raft.AppliedIndex()
	if id == "" {
		id, err = c.successor(lag, applied)
	} else {
		err = c.checkSuccessor(id, lag, applied)
	}
	if err != nil {
		return AdminResult{}, err
	}
	if err := n.handTo(ctx, s, id); err != nil {
		return AdminResult{}, err
	}
	return AdminResult{Done: true, Message: fmt.Sprintf("%s handed leadership to %s", n.ID(), id)}, nil
}

// handTo hands leadership over and returns when this node follows another.
func (n *Node) handTo(ctx context.Context, s *session, id string) error {
	limit, cancel := context.WithTimeout(ctx, n.cfg.Timing.Transfer)
	defer cancel()
	if err := s.transfer(limit, id); err != nil {
		return fmt.Errorf("%w: leadership was not handed to %s: %w; %s leads on", ErrNotApplied, id, err, n.ID())
	}
	for limit.Err() == nil {
		if leader, _, _, ok := n.group.Leader(); ok && leader != n.ID() {
			break
		}
		select {
		case <-limit.Done():
		case <-time.After(adminPause):
		}
	}
	return nil
}

// replace does the next step of a replacement. The new node votes before the old one goes, so that the cluster
// never has fewer voters than before. The exception is a new node at the old one's address: then the old one
// cannot be alive, and two members cannot have one address.
func (n *Node) replace(ctx context.Context, s *session, req *AdminRequest) (AdminResult, error) {
	old, next := req.Node, req.New
	if old == next {
		return AdminResult{}, fmt.Errorf("%w: %q cannot replace itself: start the new node with an id of its own", ErrNotApplied, old)
	}
	servers := s.servers()
	oldServer, isMember := findServer(servers, old)
	newServer, hasJoined := findServer(servers, next)
	m, alive := n.gossipMember(next)
	waiting := func(format string, a ...any) (AdminResult, error) {
		return AdminResult{Message: fmt.Sprintf(format, a...)}, nil
	}
	switch {
	case !isMember && !req.Again:
		return AdminResult{}, notMember(old)
	case !alive:
		return AdminResult{}, fmt.Errorf("%w: no node %q is running: start it with --join, then replace %s", ErrNotApplied, next, old)
	case m.Removed:
		return AdminResult{}, fmt.Errorf("%w: %q was removed from the cluster: start it with an empty directory and a new id", ErrNotApplied, next)
	case m.NonVoter:
		return AdminResult{}, fmt.Errorf("%w: %q never votes (--non-voter): restart it without that, then replace %s", ErrNotApplied, next, old)
	case !hasJoined && isMember && m.PeerAddr == string(oldServer.Address):
		result, err := n.remove(ctx, s, old)
		result.Done = false // the new one is not in yet
		return result, err
	case !hasJoined:
		return waiting("%s is about to join", next)
	case newServer.Suffrage != raft.Voter:
		return waiting("%s is catching up", next)
	case !isMember:
		return AdminResult{Done: true, Message: fmt.Sprintf("%s votes in the place of %s", next, old)}, nil
	case !req.Again && oldServer.Suffrage == raft.Voter && countVoters(servers)%2 == 1:
		// A node that came to take the place made the number even, or this is a slip of the operator's.
		return AdminResult{}, fmt.Errorf("%w: %s votes already, so without %s the cluster would bear fewer failures than now: "+
			"start a new node with --join and name that one, or use \"raftcask cluster remove %s\"", ErrNotApplied, next, old, old)
	}
	a, err := n.askNode(ctx, next, m.PeerAddr, controlRequest{Op: opState})
	if err != nil {
		return waiting("%s does not answer: %v", next, err)
	}
	if a.LastIndex+n.cfg.Limits.CatchUpEntries < s.raft.AppliedIndex() {
		return waiting("%s is catching up: it has applied entry %d of %d", next, a.LastIndex, s.raft.AppliedIndex())
	}
	result, err := n.remove(ctx, s, old)
	if err == nil {
		result.Message = fmt.Sprintf("%s votes in the place of %s; %s", next, old, result.Message)
	}
	return result, err
}

// Leave takes this node out of its cluster, after it has handed leadership over. Afterwards Left is closed:
// the process should stop. Until it returns nil the node is, or may be, a member.
func (n *Node) Leave(ctx context.Context) (AdminResult, error) {
	result, err := n.Administer(ctx, AdminRequest{Op: AdminRemove, Node: n.ID()})
	if errors.Is(err, errNotMember) && n.identity.get().Joined {
		err = nil // an earlier attempt came through, and its answer was lost
		result = AdminResult{Done: true, Message: n.ID() + " was removed"}
	}
	if err != nil {
		return AdminResult{}, err
	}
	if err := n.noteRemoved("its operator"); err != nil {
		return AdminResult{}, err
	}
	n.leave.Do(func() { close(n.left) })
	result.Message += "; it stops now"
	return result, nil
}

// Left is closed when the node has left its cluster at its operator's wish.
func (n *Node) Left() <-chan struct{} { return n.left }

// Removed reports that the node is no member any more. It serves nothing then.
func (n *Node) Removed() bool { return n.gone.Load() }

// noteRemoved makes this node remember that it is no member any more.
func (n *Node) noteRemoved(by string) error {
	err := n.identity.update(func(id *identity) error { id.Removed = true; return nil })
	if err == nil && !n.gone.Swap(true) {
		n.log.Warn("this node was removed from its cluster; it serves nothing any more; stop it, and start it with an empty directory and a new node id to come back", "by", by)
	}
	n.poke()
	return err
}

// noteJoined remembers that this node was a member by a committed configuration. If it is in none later, then
// it was removed, even if nobody could tell it.
func (n *Node) noteJoined() {
	if n.identity.get().Joined {
		return
	}
	s := n.group.session()
	if s == nil {
		return
	}
	if _, ok := findServer(s.servers(), n.ID()); !ok {
		n.joinedBy = 0
		return
	}
	// raft does not tell where in the log the configuration is, but it is not behind the end of it.
	if n.joinedBy == 0 {
		n.joinedBy = s.raft.LastIndex()
	}
	if s.raft.CommitIndex() < n.joinedBy {
		return
	}
	if err := n.identity.update(func(id *identity) error { id.Joined = true; return nil }); err != nil {
		n.log.Warn("the node cannot note that it is a member", "error", err)
	}
}

// refuseRemoved is for a directory whose node is no member any more.
func (id *identity) refuseRemoved(dir string) error {
	if !id.Removed {
		return nil
	}
	return fmt.Errorf("%w: node %s was removed from cluster %s, and %s is what it had then; move the directory away, and start with an empty one and a new node id",
		ErrIdentity, id.NodeID, id.ClusterID, dir)
}

// census is the configuration, and who of it answers.
type census struct {
	target  *raft.Server
	voters  []string                 // without the target
	answers map[string]controlAnswer // of other members
	self    string
}

// examine asks all members how they are. target may be empty.
func (n *Node) examine(ctx context.Context, s *session, target string) (*census, error) {
	conf := s.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return nil, fmt.Errorf("%w: read the configuration: %w", ErrNotApplied, err)
	}
	c := &census{answers: map[string]controlAnswer{}, self: n.ID()}
	servers := slices.Clone(conf.Configuration().Servers)
	members := n.gossip.members()
	type answer struct {
		id string
		a  controlAnswer
		ok bool
	}
	answers := make(chan answer, len(servers))
	for i := range servers {
		server := &servers[i]
		id := string(server.ID)
		server.Address = raft.ServerAddress(peerAddrOf(members, id, string(server.Address)))
		if id == target {
			c.target = server
		} else if server.Suffrage == raft.Voter {
			c.voters = append(c.voters, id)
		}
		go func() { // ends with its call, which examine waits for
			if id == c.self {
				answers <- answer{id: id}
				return
			}
			a, err := n.askNode(ctx, id, string(server.Address), controlRequest{Op: opState})
			answers <- answer{id, a, err == nil}
		}()
	}
	for range servers {
		if a := <-answers; a.ok {
			c.answers[a.id] = a.a
		}
	}
	if target != "" && c.target == nil {
		return nil, notMember(target)
	}
	return c, nil
}

func notMember(id string) error {
	return fmt.Errorf("%w: %q; \"raftcask cluster members\" shows the ids", errNotMember, id)
}

// checkRemoval refuses what would leave a cluster that cannot act.
func (c *census) checkRemoval(id string) error {
	if c.target.Suffrage != raft.Voter {
		return nil
	}
	if len(c.voters) == 0 {
		return fmt.Errorf("%w: %s is the last voter: without it there is no cluster; add a node first, or stop %s if the cluster is to end", ErrNotApplied, id, id)
	}
	var silent []string
	for _, v := range c.voters {
		if _, ok := c.answers[v]; !ok && v != c.self {
			silent = append(silent, v)
		}
	}
	if healthy := len(c.voters) - len(silent); healthy < len(c.voters)/2+1 {
		return fmt.Errorf("%w: without %s only %d of the %d voters would answer, and nothing could be written; bring back or replace %s first",
			ErrNotApplied, id, healthy, len(c.voters), strings.Join(silent, ", "))
	}
	return nil
}

// checkSuccessor refuses a node that could not lead at once.
func (c *census) checkSuccessor(id string, lag, applied uint64) error {
	a, answers := c.answers[id]
	switch {
	case c.target != nil && string(c.target.ID) == id && c.target.Suffrage != raft.Voter:
		return fmt.Errorf("%w: %s has no vote, so it cannot lead", ErrNotApplied, id)
	case !answers:
		return fmt.Errorf("%w: %s does not answer: choose another node, or bring it back first", ErrNotApplied, id)
	case a.LastIndex+lag < applied:
		return fmt.Errorf("%w: %s is not caught up: it has applied entry %d of %d; wait, or choose another node", ErrNotApplied, id, a.LastIndex, applied)
	}
	return nil
}

// successor is the voter that is best fit to lead.
func (c *census) successor(lag, applied uint64) (string, error) {
	best := ""
	for _, id := range c.voters {
		if id == c.self || c.checkSuccessor(id, lag, applied) != nil {
			continue
		}
		if best == "" || c.answers[id].LastIndex > c.answers[best].LastIndex {
			best = id
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: no other voter answers and is caught up, so nobody can take over from %s; look at the status", ErrNotApplied, c.self)
	}
	return best, nil
}

// changeOutcome says whether a configuration that was not reported as changed may be changed.
func changeOutcome(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: %w; try again", ErrNotApplied, err)
	}
	return fmt.Errorf("%w: %w; look at \"raftcask cluster members\" before you try again", ErrUnknown, err)
}

func findServer(servers []raft.Server, id string) (raft.Server, bool) {
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
	if i < 0 {
		return raft.Server{}, false
	}
	return servers[i], true
}

func countVoters(servers []raft.Server) int {
	voters := 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters
}

// gossipMember is a node that is alive by gossip.
func (n *Node) gossipMember(id string) (member, bool) {
	members := n.gossip.members()
	i := slices.IndexFunc(members, func(m member) bool { return m.ID == id })
	if i < 0 {
		return member{}, false
	}
	return members[i], true
}

// adminAnswer carries a result, or an error with its kind, between nodes.
type adminAnswer struct {
	AdminResult
	Kind string `json:"kind,omitempty"`
	Text string `json:"text,omitempty"`
}

// adminErrors are the kinds of errors that survive the way between nodes; the first that fits counts.
var adminErrors = []struct {
	kind string
	err  error
}{
	{"not-member", errNotMember}, {"not-leader", ErrNotLeader}, {"no-leader", ErrNoLeader}, {"unknown", ErrUnknown}, {"not-applied", ErrNotApplied},
}

func packAdmin(result AdminResult, err error) *adminAnswer {
	a := &adminAnswer{AdminResult: result}
	if err == nil {
		return a
	}
	a.Kind, a.Text = "unknown", err.Error()
	for _, k := range adminErrors {
		if errors.Is(err, k.err) {
			a.Kind, a.Text = k.kind, strings.TrimPrefix(err.Error(), k.err.Error()+": ")
			break
		}
	}
	return a
}

func (a *adminAnswer) open() (AdminResult, error) {
	if a.Kind == "" {
		return a.AdminResult, nil
	}
	for _, k := range adminErrors {
		if k.kind == a.Kind {
			return AdminResult{}, fmt.Errorf("%w: %s", k.err, a.Text)
		}
	}
	return AdminResult{}, fmt.Errorf("%w: %s", ErrUnknown, a.Text)
}

// handleAdmin answers a request that another node brought to this one, which it takes for the leader.
func (n *Node) handleAdmin(ctx context.Context, req *controlRequest) ([]byte, error) {
	a := controlAnswer{Node: n.ID(), ClusterID: n.ClusterID(), OK: true}
	if req.Admin == nil {
		return nil, errors.New("an administrative request is empty")
	}
	a.Admin = packAdmin(n.administer(ctx, *req.Admin))
	return json.Marshal(a)
}
