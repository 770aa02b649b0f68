package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs/diskfault"
)

// machine is the disk and the clock below one node, which a test can break at run time. The node runs a binary that is built
// with the tag "faults"; package diskfault says what is covered.
type machine struct {
	t      testing.TB
	socket string
	notes  string           // where the recorder keeps what a power cut may take
	rules  []diskfault.Rule // in force from the node's next start on; each start takes them again
}

// sickBinary is built when the first test needs it.
var sickBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(root, "bin", "raftcask-faults")
	args := []string{"build", "-buildvcs=false", "-tags", "faults", "-o", path}
	if os.Getenv("RAFTCASK_RACE") != "" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/raftcask/raftcask/cmd/node")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build raftcask with faults: %w\n%s", err, out)
	}
	return path, nil
})

// makeSick puts a machine below a node, before its first start.
func makeSick(n *node) {
	n.t.Helper()
	// The path of a unix socket has about 100 characters, which the directory of a test may use up.
	dir, err := os.MkdirTemp("", "raftcask-socket-")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = os.RemoveAll(dir) }) // holds the socket, if that
	n.sick = &machine{t: n.t, socket: filepath.Join(dir, "s"), notes: n.data + ".notes"}
}

// startSick starts a cluster of n nodes that all have a machine.
func startSick(t testing.TB, n int, flags ...string) *cluster {
	t.Helper()
	c := newCluster(t, n, flags...)
	for _, node := range c.nodes {
		makeSick(node)
	}
	c.startAll()
	c.waitReady()
	return c
}

// command runs the node on the machine.
func (m *machine) command(args []string) *exec.Cmd {
	m.t.Helper()
	path, err := sickBinary()
	if err != nil {
		m.t.Fatal(err)
	}
	rules, err := json.Marshal(m.rules)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.Remove(m.socket); err != nil && !os.IsNotExist(err) { // of a killed run
		m.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), diskfault.EnvSocket+"="+m.socket, diskfault.EnvDir+"="+m.notes, diskfault.EnvRules+"="+string(rules))
	return cmd
}

func (m *machine) send(r diskfault.Request) map[string]int {
	m.t.Helper()
	hits, err := diskfault.Send(m.socket, r)
	if err != nil {
		m.t.Fatalf("machine: %v", err)
	}
	return hits
}

// fault breaks the disk of a running node.
func (m *machine) fault(rules ...diskfault.Rule) {
	m.t.Helper()
	m.send(diskfault.Request{Add: rules})
}

// heal ends all faults of the disk of a running node.
func (m *machine) heal() {
	m.t.Helper()
	m.send(diskfault.Request{Clear: []string{"*"}})
}

// awaitHit waits until a fault has struck: a test whose fault never happened proves nothing.
func (m *machine) awaitHit(name string) {
	m.t.Helper()
	eventually(m.t, 30*time.Second, "fault "+name+" strikes", func() error {
		hits, err := diskfault.Send(m.socket, diskfault.Request{})
		if err == nil && hits[name] == 0 {
			err = fmt.Errorf("faults struck: %v", hits)
		}
		return err // also of a node that does not listen yet
	})
}

// setClock puts the clock so far ahead of the real one; negative: behind.
func (m *machine) setClock(ahead time.Duration) {
	m.t.Helper()
	m.send(diskfault.Request{Clock: &ahead})
}

// cutPower kills the nodes at once and takes from their disks what was not synced; the survival is that of package diskfault.
func cutPower(t testing.TB, rng *rand.Rand, survival float64, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.kill()
	}
	for _, n := range nodes {
		loss, err := diskfault.Cut(n.sick.notes, rng, survival)
		if err != nil {
			t.Fatalf("cut the power of %s: %v", n.id, err)
		}
		t.Logf("power cut at %s: %v", n.id, loss)
	}
}
