package server

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/cluster"
)

// Config of a node. DataDir, the four addresses and Logger are required; zero
// fields otherwise mean the defaults of the packages below.
type Config struct {
	// ID names the node for all time. Empty: the id in the data directory, which is
	// generated the first time.
	ID string
	// DataDir is created if it does not exist. One process at a time may have it.
	DataDir string

	// Resp, HTTP, Peer and Gossip are the node's four ports.
	Resp, HTTP, Peer, Gossip Address

	// Join lists gossip addresses of other nodes.
	Join []string
	// BootstrapExpect is the number of nodes that form a new cluster; 0 only joins.
	BootstrapExpect int

	// NonVoter makes the node a read replica: it joins, and never votes.
	NonVoter bool

	// MaxValueBytes of one value; default 8 MiB, at most 64 MiB. The same on every
	// node: the leader decides, and any node may lead.
	MaxValueBytes int
	// MaxClients of the RESP port. Each costs two buffers and a goroutine.
	MaxClients int
	// SegmentBytes at which a file of the store is sealed.
	SegmentBytes int64
	// SnapshotBytes of log after which a snapshot is taken, and TrailingBytes of
	// log that are kept behind it for followers that were away.
	SnapshotBytes, TrailingBytes int64

	Version string // of the program
	Logger  *slog.Logger
	// Now is the clock that expiry times are judged by; default time.Now.
	Now func() time.Time
}

// Address of a port: where this node listens, and what it tells others.
type Address struct {
	Bind string // host:port; port 0 picks one
	// Advertise is host:port as others reach it; default: Bind, with an address of
	// this machine for a host that means all of them.
	Advertise string
}

func (c *Config) engine() bitcask.Options {
	return bitcask.Options{MaxValueBytes: c.MaxValueBytes, SegmentBytes: c.SegmentBytes, Logger: c.Logger, Now: c.Now}
}

func (c *Config) limits() cluster.Limits {
	return cluster.Limits{SnapshotBytes: c.SnapshotBytes, TrailingBytes: c.TrailingBytes}
}

// withDefaults fills the fields that this package itself looks at.
func (c Config) withDefaults() Config {
	const defaultMaxValueBytes = 8 << 20
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = defaultMaxValueBytes
	}
	if c.MaxClients == 0 {
		c.MaxClients = 10000
	}
	return c
}

// advertised returns what to tell others about a port. actual is where it listens.
func (a Address) advertised(actual net.Addr) (string, error) {
	_, port, err := net.SplitHostPort(actual.String())
	if err != nil {
		return "", fmt.Errorf("own address %s: %w", actual, err)
	}
	given := a.Advertise
	if given == "" {
		given = a.Bind
	}
	host, givenPort, err := net.SplitHostPort(given)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", given, err)
	}
	if n, err := strconv.Atoi(givenPort); err == nil && n != 0 && a.Advertise != "" {
		port = givenPort // behind a translation of ports, only the operator knows it
	}
	if anyHost(host) {
		if host, err = ownHost(); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

// anyHost reports whether host means all addresses of this machine.
func anyHost(host string) bool {
	if host == "" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsUnspecified()
}

// ownHost picks the address by which other machines most likely reach this one:
// the first private one, else the first other one, else loopback.
func ownHost() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("find an address of this machine to advertise: %w", err)
	}
	best, bestRank := "127.0.0.1", 0
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if rank := hostRank(prefix.Addr().Unmap()); rank > bestRank {
			best, bestRank = prefix.Addr().Unmap().String(), rank
		}
	}
	return best, nil
}

func hostRank(a netip.Addr) int {
	switch {
	case a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsValid():
		return 0
	case a.Is4() && a.IsPrivate():
		return 3
	case a.Is4():
		return 2
	}
	return 1
}
