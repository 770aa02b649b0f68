// Package client is the Go SDK of raftcask. It speaks the Redis protocol, finds the leader by itself and
// follows it when it moves.
//
//	c, err := client.New(client.Options{Addrs: []string{"10.0.0.1:7379", "10.0.0.2:7379", "10.0.0.3:7379"}})
//	defer c.Close()
//	err = c.Set(ctx, "greeting", []byte("hello"), client.WithTTL(time.Hour))
//	value, err := c.Get(ctx, "greeting")
//
// # What is tried again, and what is not
//
// A read is tried again, on any node, until it is answered or its time is over: it changes nothing.
//
// A write is tried again only as long as it was certainly not applied: the request never left this process (the
// node could not be reached), or the answer began with TRYAGAIN, CLUSTERDOWN, MOVED, READONLY or LOADING. An
// election takes less than a second, so that most programs never notice one.
//
// A write that was sent and then got no answer - the connection broke, time ran out, or the server answered
// UNKNOWN because it lost leadership before the commit - may or may not have been applied, and may even be
// applied later. It is never sent again: a second INCR could count twice. The method returns an *UnknownError
// (errors.Is(err, ErrOutcomeUnknown)). Read the key to find out, or make the write so that repeating it does no
// harm and say so with RetryUnknown.
//
// Every other error answer is final and comes back as a *ServerError.
//
// The time of a call ends with its context; without a deadline in the context, after Options.Timeout. Between
// tries there is a pause of a few milliseconds that doubles up to about 100 ms, with jitter. When a call gives
// up, its error says whether anything was applied:
//
//	*UnknownError      ErrOutcomeUnknown   a write that may or may not have been applied
//	*NotAppliedError   ErrNotApplied       a write that was certainly not applied
//	*UnavailableError  ErrUnavailable      a read that nobody answered
//
// # Nodes
//
// Every node answers every command, by forwarding it if need be; the SDK prefers the leader, which saves the
// hop. It asks ROLE and INFO raft on the nodes it knows when a try fails, and every few seconds while it is in
// use, and learns the addresses of the other nodes from the answers. Addrs may therefore name only some of the
// nodes. A node that cannot be reached is left alone for up to 5 s, unless no other is left.
//
// # Goroutines
//
// A Client is safe for concurrent use. Each try runs in a goroutine, so that a context that ends is obeyed at
// once; a discovery of the nodes runs in the background when it is due. Close ends and waits for them all.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Options configures a Client. Addrs is required; everything else has a default.
type Options struct {
	// Addrs are Redis addresses, host:port, of one or more nodes.
	Addrs []string
	// Username and Password authenticate, when the cluster asks for it.
	Username, Password string
	// TLS switches TLS on. ServerName, when empty, is the host of each address. Inside TLS an idle connection cannot
	// be asked whether the server has closed it: after a node has stopped, the next write may have an unknown outcome.
	TLS *tls.Config
	// ClientName is shown by CLIENT LIST on the nodes.
	ClientName string

	// Timeout limits a call whose context has no deadline, tries and pauses together. Default 10 s.
	Timeout time.Duration
	// AttemptTimeout limits one try: how long a node may take to answer. Default 3 s. The nodes give up a write
	// after less than that and say UNKNOWN; a shorter time turns slow writes into unknown ones, a longer one
	// delays the next try when a node hangs.
	AttemptTimeout time.Duration
	// DialTimeout limits connecting to a node. Default 1 s.
	DialTimeout time.Duration
	// PoolSize limits the connections to each node; more calls at a time wait for one. Default 32.
	PoolSize int
	// Dialer replaces net.Dialer, for tunnels and tests.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)
}

// fill sets defaults and validates.
func (o *Options) fill() error {
	if len(o.Addrs) == 0 {
		return errors.New("client: Addrs is empty: name at least one node, host:port")
	}
	if len(o.Addrs) > maxNodes {
		return fmt.Errorf("client: %d addresses, at most %d are allowed", len(o.Addrs), maxNodes)
	}
	for _, addr := range o.Addrs {
		if !validAddr(addr) {
			return fmt.Errorf("client: address %q is not host:port", addr)
		}
	}
	for _, d := range []struct {
		value   *time.Duration
		name    string
		initial time.Duration
	}{
		{&o.Timeout, "Timeout", 10 * time.Second},
		{&o.AttemptTimeout, "AttemptTimeout", 3 * time.Second},
		{&o.DialTimeout, "DialTimeout", time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.initial
		}
		if *d.value < 0 {
			return fmt.Errorf("client: %s is negative", d.name)
		}
	}
	if o.PoolSize == 0 {
		o.PoolSize = 32
	}
	if o.PoolSize < 0 {
		return errors.New("client: PoolSize is negative")
	}
	if o.Dialer == nil {
		o.Dialer = (&net.Dialer{}).DialContext
	}
	return nil
}

// Client is a connection to a cluster. Make it with New.
type Client struct {
	*core
	settings settings
}

// settings are what With changes.
type settings struct {
	retryUnknown bool
	stale        *StaleOption // nil: linearizable
}

// core is what a Client and its variants made by With have in common.
type core struct {
	opts    Options
	nodes   *topology
	sockets sockets

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool // guarded by mu
}

// New makes a Client. It does not connect: the first call does.
func New(opts Options) (*Client, error) {
	opts.Addrs = append([]string(nil), opts.Addrs...)
	if opts.TLS != nil {
		opts.TLS = opts.TLS.Clone()
	}
	if err := opts.fill(); err != nil {
		return nil, err
	}
	c := &core{opts: opts, sockets: sockets{open: make(map[*socket]struct{})}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.nodes = newTopology(c)
	return &Client{core: c}, nil
}

// Close ends the calls in flight - a write among them has an unknown outcome -, closes all connections and
// waits for the goroutines. It closes the Client and all variants made by With, may be called more than once and
// never fails.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.sockets.closeAll()
	c.running.Wait()
	c.nodes.close() // only now: go-redis complains in public when a connection is closed while it is in use
	return nil
}

// start runs fn in a goroutine that Close waits for. It reports false, and runs nothing, after Close.
func (c *core) start(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(fn)
	return true
}

// CallOption changes how the calls of a variant are made; see With.
type CallOption interface{ applyCall(*settings) }

// With returns a variant of the Client that shares its connections and makes its calls with other options.
func (c *Client) With(opts ...CallOption) *Client {
	variant := &Client{core: c.core, settings: c.settings}
	for _, o := range opts {
		o.applyCall(&variant.settings)
	}
	return variant
}

// RetryUnknown makes writes that set something, instead of changing it, be sent again also when the outcome of
// the try before is unknown: Set without a condition, MSet, Delete, Expire and Persist. All other writes take
// no notice of it.
//
// It is not the default because it is not harmless: while the first try was under way, or even after it,
// somebody else may have written the key, and the repetition overwrites that newer value. The count that Delete
// returns is that of its last try. Use it when a key has one writer, or when the last writer may win anyway.
//
// It is an option of Set, and of With for the others. When time runs out the error is still an *UnknownError.
func RetryUnknown() RetryUnknownOption { return RetryUnknownOption{} }

// RetryUnknownOption is what RetryUnknown returns.
type RetryUnknownOption struct{}

func (RetryUnknownOption) applyCall(s *settings) { s.retryUnknown = true }

func (RetryUnknownOption) applySet(s *setCommand) { s.retryUnknown = true }
