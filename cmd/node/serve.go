package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/cmd/node/server"
)

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// serveOptions are the settings of a node as they are written on the command line.
type serveOptions struct {
	config     string
	id, data   string
	resp, http string
	peer       string
	gossip     string
	advertise  struct{ resp, http, peer, gossip string }
	expect     int
	join       []string
	joinGiven  bool
	nonVoter   bool

	maxValue, segment, snapshot, trailing int64
	maxClients                            int

	stopTimeout         time.Duration
	logLevel, logFormat string
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

func newServe() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long: `Run one node of a cluster. The first start of a new cluster needs the same
--bootstrap-expect on every node, and --join with a gossip address, so that every
node can be found. Keep both for every later start. A node that is in a cluster does
not need them, but one that finds its directory empty, as when a volume was not
mounted, founds a new cluster of its own without them.

Every flag can also be given by an environment variable (--max-value-bytes is
RAFTCASK_MAX_VALUE_BYTES) or a line in the YAML file that --config names
(max-value-bytes: 8MiB). A flag wins over the environment, and that over the file.

The ports are open to whoever reaches them: by default that is this machine only.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := loadSettings(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			return runServe(cmd.Context(), o, cmd.Flags(), cmd.ErrOrStderr())
		},
	}
	o.register(cmd.Flags())
	return cmd
}

func (o *serveOptions) register(f *pflag.FlagSet) {
	*o = serveOptions{
		data: "raftcask-data", resp: "127.0.0.1:7379", http: "127.0.0.1:8379", peer: "127.0.0.1:9379", gossip: "127.0.0.1:10379",
		maxValue: 8 * mib, segment: 256 * mib, snapshot: 256 * mib, trailing: 128 * mib, maxClients: 10000,
		stopTimeout: 10 * time.Second, logLevel: "info", logFormat: "text",
	}
	f.SortFlags = false
	f.StringVar(&o.config, configFlag, "", "YAML `file` with settings")
	f.StringVar(&o.id, "id", "", "`name` of the node, for ever (default: the one in the data directory, or a new one)")
	f.StringVar(&o.data, "data", o.data, "data `directory`")
	f.Var(hostPort{text: &o.resp}, "resp-addr", "where clients connect (Redis protocol)")
	f.Var(hostPort{text: &o.http}, "http-addr", "health and metrics")
	f.Var(hostPort{text: &o.peer}, "peer-addr", "where the other nodes connect")
	f.Var(hostPort{text: &o.gossip}, "gossip-addr", "where nodes find each other, TCP and UDP")
	f.Var(count{&o.expect, 1, 99}, "bootstrap-expect", "number of nodes that form a new cluster (default: 1 without --join; with it, only join)")
	f.Var(hostPorts{&o.join, &o.joinGiven}, "join", "gossip addresses of other nodes")
	f.BoolVar(&o.nonVoter, "non-voter", false, "be a read replica: join, and never vote (needs --join)")
	f.Var(hostPort{&o.advertise.resp, true}, "resp-advertise", "address of the RESP port as clients reach it (default: --resp-addr, or an address of this machine)")
	f.Var(hostPort{&o.advertise.http, true}, "http-advertise", "the same for the HTTP port")
	f.Var(hostPort{&o.advertise.peer, true}, "peer-advertise", "the same for the peer port")
	f.Var(hostPort{&o.advertise.gossip, true}, "gossip-advertise", "the same for the gossip port")
	f.Var(size{&o.maxValue, 1 * kib, 64 * mib}, "max-value-bytes", "longest value, the same on all nodes")
	f.Var(count{&o.maxClients, 1, 1000000}, "max-clients", "connections on the RESP port")
	f.Var(size{&o.segment, 1 * mib, 1 * gib}, "segment-bytes", "size of the store's files")
	f.Var(size{&o.snapshot, 1 * mib, 1024 * gib}, "snapshot-bytes", "log after which a snapshot is taken")
	f.Var(size{&o.trailing, 1 * kib, 512 * gib}, "trailing-bytes", "log kept behind a snapshot for nodes that were away, at most half of --snapshot-bytes")
	f.Var(span{&o.stopTimeout}, "stop-timeout", "how long a stop may take")
	f.Var(choice{&o.logLevel, logLevels}, "log-level", "least important messages that are written")
	f.Var(choice{&o.logFormat, logFormats}, "log-format", "form of the messages, on stderr")
}

// complete decides what depends on several settings.
func (o *serveOptions) complete(flags *pflag.FlagSet) error {
	if !flags.Changed("bootstrap-expect") && len(o.join) == 0 {
		o.expect = 1
	}
	if o.nonVoter && (len(o.join) == 0 || o.expect != 0) {
		return usagef("--non-voter: a read replica joins a cluster and founds none: it needs --join, and no --bootstrap-expect")
	}
	if !flags.Changed("trailing-bytes") {
		o.trailing = min(o.trailing, o.snapshot/2)
	}
	if o.trailing > o.snapshot/2 {
		return usagef("--trailing-bytes %s: must be at most half of --snapshot-bytes, %s", formatSize(o.trailing), formatSize(o.snapshot))
	}
	if o.data == "" {
		return usagef("--data: a directory is needed")
	}
	return o.distinctPorts()
}

// distinctPorts catches an address that was given twice: the system would report
// it as used by another program.
func (o *serveOptions) distinctPorts() error {
	seen := make(map[string]string)
	for _, p := range []struct{ flag, addr string }{
		{"--resp-addr", o.resp}, {"--http-addr", o.http}, {"--peer-addr", o.peer}, {"--gossip-addr", o.gossip},
	} {
		if hasPortZero(p.addr) {
			continue
		}
		if other, twice := seen[p.addr]; twice {
			return usagef("%s and %s are both %s: each needs a port of its own", other, p.flag, p.addr)
		}
		seen[p.addr] = p.flag
	}
	return nil
}

func (o *serveOptions) serverConfig(logger *slog.Logger) server.Config {
	return server.Config{
		ID: o.id, DataDir: o.data,
		Resp:   server.Address{Bind: o.resp, Advertise: o.advertise.resp},
		HTTP:   server.Address{Bind: o.http, Advertise: o.advertise.http},
		Peer:   server.Address{Bind: o.peer, Advertise: o.advertise.peer},
		Gossip: server.Address{Bind: o.gossip, Advertise: o.advertise.gossip},
		Join:   o.join, BootstrapExpect: o.expect, NonVoter: o.nonVoter,
		MaxValueBytes: int(o.maxValue), MaxClients: o.maxClients,
		SegmentBytes: o.segment, SnapshotBytes: o.snapshot, TrailingBytes: o.trailing,
		Version: programVersion(), Logger: logger, Now: clock,
	}
}

// runServe runs a node until ctx ends.
func runServe(ctx context.Context, o serveOptions, flags *pflag.FlagSet, stderr io.Writer) error {
	if err := o.complete(flags); err != nil {
		return err
	}
	logger := newLogger(stderr, o.logLevel, o.logFormat)
	node, err := server.Start(ctx, o.serverConfig(logger))
	if errors.Is(err, cluster.ErrConfig) {
		return usagef("serve: %v", err)
	}
	if err != nil {
		return err
	}
	if err := node.Wait(ctx); err != nil {
		return err // no Stop: see Wait
	}
	logger.Info("stopping")
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.stopTimeout)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- node.Stop(limit) }()
	select {
	case err = <-stopped:
	case <-limit.Done():
		// What is not synced was not acknowledged: to leave now loses nothing.
		return fmt.Errorf("not stopped after %s (--stop-timeout): leaving as after a crash", o.stopTimeout)
	}
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	logger.Info("stopped")
	return nil
}

func newLogger(to io.Writer, level, format string) *slog.Logger {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		least = slog.LevelInfo // the flag allows slog's names only
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}
