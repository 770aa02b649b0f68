package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// fault is one thing that can be done to some nodes. fleet.heal ends what it began. What has to be done before that, strike
// returns; what has to be done after it, strike appends to fleet.afterwards.
type fault struct {
	name   string
	strike func(f *fleet, victims []host, rng *rand.Rand) (heal func())
	// all tells that it strikes every node, whoever the victims are.
	all bool
	// once tells that it is over when strike returns.
	once bool
}

// commonFaults are those that processes and containers share.
func commonFaults() []fault {
	return []fault{
		{name: "kill -9", strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
			f.kill(victims)
			return nil
		}},
		{name: "kill -9, start at once", once: true, strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
			f.restart(victims)
			return nil
		}},
		{name: "restart all", all: true, once: true, strike: func(f *fleet, _ []host, _ *rand.Rand) func() {
			f.restart(f.hosts)
			return nil
		}},
		{name: "graceful stop", strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
			for _, m := range victims {
				if m.running() {
					m.resume() // it has to hear the signal
					f.killed[m] = true
					m.terminate()
				}
			}
			return nil
		}},
		{name: "pause", strike: func(_ *fleet, victims []host, _ *rand.Rand) func() {
			for _, m := range victims {
				if m.running() {
					m.pause()
				}
			}
			return nil
		}},
		{name: "transfer leadership", once: true, strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
			askForTransfer(f, victims[0].name())
			return nil
		}},
	}
}

func (f *fleet) kill(hosts []host) {
	for _, m := range hosts {
		f.killed[m] = true
		m.kill()
	}
}

func (f *fleet) restart(hosts []host) {
	f.kill(hosts)
	for _, m := range hosts {
		m.start()
		delete(f.killed, m)
	}
}

// askForTransfer asks the leader to hand over. That it may refuse, or be gone, is part of the game.
func askForTransfer(f *fleet, to string) {
	for _, m := range f.hosts {
		c := rawCaller{addr: m.respAddr()}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		answers := c.call(ctx, []string{"RAFTCASK", "TRANSFER", to})
		cancel()
		c.close()
		if _, isError := answers[0].reply.(redisError); answers[0].outcome == acknowledged && !isError {
			return
		}
	}
}

// draw is one fault, or two or three that overlap.
func (f *fleet) draw(rng *rand.Rand) []fault {
	count := 1
	switch rng.IntN(10) {
	case 0:
		count = 3
	case 1, 2, 3:
		count = 2
	}
	var chosen []fault
	for _, i := range rng.Perm(len(f.faults))[:min(count, len(f.faults))] { // none twice: a machine takes a rule once
		chosen = append(chosen, f.faults[i])
	}
	return chosen
}

// blow is what was done to the cluster at one time.
type blow struct {
	told     []string
	majority bool   // was left whole
	lasting  bool   // until it is healed
	heal     func() // ends all of it
}

// strike does all the chosen faults, shortly after another, to the leader only or to whom the dice say.
func (f *fleet) strike(rng *rand.Rand, chosen []fault, leaderOnly bool) blow {
	b, leader := blow{}, f.leader() // who led before the first fault: after it, nobody may be there to ask
	hit, heals := map[host]bool{}, []func(){}
	for i, one := range chosen {
		if i > 0 {
			time.Sleep(span(rng, 500*time.Millisecond)) // the distance is part of the fault
		}
		victims := f.victims(rng, leader)
		switch {
		case one.all:
			victims = f.hosts
		case leaderOnly && leader != nil:
			victims = []host{leader}
		}
		b.told = append(b.told, describeFault(one, victims))
		b.lasting = b.lasting || !one.once
		if more := one.strike(f, victims, rng); more != nil {
			heals = append(heals, more)
		}
		for _, m := range victims {
			hit[m] = true
		}
	}
	b.majority = 2*len(hit) < len(f.hosts)
	b.heal = func() {
		for _, more := range heals {
			more()
		}
		f.heal()
		for _, more := range f.afterwards {
			more()
		}
		f.afterwards = nil
	}
	return b
}

func describeFault(one fault, victims []host) string {
	if one.all {
		return one.name
	}
	var names []string
	for _, m := range victims {
		names = append(names, m.name())
	}
	return fmt.Sprintf("%s (%s)", one.name, strings.Join(names, " "))
}
