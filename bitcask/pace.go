package bitcask

import (
	"context"
	"runtime"
	"time"
)

// Background work on whole files is cut into small steps, so that nothing else waits for long: it reads and
// computes for some hundred microseconds, then sleeps until its budget allows the next step; it writes a
// little and syncs that, for the file system makes a sync of the log wait for what others have dirtied.
const (
	// paceStep of work is done at once, at the speed of the budget: 32 KiB at 64 MiB/s.
	paceStep = 500 * time.Microsecond
	// paceStepBytes at most, at whatever speed.
	paceStepBytes = 64 << 10
	// paceCredit is how much of a budget that was not used may be caught up on: time spent in a sync is not
	// made good by a burst.
	paceCredit = 5 * time.Millisecond
	// syncStepBytes are written to a file before it is synced.
	syncStepBytes = 1 * mib
	// mergeReadBytes are read at once.
	mergeReadBytes = 128 << 10
)

// pace spreads work over time.
type pace struct {
	bytesPerSecond int64
	began          time.Time
	spent          int64
	looked         int64 // what was spent when the clock was last looked at
}

// spend waits until the budget has caught up with n more bytes.
func (p *pace) spend(ctx context.Context, n int64) error {
	p.spent += n
	if p.spent-p.looked < min(paceStepBytes, int64(paceStep.Seconds()*float64(p.bytesPerSecond))) {
		return nil
	}
	p.looked = p.spent
	ahead := time.Duration(float64(p.spent)/float64(p.bytesPerSecond)*float64(time.Second)) - time.Since(p.began)
	if ahead < -paceCredit {
		p.began = p.began.Add(-ahead - paceCredit)
	}
	if ahead < time.Millisecond { // less than a timer is good for
		runtime.Gosched()
		return nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
