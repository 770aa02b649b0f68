package bitcask

import "time"

// How far a replicated log is committed is said by each frame for those before it. Of the newest entries only the process knows,
// so that whoever reads the files of a store at rest (a backup, a digest, a dump) would miss what was acknowledged last. When a
// store comes to rest its manifest says it too.

// restsAfter is how long nothing must be committed for that. A busy store writes no manifest for it.
const restsAfter = 200 * time.Millisecond

// noteCommitSoon tells noteCommits that there is something to note.
func (s *Store) noteCommitSoon() {
	if !s.opts.Replicated {
		return // appended is committed
	}
	select {
	case s.noteNow <- struct{}{}:
	default:
	}
}

// noteCommits runs until Close, which writes the manifest itself.
func (s *Store) noteCommits() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.noteNow:
		}
		for before := uint64(0); ; {
			index, _ := s.Applied()
			if index == before {
				break
			}
			before = index
			if !s.wait(restsAfter) {
				return
			}
		}
		if err := s.noteCommit(); err != nil && !isNoSpace(err) && s.poison.Load() == nil {
			s.logger.Warn("what is committed cannot be noted", "dir", s.path, "error", err)
		}
	}
}

// noteCommit makes the manifest say what is committed.
func (s *Store) noteCommit() error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if index, _ := s.Applied(); index == s.disk.manifest.AppliedIndex || s.poison.Load() != nil {
		return nil
	}
	return s.editLocked(func(*manifest) {})
}

// wait returns false when Close interrupts it.
func (s *Store) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
