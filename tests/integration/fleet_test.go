package integration

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// host is one node as the chaos test treats it, whatever it runs in.
type host interface {
	name() string
	respAddr() string // as clients reach it
	start()
	kill()
	terminate() // SIGTERM, and wait for the end
	pause()
	resume()
	running() bool
	ready() error
	log() string
}

func (n *node) name() string     { return n.id }
func (n *node) respAddr() string { return n.resp }

// terminate is stop for a node that may be cut off, and then cannot hand its leadership over in time.
func (n *node) terminate() {
	n.t.Helper()
	err := n.proc.signal(syscall.SIGTERM)
	if err == nil {
		_, err = n.proc.wait(stopTimeout)
	}
	if err != nil {
		n.t.Errorf("stop %s: %v", n.id, err)
	}
}

// fleet is a cluster that can be broken: processes behind a network of ours, or containers.
type fleet struct {
	t      testing.TB
	hosts  []host
	faults []fault
	mend   func()        // heals the network
	skew   time.Duration // how far apart a fault may put the clocks
	killed map[host]bool // or may have ended over what was done to them
	// afterwards is done when all is healed.
	afterwards []func()
	gone       []host   // were members for a while
	deserted   []string // nodes that ended by themselves
}

// processFleet is n processes.
func processFleet(t testing.TB, n int, flags ...string) *fleet {
	t.Helper()
	c, network := newSeparable(t, n, flags...)
	f := &fleet{t: t, mend: network.Heal, killed: map[host]bool{}}
	f.faults = append(commonFaults(), networkFaults(c, network)...)
	f.faults = append(f.faults, spareFault(c, network))
	if os.Getenv("RAFTCASK_BIN") == "" { // a binary that was given has no machine below it
		for _, node := range c.nodes {
			makeSick(node)
		}
		f.skew = maxClockJump
		f.faults = append(f.faults, sickFaults()...)
	}
	c.startAll()
	c.waitReady()
	for _, node := range c.nodes {
		f.hosts = append(f.hosts, node)
	}
	return f
}

func (f *fleet) addrs() []string {
	var addrs []string
	for _, m := range f.hosts {
		addrs = append(addrs, m.respAddr())
	}
	return addrs
}

// leader returns the host that leads, nil if none does or nobody knows.
func (f *fleet) leader() host {
	s, err := statusAt(f.t, strings.Join(f.addrs(), ","))
	if err != nil {
		return nil // in the middle of an election
	}
	for _, m := range f.hosts {
		if m.name() == s.Leader {
			return m
		}
	}
	return nil
}

// heal ends everything that was done to the nodes and the network.
func (f *fleet) heal() {
	f.mend()
	for _, m := range f.hosts {
		if m.running() {
			delete(f.killed, m)
			m.resume()
			continue
		}
		if !f.killed[m] {
			f.deserted = append(f.deserted, m.name())
			lines := strings.Split(strings.TrimRight(m.log(), "\n"), "\n")
			f.t.Logf("%s ended by itself:\n%s", m.name(), strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
		delete(f.killed, m)
		m.start()
	}
}

func (f *fleet) waitReady() {
	f.t.Helper()
	for _, m := range f.hosts {
		eventually(f.t, readyTimeout, m.name()+" is ready", m.ready)
	}
}

func (f *fleet) logs() map[string]string {
	logs := make(map[string]string)
	for _, m := range append(slices.Clone(f.hosts), f.gone...) {
		logs[m.name()] = m.log()
	}
	return logs
}

// victims draws one node, at times two or all, and among them rather often the leader: leaders hold what followers lack.
func (f *fleet) victims(rng *rand.Rand, leader host) []host {
	count := 1
	switch rng.IntN(10) {
	case 0:
		count = len(f.hosts)
	case 1, 2:
		count = 2
	}
	list := append([]host(nil), f.hosts...)
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if rng.IntN(2) == 0 {
		for i, m := range list {
			if m == leader {
				list[0], list[i] = list[i], list[0]
			}
		}
	}
	return list[:count]
}

// networkFaults are those of the network between processes.
func networkFaults(c *cluster, network *netfault.Network) []fault {
	between := func(name string, out, in netfault.Rule) fault {
		return fault{name: name, strike: func(_ *fleet, victims []host, _ *rand.Rand) func() {
			separate(c, network, nodesOf(victims), out, in)
			return nil
		}}
	}
	cut, whole := netfault.Rule{Cut: true}, netfault.Rule{}
	return []fault{
		between("cut off", cut, cut),
		between("cut what they send", cut, whole),
		between("cut what they hear", whole, cut),
		between("slow network", netfault.Rule{Delay: 80 * time.Millisecond}, netfault.Rule{Delay: 20 * time.Millisecond}),
		between("lossy network", netfault.Rule{Loss: 0.3}, netfault.Rule{Loss: 0.3, Delay: 5 * time.Millisecond}),
		between("thin network", netfault.Rule{BytesPerSecond: 20_000}, netfault.Rule{BytesPerSecond: 20_000}),
		{name: "reset connections", strike: func(_ *fleet, victims []host, _ *rand.Rand) func() {
			for _, a := range victims {
				for _, b := range c.nodes {
					network.Reset(a.name(), b.id)
				}
			}
			return nil
		}},
	}
}

func nodesOf(hosts []host) (nodes []*node) {
	for _, m := range hosts {
		nodes = append(nodes, m.(*node))
	}
	return nodes
}
