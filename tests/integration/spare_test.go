package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// spareFault lets another node join, as a voter or as a read replica, and removes it when the rest is healed.
func spareFault(c *cluster, network *netfault.Network) fault {
	count := 0
	return fault{name: "another node joins and leaves", strike: func(f *fleet, _ []host, rng *rand.Rand) func() {
		count++
		var flags []string
		if rng.IntN(2) == 0 {
			flags = []string{"--non-voter"}
		}
		spare := startSpare(c, network, fmt.Sprintf("spare%d", count), flags...)
		f.gone = append(f.gone, spare)
		f.afterwards = append(f.afterwards, func() { removeSpare(c, spare) })
		return nil
	}}
}

func startSpare(c *cluster, network *netfault.Network, id string, flags ...string) *node {
	c.t.Helper()
	n := newNode(c.t, c.dir, id, flags...)
	n.flags = append(n.flags, insertInto(network, n)...)
	var gossips []string
	for _, other := range c.nodes {
		gossips = append(gossips, advertisedGossip(other))
	}
	n.flags = append(n.flags, "--join", strings.Join(gossips, ","))
	c.nodes = append(c.nodes, n) // whose end takes care of it
	n.start()
	return n
}

func advertisedGossip(n *node) string {
	return n.flags[slices.Index(n.flags, "--gossip-advertise")+1]
}

// removeSpare waits until the node is a member: it would become one after its removal otherwise.
func removeSpare(c *cluster, spare *node) {
	c.t.Helper()
	defer func() { c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n == spare }) }()
	isMember := func() (bool, error) {
		m, err := c.members()
		if err != nil {
			return false, err
		}
		for _, member := range m.Members {
			if member.ID == spare.id && member.Vote != "not-a-member" { // but seen by gossip only
				return true, nil
			}
		}
		return false, nil
	}
	eventually(c.t, readyTimeout, spare.id+" has joined", func() error {
		in, err := isMember()
		if err == nil && !in {
			err = fmt.Errorf("it is no member yet")
		}
		return err
	})
	eventually(c.t, readyTimeout, spare.id+" is removed", func() error {
		o := runCLI(c.t, readyTimeout, "cluster", "remove", spare.id, "--addr", c.addrList())
		in, err := isMember()
		if err == nil && in {
			err = fmt.Errorf("it is a member still: %v", o)
		}
		return err
	})
	spare.kill()
	c.checkLog(spare)
}
