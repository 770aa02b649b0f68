package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBackupBecomesAClusterAgain: a node of a running cluster is backed up, all nodes are lost, and the backup becomes a new
// cluster that grows, restarts and takes no node of the old one.
func TestBackupBecomesAClusterAgain(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	ctx := context.Background()
	old := openSDK(t, c.addrs())
	for i := range 50 {
		if old.set(ctx, fmt.Sprintf("k%d", i), "v") != acknowledged {
			t.Fatal("a write failed")
		}
	}
	backup := filepath.Join(c.dir, "backup")
	o := runCLI(t, 30*time.Second, "cask", "backup", c.follower().data, backup)
	if o.code != 0 || o.stderr != "" {
		t.Fatalf("backup: %v", o)
	}
	for _, n := range c.nodes {
		n.kill()
	}

	restored := newNode(t, c.dir, "r1")
	o = runCLI(t, 30*time.Second, "recover", "--backup", backup, c.nodes[0].data, "--id", "r1")
	if o.code != 1 || !strings.Contains(o.stderr, "is not empty") {
		t.Errorf("recover --backup over a node: %v", o)
	}
	o = runCLI(t, 30*time.Second, "recover", "--backup", backup, restored.data, "--id", "r1")
	if o.code != 0 || !strings.Contains(o.stdout, "holds 50 keys") || !strings.Contains(o.stdout, "only member of the new cluster") {
		t.Fatalf("recover --backup: %v", o)
	}
	restored.start()
	restored.waitReady()
	fresh := newNode(t, c.dir, "r2", "--join", restored.gossip)
	stranger := c.nodes[1]
	stranger.flags = []string{"--join", restored.gossip}
	c.nodes = append(c.nodes, restored, fresh)
	fresh.start()
	fresh.waitReady()
	stranger.start()
	eventually(t, readyTimeout, "the members are the restored and the new node", func() error {
		s, err := statusAt(t, restored.resp)
		if err != nil {
			return err
		}
		if n, in := s.node("r2"); !in || n.Role == "" || len(s.Nodes) != 2 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	now := openSDK(t, []string{restored.resp, fresh.resp})
	if now.set(ctx, "after", "v") != acknowledged {
		t.Error("a write to the new cluster failed")
	}
	restored.kill()
	restored.start()
	restored.waitReady()
	fresh.waitReady()
	for _, n := range []*node{restored, fresh} {
		pinned := openPinned(t, n.resp)
		for _, key := range []string{"k0", "k49", "after"} {
			if v, err := pinned.get(ctx, key); v != "v" || err != nil {
				t.Errorf("%s at %s: %q, %v", key, n.id, v, err)
			}
		}
	}
	if err := stranger.ready(); err == nil {
		t.Error("a node of the lost cluster says that it serves")
	}
}
