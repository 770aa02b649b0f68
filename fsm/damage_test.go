package fsm

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
)

// A node that met a damaged log entry ended with raft's panic and its stack trace, before it could say what is damaged.
func TestDamagedLogEntryStopsTheNodeBeforeRaftPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rotten atomic.Bool
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
			if op.Kind == vfs.OpRead && rotten.Load() && strings.HasSuffix(op.Name, ".seg") {
				return &vfs.Fault{Mangle: func(p []byte) { p[len(p)-1] ^= 1 }}
			}
			return nil
		})
		quiet := slog.New(slog.DiscardHandler)
		store, err := bitcask.Open("db", &bitcask.Options{Replicated: true, FS: fs, Logger: quiet, Scrub: bitcask.ScrubPolicy{Disabled: true}})
		must(t, err)
		defer func() { must(t, store.Close()) }()
		must(t, NewLogStore(store).StoreLog(command(1, 1, 1, "k", "v")))

		logs := NewLogStore(store) // with nothing in its cache
		var stopped time.Time
		logs.OnFatal(func(error) { stopped = time.Now() })
		rotten.Store(true)
		if err := logs.GetLog(1, new(raft.Log)); !errors.Is(err, bitcask.ErrCorrupt) {
			t.Fatalf("a damaged entry: %v", err)
		}
		if stopped.IsZero() || time.Since(stopped) < exitGrace {
			t.Fatalf("raft had the answer %s after the node was told to stop", time.Since(stopped))
		}
	})
}
