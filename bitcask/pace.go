package bitcask

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// Background work on whole files is cut into small steps, so that nothing else waits for long: it reads and
// computes for some hundred microseconds, then sleeps until its budget allows the next step; it writes a
// little and has the disk take that, for the file system makes a sync of the log wait for what others have dirtied.
const (
	// paceStep of work is done at once, at the speed of the budget: 32 KiB at 64 MiB/s.
	paceStep = 500 * time.Microsecond
	// paceStepBytes at most, at whatever speed.
	paceStepBytes = 64 << 10
	// minSleep is the shortest: each one costs a switch of threads.
	minSleep = 2 * time.Millisecond
	// paceCredit is how much of a budget that was not used may be caught up on: time spent in a sync is not
	// made good by a burst.
	paceCredit = 5 * time.Millisecond
	// writeOutBytes are written to a file before the disk is asked to take them.
	writeOutBytes = 1 * mib
	// mergeReadBytes are read at once.
	mergeReadBytes = 128 << 10
)

// pace spreads work over time.
type pace struct {
	rate   func() float64 // bytes per second, asked for at each step
	step   int64          // bytes
	unpaid int64          // bytes, less than a step
	paid   time.Time      // when the budget has caught up with the work
}

func newPace(rate func() float64) pace { return pace{rate: rate, paid: time.Now()} }

// spend waits until the budget has caught up with n more bytes.
func (p *pace) spend(ctx context.Context, n int64) error {
	if p.unpaid += n; p.unpaid < p.step {
		return nil
	}
	rate := p.rate()
	p.step = min(paceStepBytes, int64(paceStep.Seconds()*rate))
	p.paid = p.paid.Add(time.Duration(float64(p.unpaid) / rate * float64(time.Second)))
	p.unpaid = 0
	ahead := time.Until(p.paid)
	if ahead < -paceCredit {
		p.paid = p.paid.Add(-ahead - paceCredit)
	}
	if ahead < minSleep {
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

// writeOut has the disk take a file that grows bit by bit. It promises nothing, but the sync at the end has little left to do.
type writeOut struct {
	file vfs.File
	from int64 // what is before it was handed over
}

// upTo is called after writes with the end of what was written.
func (w *writeOut) upTo(end int64) error {
	if end-w.from < writeOutBytes {
		return nil
	}
	from, to := w.from, end/vfs.PageBytes*vfs.PageBytes // the last page will be written again
	w.from = to
	err := errors.ErrUnsupported
	if mapper, ok := w.file.(vfs.Mapper); ok {
		err = mapper.WriteBack(from, to)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = w.file.Sync()
	}
	if err != nil {
		return &syncError{err}
	}
	return nil
}
