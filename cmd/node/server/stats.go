package server

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/cluster"
)

// nodeCollector reads the node's figures when they are scraped.
type nodeCollector struct {
	server  *Server
	figures []figure
	syncs   *prometheus.Desc
	info    *prometheus.Desc
}

// figure is one metric of a group.
type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*reading) float64
}

// reading is what one scrape looks at.
type reading struct {
	engine   bitcask.Stats
	status   cluster.Status
	counters cluster.Counters
	clients  int
	leads    bool
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

func newNodeCollector(s *Server) *nodeCollector {
	group := prometheus.Labels{"group": "0"}
	c := &nodeCollector{
		server: s,
		syncs:  prometheus.NewDesc("raftcask_log_sync_seconds", "Time of one sync of the log.", nil, group),
		info:   prometheus.NewDesc("raftcask_info", "1; the labels say what runs here.", []string{"version", "node", "cluster_id"}, nil),
	}
	add := func(kind prometheus.ValueType, name, help string, labels prometheus.Labels, value func(*reading) float64) {
		c.figures = append(c.figures, figure{prometheus.NewDesc("raftcask_"+name, help, nil, labels), kind, value})
	}
	add(gauge, "connected_clients", "Connections on the RESP port.", nil, func(r *reading) float64 { return float64(r.clients) })
	add(gauge, "ready", "1 if /readyz says so.", nil, func(r *reading) float64 { return truth(r.status.Ready) })

	add(gauge, "is_leader", "1 on the node that leads and serves.", group, func(r *reading) float64 { return truth(r.leads) })
	add(gauge, "term", "Raft's current term.", group, func(r *reading) float64 { return float64(r.status.Term) })
	add(gauge, "applied_index", "Last log entry that reads can see.", group, func(r *reading) float64 { return float64(r.status.Applied) })
	add(gauge, "commit_index", "Last log entry known to be committed.", group, func(r *reading) float64 { return float64(r.status.Commit) })
	add(counter, "raft_restarts_total", "Restarts of raft inside the process, to leave a state that it cannot.", group, func(r *reading) float64 { return float64(r.counters.Restarts) })
	add(counter, "snapshots_total", "Snapshots taken.", group, func(r *reading) float64 { return float64(r.counters.Snapshots) })
	add(counter, "snapshot_sent_bytes_total", "Bytes of snapshots sent to other nodes, before compression.", group, func(r *reading) float64 { return float64(r.counters.SnapshotRaw) })
	add(counter, "snapshot_wire_bytes_total", "The same on the wire.", group, func(r *reading) float64 { return float64(r.counters.SnapshotWire) })
	add(counter, "operations_total", "Operations evaluated by the proposer.", group, func(r *reading) float64 { return float64(r.counters.Operations) })
	add(counter, "entries_total", "Log entries proposed.", group, func(r *reading) float64 { return float64(r.counters.Entries) })
	add(counter, "entry_bytes_total", "Bytes of log entries proposed.", group, func(r *reading) float64 { return float64(r.counters.EntryBytes) })
	add(gauge, "proposer_queue_bytes", "Bytes of writes that wait for the proposer.", group, func(r *reading) float64 { return float64(r.counters.QueueBytes) })
	add(counter, "overloaded_total", "Operations refused because that queue was full.", group, func(r *reading) float64 { return float64(r.counters.Overloaded) })
	add(counter, "linearizable_reads_total", "Runs of reads that waited for a confirmation round.", group, func(r *reading) float64 { return float64(r.counters.Reads) })
	add(counter, "confirmation_rounds_total", "Rounds that confirmed leadership.", group, func(r *reading) float64 { return float64(r.counters.Rounds) })
	add(counter, "confirmation_rounds_failed_total", "Rounds without a majority.", group, func(r *reading) float64 { return float64(r.counters.RoundsFailed) })
	add(counter, "expired_keys_total", "Keys removed because their time was over.", group, func(r *reading) float64 { return float64(r.counters.ExpiredKeys) })

	add(gauge, "keys", "Keys, expired ones that are not removed yet included.", group, func(r *reading) float64 { return float64(r.engine.Keys) })
	add(gauge, "segments", "Files of the store.", group, func(r *reading) float64 { return float64(r.engine.Segments) })
	add(gauge, "disk_bytes", "Bytes of the store's segments. Not in it: hints, space allocated ahead (up to 16 MiB), and the file RESERVE, which may be as large as a segment.", group, func(r *reading) float64 { return float64(r.engine.DiskBytes) })
	add(gauge, "live_bytes", "Bytes of records that a read can reach.", group, func(r *reading) float64 { return float64(r.engine.LiveBytes) })
	add(gauge, "damaged_places", "Places in segments and hints that the scrub found damaged, and that are still there.", group, func(r *reading) float64 { return float64(len(r.engine.Scrub.Damage)) })
	add(counter, "scrub_passes_total", "Whole passes of the scrub over the sealed segments.", group, func(r *reading) float64 { return float64(r.engine.Scrub.Passes) })
	add(gauge, "dead_bytes", "Bytes that merges can reclaim.", group, func(r *reading) float64 { return float64(r.engine.DeadBytes) })
	add(gauge, "tombstone_bytes", "Bytes of deletes that must be kept for now.", group, func(r *reading) float64 { return float64(r.engine.TombstoneBytes) })
	add(gauge, "pinned_bytes", "Bytes of files that are kept for snapshots only.", group, func(r *reading) float64 { return float64(r.engine.PinnedBytes) })
	add(gauge, "keydir_bytes", "Memory of the index, outside the Go heap.", group, func(r *reading) float64 { return float64(r.engine.KeydirBytes) })
	add(gauge, "log_bytes", "Bytes of the log that are kept for replication.", group, func(r *reading) float64 { return float64(r.engine.LogBytes) })
	add(gauge, "log_first_index", "First entry of the log that is kept for replication.", group, func(r *reading) float64 { return float64(r.engine.LogFirst) })
	add(gauge, "pending_entries", "Entries stored and not committed.", group, func(r *reading) float64 { return float64(r.engine.Pending) })
	add(counter, "merges_total", "Merges done.", group, func(r *reading) float64 { return float64(r.engine.Merges) })
	add(counter, "merged_bytes_total", "Bytes written by merges.", group, func(r *reading) float64 { return float64(r.engine.MergedBytes) })
	add(gauge, "disk_full", "1 while writes are refused for want of space.", group, func(r *reading) float64 { return truth(r.engine.DiskFull) })
	return c
}

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range c.figures {
		to <- f.desc
	}
	to <- c.syncs
	to <- c.info
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(to chan<- prometheus.Metric) {
	s := c.server
	node := s.node.Load()
	r := &reading{
		engine: node.Group().Store().Stats(), status: node.Status(context.Background()), counters: node.Group().Counters(),
		clients: s.resp.Clients(), leads: node.Group().IsLeader(),
	}
	for _, f := range c.figures {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(r))
	}
	buckets := make(map[float64]uint64, len(bitcask.SyncBuckets))
	sum := uint64(0)
	for i, bound := range bitcask.SyncBuckets {
		sum += r.engine.Syncs.Buckets[i]
		buckets[bound] = sum
	}
	to <- prometheus.MustNewConstHistogram(c.syncs, r.engine.Syncs.Count, r.engine.Syncs.Seconds, buckets)
	to <- prometheus.MustNewConstMetric(c.info, gauge, 1, s.cfg.Version, s.cfg.ID, node.ClusterID())
}
