package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/transport/resp"
)

// backend answers the sessions of the RESP port: resp.Backend.
type backend struct{ node *Server }

// Exec implements resp.Backend.
func (b backend) Exec(ctx context.Context, calls []command.Call) []command.Reply {
	return b.node.executor.Exec(ctx, calls)
}

// Server implements resp.Backend: the commands that are about this node.
func (b backend) Server(ctx context.Context, call command.Call) command.Reply {
	switch call.Spec.Name {
	case "info":
		return command.Info(call.Args, b.node.info(ctx))
	case "role":
		return b.node.role()
	case "config":
		return command.Config(call.Args, b.node.settings())
	case "time":
		return command.Time(time.Now())
	case "raftcask":
		return b.node.raftcask(ctx, call.Args)
	}
	return command.Err("ERR " + call.Spec.Name + " is not answered by this node")
}

// Role implements resp.RoleReporter.
func (b backend) Role() string {
	if b.node.executor.local.group.IsLeader() {
		return "master"
	}
	return "replica"
}

// info lists the sections that Redis has, as far as they mean something here, and
// one about Raft.
func (s *Server) info(ctx context.Context) []command.Section {
	node := s.node.Load()
	status := node.Status(ctx)
	stats := node.Group().Store().Stats()
	sections := []command.Section{
		s.serverSection(),
		section("Clients",
			"connected_clients", strconv.Itoa(s.resp.Clients()), "maxclients", strconv.Itoa(s.cfg.MaxClients), "blocked_clients", "0"),
		memorySection(stats.KeydirBytes),
		section("Persistence",
			"loading", "0", "async_loading", "0", "aof_enabled", "1", "aof_last_write_status", "ok",
			"rdb_bgsave_in_progress", "0", "rdb_last_bgsave_status", "ok",
			"segments", fmt.Sprint(stats.Segments), "disk_bytes", fmt.Sprint(stats.DiskBytes),
			"live_bytes", fmt.Sprint(stats.LiveBytes), "dead_bytes", fmt.Sprint(stats.DeadBytes), "log_bytes", fmt.Sprint(stats.LogBytes),
			"scrub_passes", fmt.Sprint(stats.Scrub.Passes), "damaged_places", fmt.Sprint(len(stats.Scrub.Damage))),
		s.statsSection(node.Group().Counters()),
		s.replicationSection(status),
		cpuSection(),
		s.raftSection(status),
	}
	if stats.Keys == 0 {
		return append(sections, section("Keyspace"))
	}
	return append(sections, section("Keyspace", "db0", fmt.Sprintf("keys=%d,expires=%d,avg_ttl=0", stats.Keys, stats.Expiring)))
}

func section(title string, pairs ...string) command.Section {
	s := command.Section{Title: title}
	for i := 0; i+1 < len(pairs); i += 2 {
		s.Lines = append(s.Lines, command.Param{Name: pairs[i], Value: pairs[i+1]})
	}
	return s
}

func (s *Server) serverSection() command.Section {
	_, port := splitAddr(s.advertised.resp)
	up := time.Since(s.started)
	return section("Server",
		"redis_version", resp.Version, "redis_mode", "standalone", "raftcask_version", s.cfg.Version,
		"os", runtime.GOOS+" "+runtime.GOARCH, "arch_bits", strconv.Itoa(strconv.IntSize),
		"go_version", runtime.Version(), "process_id", strconv.Itoa(os.Getpid()), "run_id", s.cfg.ID, "tcp_port", port,
		"server_time_usec", strconv.FormatInt(time.Now().UnixMicro(), 10),
		"uptime_in_seconds", strconv.Itoa(int(up.Seconds())), "uptime_in_days", strconv.Itoa(int(up.Hours()/24)))
}

func memorySection(keydirBytes int64) command.Section {
	heap := heapBytes()
	return section("Memory",
		"used_memory", strconv.FormatInt(heap+keydirBytes, 10), "used_memory_rss", strconv.FormatInt(residentBytes(), 10),
		"used_memory_heap", strconv.FormatInt(heap, 10), "used_memory_keydir", strconv.FormatInt(keydirBytes, 10),
		"maxmemory", "0", "maxmemory_policy", "noeviction", "mem_allocator", "go")
}

// heapBytes is the memory of live and not yet collected objects. runtime/metrics,
// not ReadMemStats: that one stops the world, and INFO may come every second.
func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}

func cpuSection() command.Section {
	system, user := cpuSeconds()
	return section("CPU",
		"used_cpu_sys", strconv.FormatFloat(system, 'f', 6, 64), "used_cpu_user", strconv.FormatFloat(user, 'f', 6, 64))
}

func (s *Server) statsSection(c cluster.Counters) command.Section {
	return section("Stats",
		"total_commands_processed", fmt.Sprint(s.executor.metrics.total.Load()), "expired_keys", fmt.Sprint(c.ExpiredKeys), "evicted_keys", "0",
		"raft_operations", fmt.Sprint(c.Operations), "raft_entries", fmt.Sprint(c.Entries), "raft_entry_bytes", fmt.Sprint(c.EntryBytes),
		"raft_restarts", fmt.Sprint(c.Restarts), "raft_snapshots", fmt.Sprint(c.Snapshots),
		"linearizable_reads", fmt.Sprint(c.Reads), "confirmation_rounds", fmt.Sprint(c.Rounds), "confirmation_rounds_failed", fmt.Sprint(c.RoundsFailed),
		"proposer_queue_bytes", fmt.Sprint(c.QueueBytes), "rejected_overloaded", fmt.Sprint(c.Overloaded))
}

func (s *Server) replicationSection(status cluster.Status) command.Section {
	offset := fmt.Sprint(status.Applied)
	if s.node.Load().Group().IsLeader() {
		replicas := s.replicas()
		lines := []string{"role", "master", "connected_slaves", strconv.Itoa(len(replicas))}
		for i, r := range replicas {
			lines = append(lines, fmt.Sprintf("slave%d", i), fmt.Sprintf("ip=%s,port=%d,state=online,offset=%d,lag=0", r.Host, r.Port, r.Offset))
		}
		return section("Replication", append(lines, "master_repl_offset", offset)...)
	}
	id, addr := s.leader()
	host, port := splitAddr(addr)
	link := "up"
	if id == "" {
		link = "down"
	}
	return section("Replication",
		"role", "slave", "master_host", host, "master_port", port, "master_link_status", link,
		"slave_read_only", "0", "connected_slaves", "0", "master_repl_offset", offset)
}

func (s *Server) raftSection(status cluster.Status) command.Section {
	id, addr := s.leader()
	return section("Raft",
		"raft_cluster_id", status.ClusterID, "raft_node_id", status.ID, "raft_group", strconv.Itoa(groupID),
		"raft_role", string(status.Role), "raft_term", fmt.Sprint(status.Term),
		"raft_applied", fmt.Sprint(status.Applied), "raft_commit", fmt.Sprint(status.Commit),
		"raft_leader_id", id, "raft_leader_addr", addr, "raft_nodes", strings.Join(s.view.respAddrs(), ","))
}

// leader returns the id and the client address of the leader, "" while none is known.
func (s *Server) leader() (id, addr string) {
	id, _, addr, ok := s.node.Load().Group().Leader()
	if !ok {
		return "", ""
	}
	return id, addr
}

// replicas are the other nodes that answered last.
func (s *Server) replicas() []command.Replica {
	var list []command.Replica
	for _, n := range s.view.get().Nodes {
		if n.ID == s.cfg.ID || n.Role == cluster.RoleUnreachable || n.RespAddr == "" {
			continue
		}
		host, port := splitAddr(n.RespAddr)
		list = append(list, command.Replica{Host: host, Port: portNumber(port), Offset: int64(n.Applied)})
	}
	return list
}

// role answers ROLE.
func (s *Server) role() command.Reply {
	group := s.node.Load().Group()
	offset := int64(group.AppliedIndex())
	if group.IsLeader() {
		return command.RoleMaster(offset, s.replicas())
	}
	id, addr := s.leader()
	state := "connected"
	if id == "" {
		state = "connect"
	}
	host, port := splitAddr(addr)
	return command.RoleReplica(host, portNumber(port), state, offset)
}

// settings are what CONFIG GET shows, under the names that clients and tools ask for.
func (s *Server) settings() []command.Param {
	host, port := splitAddr(s.resp.Addr().String())
	return section("",
		"appendfsync", "always", "appendonly", "yes", "bind", host, "cluster-enabled", "no", "databases", "1",
		"dir", s.cfg.DataDir, "io-threads", "1", "maxclients", strconv.Itoa(s.cfg.MaxClients), "maxmemory", "0",
		"maxmemory-policy", "noeviction", "port", port, "proto-max-bulk-len", strconv.Itoa(s.cfg.MaxValueBytes),
		"save", "", "tcp-keepalive", "300", "timeout", "0").Lines
}

// splitAddr is for addresses that were checked before; "" while there is none.
func splitAddr(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "0"
	}
	return host, port
}

func portNumber(port string) int {
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}
