package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
)

// connection are the flags of the commands that are clients of a cluster.
type connection struct {
	addrs      []string
	addrsGiven bool
	timeout    time.Duration
	output     string
}

// register adds the flags; tables says that the command prints one, which can be
// JSON instead.
func (c *connection) register(cmd *cobra.Command, tables bool) {
	c.addrs, c.timeout, c.output = []string{"127.0.0.1:7379"}, 10*time.Second, "text"
	f := cmd.Flags()
	f.Var(hostPorts{&c.addrs, &c.addrsGiven}, "addr", "RESP addresses of the cluster")
	f.Var(span{&c.timeout}, "timeout", "how long to wait for an answer")
	if tables {
		f.Var(choice{&c.output, []string{"text", "json"}}, "output", "form of the result")
	}
}

// dial makes a client of the cluster. It connects when it is used first.
func (c *connection) dial() (*client.Client, error) {
	return client.New(client.Options{Addrs: c.addrs, Timeout: c.timeout, ClientName: "raftcask-cli"})
}

// dialNode makes a client of exactly one node. The SDK would go to the leader; here
// every connection that it makes ends at the node, which forwards what it must.
func (c *connection) dialNode(addr string) (*client.Client, error) {
	return client.New(client.Options{
		Addrs: []string{addr}, Timeout: c.timeout, ClientName: "raftcask-cli", Dialer: onlyTo(addr),
	})
}

func onlyTo(addr string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	var dialer net.Dialer
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}
}

// result is something that a command prints.
type result interface{ print(io.Writer) error }

// print writes a result in the form that was asked for.
func (c *connection) print(w io.Writer, r result) error {
	if c.output != "json" {
		return r.print(w)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// open connects import to the cluster.
func (c *connection) open() (store, error) {
	sdk, err := c.dial()
	if err != nil {
		return nil, err
	}
	return clusterStore{sdk}, nil
}

// openNode connects verify to one node.
func (c *connection) openNode(addr string) (store, error) {
	sdk, err := c.dialNode(addr)
	if err != nil {
		return nil, err
	}
	return clusterStore{sdk}, nil
}

// clusterStore is the SDK as import and verify use it.
type clusterStore struct{ sdk *client.Client }

func (s clusterStore) Set(ctx context.Context, key string, value []byte) error {
	return s.sdk.Set(ctx, key, value)
}

func (s clusterStore) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	value, err = s.sdk.Get(ctx, key)
	if errors.Is(err, client.ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}

func (s clusterStore) Keys(ctx context.Context, prefix string, fn func(key string)) error {
	for key, err := range s.sdk.Scan(ctx, globPrefix(prefix)) {
		if err != nil {
			return err
		}
		fn(key)
	}
	return nil
}

// globPrefix is the pattern of SCAN for the keys that begin with prefix.
func globPrefix(prefix string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(prefix) + "*"
}

// MaxValueBytes asks the node, which has the limit under Redis's name for it.
func (s clusterStore) MaxValueBytes(ctx context.Context) (int64, error) {
	const name = "proto-max-bulk-len"
	answer, err := s.sdk.Do(ctx, "CONFIG", "GET", name)
	if err != nil {
		return 0, err
	}
	if settings, ok := answer.(map[any]any); ok {
		if text, ok := settings[name].(string); ok {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, fmt.Errorf("the node does not tell the length of values: CONFIG GET %s was answered with %v", name, answer)
}

func (s clusterStore) Close() error { return s.sdk.Close() }

// fateOf sorts the errors of the SDK.
func fateOf(err error) fate {
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
		return unknown
	case errors.Is(err, client.ErrNotApplied), errors.Is(err, client.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return retry
	}
	return fatal
}
