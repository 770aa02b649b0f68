package bitcask

import (
	"context"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestAcknowledgedWriteSurvivesAKillAndThenAPowerLoss: the process dies before any one file operation,
// starts again on the page cache that it left, acknowledges a write, and then
// power goes. What the dead process had not synced, a name above all, must not take
// the new write with it.
//
// A store that does not sync each write loses none to a kill either: it wrote to the page cache. Its writes
// are synced by the next Open, so power may take only what came after that.
func TestAcknowledgedWriteSurvivesAKillAndThenAPowerLoss(t *testing.T) {
	t.Run("synced", func(t *testing.T) { killThenCrash(t, Always, false) })
	t.Run("unsynced", func(t *testing.T) { killThenCrash(t, Never, false) })
	t.Run("unsynced, mapped", func(t *testing.T) { killThenCrash(t, Never, true) })
}

func killThenCrash(t *testing.T, durability Durability, mapped bool) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	disk := vfs.NewMem()
	disk.SetMapping(mapped)
	options := func(fs vfs.FS) *Options {
		o := tinyOptions(fs)
		o.Durability = durability
		return o
	}
	h := &history{acked: map[string]string{}}
	kills := 0
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpRead || op.Kind == vfs.OpSize || op.Kind == vfs.OpClose || op.Kind == vfs.OpMap {
			return nil
		}
		kills++
		left := disk.KillClone()
		s, err := Open("db", options(left))
		if err != nil {
			t.Fatalf("%v %s: open after a kill: %v", op.Kind, op.Name, err)
		}
		got := contents(t, s)
		if !maps.Equal(got, h.acked) && !maps.Equal(got, h.after()) {
			t.Fatalf("%v %s: after a kill the store holds\n%v\nacknowledged is\n%v", op.Kind, op.Name, got, h.acked)
		}
		must(t, s.Put([]byte("after"), []byte("kill")))
		must(t, s.Sync())
		got["after"] = "kill"
		for range 3 {
			again, err := Open("db", options(left.CrashClone(rng)))
			if err != nil {
				t.Fatalf("%v %s: open after a kill and a power loss: %v", op.Kind, op.Name, err)
			}
			if now := contents(t, again); !maps.Equal(now, got) {
				t.Fatalf("%v %s: after a kill and a power loss the store holds\n%v\nshown and acknowledged was\n%v", op.Kind, op.Name, now, got)
			}
			must(t, again.Close())
		}
		must(t, s.Close())
		return nil
	})
	s := mustOpen(t, fs, options(fs))
	for n := range 16 {
		must(t, h.do(s, randomChange(rng, n)...))
		switch n {
		case 7:
			must(t, s.Merge(context.Background()))
		case 11:
			must(t, saveCheckpoint(s, n))
		case 13:
			must(t, adoptCopy(s, n))
		}
	}
	must(t, s.Close())
	t.Logf("%d kills, three power losses after each", kills)
}
