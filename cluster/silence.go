package cluster

import (
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
)

// raft looks for its leader only when a timer of one to two heartbeat time-outs happens to end, and a look that comes
// a moment too early is followed by another whole timer. So it stands for election one to three time-outs after the
// leader's last word; and as a node that still believes in its leader refuses a vote, it is the last of them that
// counts. Here a follower watches the silence itself, and makes raft look when it has lasted long enough.

// silence decides when that is. One goroutine uses it.
type silence struct {
	heartbeat time.Duration
	contact   time.Time     // the leader's last word
	patience  time.Duration // how long this silence may last
	looked    time.Time     // when the last look was
	told      bool          // of this silence
}

const silenceLook = 20 * time.Millisecond

// over reports, once for each silence, that it has lasted for more than 1.1 to 1.4 heartbeat time-outs: random, so that
// followers do not stand for election at the same moment and split the votes.
func (s *silence) over(now, contact time.Time, random float64) bool {
	late := now.Sub(s.looked)
	s.looked = now
	if !contact.Equal(s.contact) {
		s.contact, s.told = contact, false
		s.patience = time.Duration(float64(s.heartbeat) * (1.1 + 0.3*random))
	}
	if late > s.heartbeat/2 {
		// This process was paused, or gets no CPU: the silence may be its own.
		s.patience = max(s.patience, now.Sub(contact)+s.heartbeat)
		return false
	}
	if contact.IsZero() || s.told || now.Sub(contact) < s.patience {
		return false
	}
	s.told = true
	return true
}

// watchSilence runs until the session stops.
func (s *session) watchSilence() {
	watch := silence{heartbeat: s.group.cfg.Timing.Heartbeat, looked: time.Now()}
	every(s.ctx, silenceLook, func() {
		contact := s.raft.LastContact()
		if s.raft.State() != raft.Follower {
			contact = time.Time{}
		}
		if watch.over(time.Now(), contact, rand.Float64()) {
			s.lookForLeader()
		}
	})
}

// lookForLeader makes raft look now: it does so when its heartbeat time-out becomes shorter.
func (s *session) lookForLeader() {
	s.reload(func(conf *raft.ReloadableConfig) {
		conf.HeartbeatTimeout++
		conf.ElectionTimeout = max(conf.ElectionTimeout, conf.HeartbeatTimeout)
	})
	s.reload(func(conf *raft.ReloadableConfig) {
		conf.HeartbeatTimeout, conf.ElectionTimeout = s.group.cfg.Timing.Heartbeat, s.group.cfg.Timing.Election
	})
}

// reload changes raft's configuration, one caller at a time.
func (s *session) reload(change func(conf *raft.ReloadableConfig)) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	conf := s.raft.ReloadableConfig()
	change(&conf)
	if err := s.raft.ReloadConfig(conf); err != nil {
		s.group.log.Warn("raft refused a change of its configuration", "error", err)
	}
}
