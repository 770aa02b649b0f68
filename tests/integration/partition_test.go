package integration

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// startSeparable starts n nodes whose peer and gossip traffic passes through a network that can be broken. Clients reach
// the nodes directly.
func startSeparable(t testing.TB, n int, flags ...string) (*cluster, *netfault.Network) {
	t.Helper()
	c, network := newSeparable(t, n, flags...)
	c.startAll()
	c.waitReady()
	return c, network
}

// newSeparable prepares such nodes and starts none.
func newSeparable(t testing.TB, n int, flags ...string) (*cluster, *netfault.Network) {
	t.Helper()
	c := newNodes(t, n)
	network := netfault.New(func(remote net.Addr) (string, error) { return callerOf(c, remote) })
	t.Cleanup(network.Close)
	var gossips []string
	for _, node := range c.nodes {
		node.flags = append(node.flags, insertInto(network, node)...)
		gossips = append(gossips, advertisedGossip(node))
	}
	c.joinThrough(gossips, flags...)
	return c, network
}

// insertInto puts the network before a node, and returns the flags that make the node known by the network's addresses.
func insertInto(network *netfault.Network, n *node) (flags []string) {
	n.t.Helper()
	peer, gossip := freeAddr(n.t), freeAddr(n.t)
	for addr, advertised := range map[string]string{n.peer: peer, n.gossip: gossip} {
		if err := network.Add(n.id, addr, advertised); err != nil {
			n.t.Fatal(err)
		}
	}
	return []string{"--peer-advertise", peer, "--gossip-advertise", gossip}
}

// callerOf finds the node whose process holds the socket with a local address: the kernel knows who called, the bytes
// do not say.
func callerOf(c *cluster, addr net.Addr) (string, error) {
	inode, err := socketInode(addr)
	if err != nil {
		return "", err
	}
	holders, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, fd := range holders {
		if link, err := os.Readlink(fd); err != nil || link != "socket:["+inode+"]" {
			continue // closed meanwhile, or another
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "cmdline"))
		if err != nil {
			continue
		}
		// Not by c.nodes: this runs beside a test that may add one.
		_, args, isServe := strings.Cut(string(line), "\x00--id\x00")
		id, args, _ := strings.Cut(args, "\x00")
		if isServe && strings.HasPrefix(args, "--data\x00"+filepath.Join(c.dir, id)+"\x00") {
			return id, nil
		}
	}
	return "", fmt.Errorf("no node has a socket at %s", addr)
}

// socketInode looks a local IPv4 address up in /proc/net/tcp, which writes it as little-endian hex.
func socketInode(addr net.Addr) (string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return "", fmt.Errorf("%s is not an IPv4 address of TCP", addr)
	}
	ip := tcp.IP.To4()
	want := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], tcp.Port)
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // only read
	const localField, inodeField = 1, 9
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if f := strings.Fields(scan.Text()); len(f) > inodeField && f[localField] == want {
			return f[inodeField], nil
		}
	}
	return "", fmt.Errorf("no socket at %s", addr)
}

// separate gives all traffic between some nodes and the others one rule for each direction. If there are no others, it comes
// between each two.
func separate(c *cluster, network *netfault.Network, some []*node, out, in netfault.Rule) {
	others := c.others(some...)
	if len(others) == 0 {
		others = c.nodes
	}
	for _, a := range some {
		for _, b := range others {
			if a != b {
				network.Set(a.id, b.id, out)
				network.Set(b.id, a.id, in)
			}
		}
	}
}

// TestPartitionedLeaderServesNoStaleRead cuts the leader off, both ways and then each way alone, while clients of every
// node go on. The others elect a leader, and the old one, which still has clients, must not answer from its past.
func TestPartitionedLeaderServesNoStaleRead(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c, network := startSeparable(t, 3)
	h := startRegisters(t, c, rng)
	h.waitForProgress(t, 100)
	cut, whole := netfault.Rule{Cut: true}, netfault.Rule{}
	for _, rules := range [][2]netfault.Rule{{cut, cut}, {cut, whole}, {whole, cut}} {
		leader := c.leader()
		t.Logf("%s is cut off: to the others %v, from them %v", leader.id, rules[0].Cut, rules[1].Cut)
		separate(c, network, []*node{leader}, rules[0], rules[1])
		other := c.others(leader)[0]
		eventually(t, readyTimeout, "the others have a leader of their own", func() error {
			s, err := statusAt(t, other.resp)
			if err == nil && (s.Leader == "" || s.Leader == leader.id) {
				err = fmt.Errorf("%s says that %q leads", other.id, s.Leader)
			}
			return err
		})
		h.waitForProgress(t, 200)
		network.Heal()
		c.waitReady()
		h.waitForProgress(t, 100)
	}
	h.stop()
	h.check(t)
}
