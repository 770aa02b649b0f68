package archtest

const module = "github.com/raftcask/raftcask"

// Other modules that a row may name, by module path: a row that allows one allows all of its packages.
const (
	boltdb     = "go.etcd.io/bbolt"
	cobra      = "github.com/spf13/cobra"
	flock      = "github.com/gofrs/flock"
	goMetrics  = "github.com/hashicorp/go-metrics"
	goRedis    = "github.com/redis/go-redis/v9"
	hclog      = "github.com/hashicorp/go-hclog"
	kcompress  = "github.com/klauspost/compress"
	memberlist = "github.com/hashicorp/memberlist"
	pflag      = "github.com/spf13/pflag"
	porcupine  = "github.com/anishathalye/porcupine"
	prometheus = "github.com/prometheus/client_golang"
	promModel  = "github.com/prometheus/client_model"
	raft       = "github.com/hashicorp/raft"
	raftBoltdb = "github.com/hashicorp/raft-boltdb/v2"
	rueidis    = "github.com/redis/rueidis"
	uuid       = "github.com/google/uuid"
	xSync      = "golang.org/x/sync"
	xSys       = "golang.org/x/sys"
	xTerm      = "golang.org/x/term"
	xxhash     = "github.com/cespare/xxhash/v2"
	yaml       = "go.yaml.in/yaml/v3"
)

// rule says what one package, or a tree of packages, may import besides the standard library. Test files are free: a test
// may look at its subject from anywhere.
type rule struct {
	packages string   // relative to the module: "fsm", or "internal/..." for a tree; the most specific rule counts
	own      []string // packages of this module, in the same form
	others   []string // module paths
	reason   string   // printed with a violation
}

var rules = []rule{
	{
		packages: "internal/...",
		reason:   "internal packages are the ground floor: everything may stand on them, they stand on the standard library",
	},
	{
		packages: "internal/vfs",
		others:   []string{flock, xSys},
		reason:   "the door to the disk is below every package that uses it",
	},
	{
		packages: "internal/vfs/diskfault",
		own:      []string{"internal/vfs"},
		reason:   "the sick machine of the integration tests is one more file system; no product package imports it (TestProductHasNoFaults)",
	},
	{
		packages: "internal/vfs/vfstest",
		reason:   "a disk for tests: it needs mount and mkfs, and no product package needs it",
	},
	{
		packages: "bitcask",
		own:      []string{"internal/vfs", "bitcask/internal/..."},
		others:   []string{xxhash, xSys},
		reason:   "the engine is a library by itself: of Raft it knows only that an entry has an index, a term and a kind",
	},
	{
		packages: "bitcask/internal/...",
		own:      []string{"internal/vfs", "bitcask/internal/..."},
		others:   []string{xxhash, xSys},
		reason:   "the engine's parts are as free of Raft, network and flags as the engine itself",
	},
	{
		packages: "fsm",
		own:      []string{"bitcask", "internal/..."},
		others:   []string{raft},
		reason:   "the adapters join the engine to Raft and nothing else: who leads, and who asks, is not their business",
	},
	{
		packages: "command",
		reason:   "what a command means is decided on a transaction alone: no wire, no sockets, no Raft, no disk",
	},
	{
		packages: "command/commandtest",
		own:      []string{"command"},
		reason:   "a transaction in memory for tests: it needs what a command sees, and no product package needs it",
	},
	{
		packages: "cluster",
		own:      []string{"fsm", "bitcask", "command", "internal/..."},
		others:   []string{raft, raftBoltdb, boltdb, memberlist, hclog, goMetrics, kcompress, uuid, xSync, xSys},
		reason:   "the cluster reaches its peers through an interface it declares itself; transport implements it, cmd/node joins them",
	},
	{
		packages: "transport",
		own:      []string{"internal/..."},
		others:   []string{raft, hclog, goMetrics, xSync},
		reason:   "the peer port moves bytes between nodes: what they mean belongs to the handlers that cmd/node registers",
	},
	{
		packages: "transport/resp",
		own:      []string{"command", "internal/..."},
		others:   []string{xSync},
		reason:   "the Redis port parses, asks its backend and answers; it does not know that there is a cluster behind it",
	},
	{
		packages: "transport/http",
		own:      []string{"internal/..."},
		others:   []string{prometheus, promModel, goMetrics, xSync},
		reason:   "the HTTP port asks small interfaces that it declares itself",
	},
	{
		packages: "client",
		others:   []string{goRedis, xSync},
		reason:   "the SDK is linked into other people's programs: it must not bring the server along",
	},
	{
		packages: "cmd/node",
		own:      []string{"cmd/node/...", "bitcask", "client", "cluster", "command", "transport/...", "internal/..."},
		others:   []string{cobra, pflag, yaml, xSync, xSys, xTerm},
		reason:   "the command line is a client of the cluster; only cmd/node/server builds a node",
	},
	{
		packages: "cmd/node/...",
		own:      []string{"cmd/node/...", "bitcask", "client", "cluster", "command", "fsm", "transport/...", "internal/..."},
		others:   []string{raft, goMetrics, hclog, prometheus, yaml, pflag, xSync, xSys},
		reason:   "here the parts are joined, and nowhere else",
	},
	{
		packages: "tests/...",
		own:      []string{"client", "tests/...", "internal/vfs/diskfault"},
		others:   []string{goRedis, rueidis, porcupine, xSync, xSys},
		reason:   "the integration tests come in by the front door, as a user does: processes, ports, files; and make the machine below it sick",
	},
}
