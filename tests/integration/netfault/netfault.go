// Package netfault is a network that can be broken: it stands between the nodes of a test, TCP and UDP, and treats what one
// node sends to another as the rule of that direction says.
//
//	network := netfault.New(source)         // source tells which node opened a TCP connection
//	err := network.Add("n1", realAddr, advertisedAddr)
//	network.Set("n1", "n2", netfault.Rule{Cut: true}) // n2 hears n1 no more; n1 still hears n2
//	network.Heal()
//
// A node listens on its real address and advertises the one that the network listens on, so that all others come through here.
// A TCP connection has two directions, each under its own rule. A cut holds its bytes back, as retransmission does, and they
// arrive after the cut; a datagram that meets a cut is gone. One goroutine accepts per TCP port, one receives per UDP port, and
// each TCP connection has two per direction; Close ends them all and waits.
package netfault

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Rule is what happens to everything that one node sends to another. The zero value lets it pass.
type Rule struct {
	Cut   bool          // nothing arrives
	Delay time.Duration // each byte arrives this much later
	Loss  float64       // share of the datagrams that are lost, 0 to 1; TCP repairs loss, so its bytes do not notice
	// BytesPerSecond limits each TCP connection; 0: no limit. Datagrams pass: gossip is far below any limit of interest.
	BytesPerSecond int
}

// Source names the node that opened a TCP connection from an address, or fails when none did.
type Source func(remote net.Addr) (node string, err error)

// Network is a set of nodes and the rules between them.
type Network struct {
	source Source
	wg     sync.WaitGroup
	done   chan struct{} // closed by Close

	mu sync.Mutex
	// mu guards what follows; nothing blocks while it is held.
	rules     map[direction]Rule
	changed   chan struct{} // closed and replaced when rules change
	datagrams map[string]string
	links     map[*link]struct{}
	listeners []interface{ Close() error }
	closed    bool
}

type direction struct{ from, to string }

// New returns a network without nodes, in which everything passes.
func New(source Source) *Network {
	return &Network{
		source: source, done: make(chan struct{}), rules: map[direction]Rule{}, changed: make(chan struct{}),
		datagrams: map[string]string{}, links: map[*link]struct{}{},
	}
}

// Add listens on advertised, TCP and UDP, and forwards what arrives to the node at its real address. A datagram's sender is the
// node whose real address it comes from.
func (n *Network) Add(node, realAddr, advertised string) error {
	target, err := net.ResolveUDPAddr("udp", realAddr)
	if err != nil {
		return fmt.Errorf("address of %s: %w", node, err)
	}
	listenAddr, err := net.ResolveTCPAddr("tcp", advertised)
	if err != nil {
		return fmt.Errorf("advertised address of %s: %w", node, err)
	}
	tcp, err := net.ListenTCP("tcp", listenAddr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", node, err)
	}
	udp, err := net.ListenPacket("udp", advertised)
	if err != nil {
		_ = tcp.Close() // nothing was accepted
		return fmt.Errorf("listen for %s: %w", node, err)
	}
	n.mu.Lock()
	n.datagrams[target.String()] = node
	n.listeners = append(n.listeners, tcp, udp)
	n.mu.Unlock()
	n.wg.Go(func() { n.accept(tcp, node, &net.TCPAddr{IP: target.IP, Port: target.Port, Zone: target.Zone}) })
	n.wg.Go(func() { n.receive(udp, node, target) })
	return nil
}

// Set replaces the rule for what from sends to to.
func (n *Network) Set(from, to string, r Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[direction{from, to}] = r
	n.announceLocked()
}

// Heal removes all rules.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
	n.announceLocked()
}

func (n *Network) announceLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Reset breaks the TCP connections between two nodes, whichever of them opened them, and returns how many there were.
func (n *Network) Reset(a, b string) int {
	n.mu.Lock()
	links := slices.Collect(maps.Keys(n.links))
	n.mu.Unlock()
	count := 0
	for _, l := range links {
		if (l.from == a && l.to == b) || (l.from == b && l.to == a) {
			l.reset()
			count++
		}
	}
	return count
}

// Close breaks all connections and waits for the end of every goroutine.
func (n *Network) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	close(n.done)
	for _, l := range n.listeners {
		_ = l.Close() // ends its goroutine, which is all that matters
	}
	links := slices.Collect(maps.Keys(n.links))
	n.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
	n.wg.Wait()
}

// rule returns the rule of a direction, and the channel that tells of the next change.
func (n *Network) rule(from, to string) (Rule, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rules[direction{from, to}], n.changed
}

// receive forwards datagrams until the socket is closed. The answer to a datagram goes to the sender's advertised address, which
// is in it, so that no way back has to be kept.
func (n *Network) receive(udp net.PacketConn, to string, target net.Addr) {
	buf := make([]byte, 64<<10) // no datagram is longer
	for {
		size, sender, err := udp.ReadFrom(buf)
		if err != nil {
			select {
			case <-n.done:
				return
			default:
				continue // the report that an earlier datagram met a closed port
			}
		}
		n.mu.Lock()
		from := n.datagrams[sender.String()]
		n.mu.Unlock()
		rule, _ := n.rule(from, to)
		if rule.Cut || rand.Float64() < rule.Loss {
			continue
		}
		packet := slices.Clone(buf[:size])
		send := func() { _, _ = udp.WriteTo(packet, target) } // may be lost, as any datagram
		if rule.Delay == 0 {
			send()
			continue
		}
		n.wg.Go(func() {
			select {
			case <-time.After(rule.Delay):
				send()
			case <-n.done:
			}
		})
	}
}
