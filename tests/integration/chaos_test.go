package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// chaosFlags make small files and a short log: sealing, merging, snapshots and their installation are all met by some fault.
var chaosFlags = []string{"--segment-bytes", "1MiB", "--snapshot-bytes", "2MiB", "--trailing-bytes", "1MiB"}

// TestChaos breaks a live cluster again and again while clients of three sorts do everything that they can, and then asks
// whether one order of all operations explains every answer, whether stale reads told their age truthfully, whether all replicas
// hold the same, whether any term had two leaders, and whether work went on soon after each fault.
func TestChaos(t *testing.T) {
	rng := newRand(t)
	f := processFleet(t, chaosNodes(t), chaosFlags...)
	runChaos(t, f, rng, chaosDuration(t, 25*time.Second), "processes")
}

// chaosDuration is how long to go on: RAFTCASK_CHAOS_DURATION, or the short time that `make test` has.
func chaosDuration(t testing.TB, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("RAFTCASK_CHAOS_DURATION")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("RAFTCASK_CHAOS_DURATION: %v", err)
	}
	return d
}

// onlyInChaos skips what takes long, unless make chaos runs it.
func onlyInChaos(t *testing.T) {
	t.Helper()
	if os.Getenv("RAFTCASK_CHAOS_DURATION") == "" {
		t.Skip("takes long: part of make chaos")
	}
}

func chaosNodes(t testing.TB) int {
	t.Helper()
	text := os.Getenv("RAFTCASK_CHAOS_NODES")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RAFTCASK_CHAOS_NODES: %q is no number of nodes", text)
	}
	return n
}

const (
	// segmentLength is the time between two comparisons of the replicas.
	segmentLength = time.Minute
	// healBound is how soon after the end of a fault clients of every kind must have been served. Restarted nodes have to open
	// their stores and elect a leader; a client may have to wait for its operation to end first (opTimeout).
	healBound = 30 * time.Second
	// progressPerPhase is how many operations of each kind every quiet phase must see.
	progressPerPhase = 5
	// faultLength is longer than the longest election time-out (1 s): a leader that is away for so long is deposed.
	faultLength = 1200 * time.Millisecond
	// longFault is long enough for an election: while it lasts, a majority that it leaves whole must serve.
	longFault = 4 * time.Second
	// minRate is operations a second, faults included: a tenth of what two cores do under the race detector.
	minRate = 50
)

// chaos is one run.
type chaos struct {
	*traffic
	fleet    *fleet
	rng      *rand.Rand
	checker  *checker
	settled  map[string]any // what keys of earlier segments hold for good
	report   *report
	sequence []fault // to be struck first, one at a time, each at the leader
}

// runChaos breaks the fleet for about so long, each of its faults at least once and at the leader, and fails the test for every violation.
func runChaos(t *testing.T, f *fleet, rng *rand.Rand, duration time.Duration, title string) {
	t.Helper()
	x := &chaos{
		traffic: startTraffic(t, f.addrs(), rng, kinds, true), fleet: f, rng: rng,
		settled: map[string]any{}, report: newReport(title, f), sequence: f.faults,
	}
	x.slack += f.skew // nothing was checked yet
	x.checker = &checker{semantics: x.semantics}
	x.enter(quiet)
	defer x.finish(t)
	for deadline := time.Now().Add(duration); time.Now().Before(deadline) || len(x.sequence) > 0; {
		end := time.Now().Add(segmentLength)
		for time.Now().Before(end) && (time.Now().Before(deadline) || len(x.sequence) > 0) {
			x.step()
		}
		x.checkpoint()
	}
	x.stop()
}

func (x *chaos) enter(next phase) { x.report.enter(next, x.done()) }

// step does one thing, or several that overlap, lets it last, heals it, and waits for everybody to go on.
func (x *chaos) step() {
	x.t.Helper()
	chosen, first := x.fleet.draw(x.rng), len(x.sequence) > 0
	if first {
		chosen, x.sequence = x.sequence[:1], x.sequence[1:]
	}
	x.enter(struck)
	before := x.total()
	b := x.fleet.strike(x.rng, chosen, first)
	x.t.Logf("%6.1fs %s", time.Since(x.begin).Seconds(), strings.Join(b.told, " + "))
	length := time.Duration(0)
	if b.lasting {
		length = faultLength/4 + span(x.rng, 2*faultLength)
		switch {
		case first:
			length = faultLength
		case x.rng.IntN(6) == 0:
			length = longFault + span(x.rng, 2*time.Second)
		}
	}
	time.Sleep(length) // the length is the fault
	during := x.total() - before
	b.heal()
	x.report.noteFault(chosen, during)
	if during == 0 && b.majority && length >= longFault {
		x.report.violate(fmt.Errorf("a majority was whole, and nobody was served for %v: %s", length, strings.Join(b.told, " + ")))
	}
	x.recover(strings.Join(b.told, " + "))
}

// recover waits until clients of every kind are served again.
func (x *chaos) recover(after string) {
	x.t.Helper()
	x.enter(recovery)
	healed, since, first := time.Now(), x.done(), x.total()
	eventually(x.t, healBound, "anybody is served after "+after, func() error {
		if x.total() == first {
			return fmt.Errorf("nothing was done")
		}
		return nil
	})
	gap := time.Since(healed)
	x.awaitEach(since, progressPerPhase, healBound)
	x.enter(quiet)
	x.report.noteRecovery(after, gap, time.Since(healed))
	longest := time.Second
	if len(x.sequence) > 0 {
		longest /= 4
	}
	time.Sleep(span(x.rng, longest)) // a quiet phase of random length
}

// checkpoint holds the clients back when all is healed, compares the replicas, looks at what was written before, and gives the
// histories away to be checked.
func (x *chaos) checkpoint() {
	x.t.Helper()
	x.fleet.waitReady()
	x.enter(unmeasured)
	resume := x.quiesce()
	defer x.enter(quiet)
	defer resume()
	if err := x.fleet.compareReplicas(); err != nil {
		x.report.violate(err)
	}
	x.report.comparisons++
	x.readAll()
	x.segment.Add(1)
	x.checker.begin(x.history.take())
	x.report.violate(x.lies.take()...)
	x.report.violate(x.checkSettled()...)
	terms, err := leaderPerTerm(x.fleet.logs())
	if err != nil {
		x.report.violate(err)
	}
	x.report.terms = terms
}

// finish ends the run, however it went, and writes the report.
func (x *chaos) finish(t *testing.T) {
	t.Helper()
	x.stop()
	x.checker.begin(x.history.take()) // of a run that was cut short
	operations, violations := x.checker.result()
	x.report.violate(violations...)
	x.report.end(x.traffic, operations)
	for _, name := range x.fleet.deserted {
		x.report.violate(fmt.Errorf("%s ended by itself", name))
	}
	if !t.Failed() { // else the time is not that of a whole run
		x.report.checkRates()
	}
	x.report.publish(t)
}

// span draws a duration below d.
func span(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
