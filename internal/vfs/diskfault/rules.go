package diskfault

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// Rule strikes the operations that it matches. Of several rules the first that matches does.
type Rule struct {
	Name  string   // unique
	Ops   []string // kinds of operation, by the names of vfs.OpKind; empty: all
	Path  string   // pattern (filepath.Match) for the base name of the file, or of the new name of a rename or link; empty: all
	Skip  int      // operations that match and pass, first
	Count int      // operations struck after those; 0: all

	// What happens. Delay and Stall come before the operation, and may be alone.
	Delay time.Duration
	Stall bool // until the rule is cleared
	Error string
	After bool // the error, or the kill, comes after the operation took effect
	Flip  bool // one bit of what is read or written is flipped
	Kill  bool // SIGKILL to the own process
}

// failures by the name that Rule.Error has.
var failures = map[string]error{
	"EIO": &fs.PathError{Op: "fault", Path: "disk", Err: syscall.EIO}, "ENOSPC": &fs.PathError{Op: "fault", Path: "disk", Err: syscall.ENOSPC},
}

func (r *Rule) check() error {
	if _, known := failures[r.Error]; r.Error != "" && !known {
		return fmt.Errorf("rule %q: error %q is not known", r.Name, r.Error)
	}
	if _, err := filepath.Match(r.Path, ""); err != nil {
		return fmt.Errorf("rule %q: path %q: %w", r.Name, r.Path, err)
	}
	if r.Name == "" || !r.Stall && !r.Flip && !r.Kill && r.Error == "" && r.Delay == 0 {
		return fmt.Errorf("rule %q has no name, or nothing happens", r.Name)
	}
	return nil
}

func (r *Rule) matches(op vfs.Op) bool {
	if len(r.Ops) > 0 && !slices.Contains(r.Ops, op.Kind.String()) {
		return false
	}
	if r.Path == "" {
		return true
	}
	name := op.Name
	if op.To != "" {
		name = op.To
	}
	ok, _ := filepath.Match(r.Path, filepath.Base(name)) // the pattern was checked
	return ok
}

// ruleSet is the rules in force.
type ruleSet struct {
	mu    sync.Mutex
	rules []*activeRule
}

type activeRule struct {
	Rule
	seen, struck int
	cleared      chan struct{}
}

func (s *ruleSet) add(rules []Rule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		if err := r.check(); err != nil {
			return err
		}
		if slices.ContainsFunc(s.rules, func(a *activeRule) bool { return a.Name == r.Name }) {
			return fmt.Errorf("rule %q is in force already", r.Name)
		}
		s.rules = append(s.rules, &activeRule{Rule: r, cleared: make(chan struct{})})
	}
	return nil
}

// clear takes rules back and lets go what they hold up.
func (s *ruleSet) clear(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = slices.DeleteFunc(s.rules, func(r *activeRule) bool {
		gone := slices.Contains(names, r.Name) || slices.Contains(names, "*")
		if gone {
			close(r.cleared)
		}
		return gone
	})
}

func (s *ruleSet) hits() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	hits := make(map[string]int, len(s.rules))
	for _, r := range s.rules {
		hits[r.Name] = r.struck
	}
	return hits
}

// strike is the hook of the disk.
func (s *ruleSet) strike(op vfs.Op) *vfs.Fault {
	r := s.find(op)
	if r == nil {
		return nil
	}
	if r.Delay > 0 {
		time.Sleep(r.Delay) // the length is the fault
	}
	if r.Stall {
		<-r.cleared
	}
	if r.Kill && !r.After {
		killSelf()
	}
	switch {
	case r.Kill:
		return &vfs.Fault{AfterPersisting: true, Then: killSelf}
	case r.Flip:
		return &vfs.Fault{Mangle: flipBit}
	case r.Error != "":
		return &vfs.Fault{Err: failures[r.Error], AfterPersisting: r.After}
	}
	return nil
}

func (s *ruleSet) find(op vfs.Op) *activeRule {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if !r.matches(op) {
			continue
		}
		if r.seen++; r.seen <= r.Skip || r.Count > 0 && r.struck == r.Count {
			continue
		}
		r.struck++
		return r
	}
	return nil
}

func flipBit(p []byte) {
	if len(p) > 0 {
		p[rand.IntN(len(p))] ^= 1 << rand.IntN(8)
	}
}

// killSelf is the end of the process, as by kill -9: nothing is run any more.
func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot fail for the own process
	select {}
}
