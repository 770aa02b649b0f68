package integration

import (
	"math/rand/v2"
	"time"

	"github.com/raftcask/raftcask/internal/vfs/diskfault"
)

// maxClockJump bounds how far a clock of the chaos run is ahead or behind, and with it how exactly the moment of an expiry is known.
const maxClockJump = 2 * time.Second

// sickFaults are those of the disks and the clocks below processes.
func sickFaults() []fault {
	return []fault{
		diskFault("slow disk", diskfault.Rule{Name: "slow", Ops: []string{"sync"}, Delay: 50 * time.Millisecond}),
		{name: "hanging disk", strike: hangDisks},
		diskFault("full disk", diskfault.Rule{Name: "full", Ops: []string{"write", "preallocate", "create"}, Error: "ENOSPC"}),
		{name: "failing sync", strike: failSyncs},
		{name: "flipped bits", strike: flipBits},
		{name: "power cut", strike: cutPowerOf},
		{name: "clock jump", strike: jumpClocks},
	}
}

// diskFault is a rule that holds until it is healed. A paused node goes on: its machine has to be told.
func diskFault(name string, rule diskfault.Rule) fault {
	return fault{name: name, strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
		f.tell(victims, diskfault.Request{Add: []diskfault.Rule{rule}})
		return func() { f.tell(victims, diskfault.Request{Clear: []string{rule.Name}}) }
	}}
}

// hangDisks is for less than the 10 s after which a node gives up, unless another fault of the same blow takes long, such as
// a stop of a node whose disk hangs.
func hangDisks(f *fleet, victims []host, rng *rand.Rand) func() {
	began := time.Now()
	heal := diskFault("", hang).strike(f, victims, rng)
	return func() {
		if time.Since(began) > 8*time.Second {
			for _, m := range victims {
				f.killed[m] = true // it may be
			}
		}
		heal()
	}
}

// tell asks the machines of those victims that run.
func (f *fleet) tell(victims []host, r diskfault.Request) {
	f.t.Helper()
	for _, n := range nodesOf(victims) {
		f.ask(n, r)
	}
}

// ask asks the machine of a node, and wakes the node for that. One that was started a moment ago does not listen yet. It is false
// when the node does not run.
func (f *fleet) ask(n *node, r diskfault.Request) (hits map[string]int, alive bool) {
	f.t.Helper()
	for deadline := time.Now().Add(readyTimeout); n.running(); time.Sleep(20 * time.Millisecond) {
		n.resume()
		hits, err := diskfault.Send(n.sick.socket, r)
		if err == nil {
			return hits, true
		}
		if time.Now().After(deadline) {
			f.t.Errorf("machine of %s: %v", n.id, err)
			return nil, true
		}
	}
	return nil, false
}

// failSyncs lets one sync of each victim fail, whether what it was to sync is on the disk or not. Such a node must end; one that
// syncs nothing, because it is cut off, is let go.
func failSyncs(f *fleet, victims []host, rng *rand.Rand) func() {
	rule := diskfault.Rule{Name: "eio", Ops: []string{"sync"}, Path: "*.seg", Error: "EIO", After: rng.IntN(2) == 0, Count: 1}
	f.tell(victims, diskfault.Request{Add: []diskfault.Rule{rule}})
	for _, m := range victims {
		f.killed[m] = true
	}
	return func() {
		for _, n := range nodesOf(victims) {
			if hits, alive := f.ask(n, diskfault.Request{}); alive && hits[rule.Name] > 0 {
				if _, err := n.proc.wait(stopTimeout); err != nil {
					f.t.Errorf("%s goes on after a failed sync: %v", n.id, err)
				}
			}
		}
		f.tell(victims, diskfault.Request{Clear: []string{rule.Name}})
	}
}

// flipBits lets the victims read wrong bytes now and then. A node may end over it, and knows better after a restart.
func flipBits(f *fleet, victims []host, _ *rand.Rand) func() {
	rule := diskfault.Rule{Name: "flip", Ops: []string{"read"}, Path: "*.seg", Flip: true, Skip: 5, Count: 5}
	f.tell(victims, diskfault.Request{Add: []diskfault.Rule{rule}})
	for _, m := range victims {
		f.killed[m] = true // it may be
	}
	return func() { f.restart(victims) }
}

// cutPowerOf takes the power from the victims, and with it all or a part of what they had not synced.
func cutPowerOf(f *fleet, victims []host, rng *rand.Rand) func() {
	var alive []*node
	for _, n := range nodesOf(victims) {
		if n.running() {
			alive = append(alive, n)
			f.killed[n] = true
		}
	}
	cutPower(f.t, rng, float64(rng.IntN(3))/2, alive...)
	return nil
}

// jumpClocks puts the clocks of the victims ahead or behind.
func jumpClocks(f *fleet, victims []host, rng *rand.Rand) func() {
	for i := range victims {
		ahead := span(rng, 2*maxClockJump) - maxClockJump
		f.tell(victims[i:i+1], diskfault.Request{Clock: &ahead})
	}
	return func() {
		var right time.Duration
		f.tell(victims, diskfault.Request{Clock: &right})
	}
}
