package integration

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// phase is a part of a run whose traffic is counted by itself: a run that only works while nothing is wrong proves little.
type phase int

const (
	quiet      phase = iota // all is well
	struck                  // faults last
	recovery                // until every kind is served again
	unmeasured              // clients are held back
)

var phaseNames = []string{"quiet", "during faults", "recovery"}

// minRateIn is the least rate of each kind, in operations a second, over all phases of a sort. Faults may stop everybody for
// as long as they last, but not all of them do.
var minRateIn = []float64{quiet: 5, struck: 1, recovery: 0}

// phases counts the traffic by phase.
type phases struct {
	now    phase
	since  time.Time
	before map[string]uint64
	length [unmeasured]time.Duration
	done   [unmeasured]map[string]uint64
}

// enter ends the present phase and begins another; done is what was done so far.
func (p *phases) enter(next phase, done map[string]uint64) {
	if p.before != nil && p.now != unmeasured {
		p.length[p.now] += time.Since(p.since)
		if p.done[p.now] == nil {
			p.done[p.now] = make(map[string]uint64)
		}
		for kind, n := range done {
			p.done[p.now][kind] += n - p.before[kind]
		}
	}
	p.now, p.since, p.before = next, time.Now(), done
}

// rate of a kind over all phases of a sort, a second.
func (p *phases) rate(of phase, kind string) float64 {
	if p.length[of] == 0 {
		return 0
	}
	return float64(p.done[of][kind]) / p.length[of].Seconds()
}

// check returns an error for each kind and sort of phase with too little traffic.
func (p *phases) check() (violations []error) {
	for of, least := range minRateIn {
		if p.length[of] == 0 && least > 0 {
			violations = append(violations, fmt.Errorf("no time was spent in the phase %q", phaseNames[of]))
		}
		for _, kind := range slices.Sorted(maps.Keys(p.done[of])) {
			if rate := p.rate(phase(of), kind); rate < least {
				violations = append(violations, fmt.Errorf("%q, %s: %.1f operations a second, want at least %v: too little traffic to find anything",
					kind, phaseNames[of], rate, least))
			}
		}
	}
	return violations
}
