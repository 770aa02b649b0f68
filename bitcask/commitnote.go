package bitcask

import "time"

// How far a replicated log is committed is said by each frame for those before it. Of the newest entries only the process knows,
// so that whoever reads the files of a store at rest (a backup, a digest, a dump) would miss what was acknowledged last. When a
// store comes to rest its manifest says it too.

const (
	// restsAfter is how long nothing must be committed for that. A busy store writes no manifest for it.
	restsAfter = 200 * time.Millisecond
	// noteRetry is when it is tried again on a disk that was full, or failed.
	noteRetry = 5 * time.Second
)

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
		if err := s.noteCommit(); err != nil {
			s.logger.Warn("what is committed cannot be noted: a backup of the files may lack the last write", "dir", s.path, "error", err)
			if !s.wait(noteRetry) {
				return
			}
			s.noteCommitSoon()
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
	err := s.writeEdit(func(*manifest) {})
	if isNoSpace(err) {
		return err // no write was refused, and merges need not make room for this one
	}
	if err != nil {
		return s.failWrite(err)
	}
	return nil
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
