package integration

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	importTimeout = 4 * time.Minute
	verifyTimeout = 2 * time.Minute
)

// TestRealDataThroughDeath puts the source of Go's tools (4,300 files, 64 MB) into the cluster and kills the leader on the
// way. The import goes on by itself, and every byte is there afterwards: on the survivors, on the node that was dead, and
// after the death of all.
func TestRealDataThroughDeath(t *testing.T) {
	t.Parallel()
	tree := filepath.Join(goSource(t), "cmd")
	files := len(filesBelow(t, tree))
	c := startCluster(t, 3)

	imp := startCLI(t, "import", tree, "--addr", c.addrList())
	half := files / 2
	eventually(t, importTimeout, "half of the files are in", func() error {
		if !imp.running() {
			t.Fatalf("the import ended early: %v", mustFinish(t, imp))
		}
		n, err := dbsize(t, c.nodes[0].resp)
		if err == nil && n < half {
			err = fmt.Errorf("%d of %d keys", n, half)
		}
		return err
	})
	dead := c.leader()
	dead.kill()
	t.Logf("killed the leader %s with the import under way", dead.id)
	if o := mustFinish(t, imp); o.code != 0 {
		t.Fatalf("import: %v", o)
	}

	verify := func(n *node) {
		t.Helper()
		o := mustCLI(t, verifyTimeout, "verify", tree, "--addr", n.resp)
		t.Logf("verify through %s: %s", n.id, lastLine(o.stdout+o.stderr))
		if got := mustDBSize(t, n.resp); got != files {
			t.Fatalf("%s holds %d keys, the tree has %d files", n.id, got, files)
		}
	}
	for _, n := range c.others(dead) {
		verify(n)
	}

	dead.start()
	dead.waitReady()
	c.waitCaughtUp(dead, time.Minute)
	verify(dead)

	for _, n := range c.nodes {
		n.kill()
	}
	c.startAll()
	c.waitReady()
	for _, n := range c.nodes {
		verify(n)
	}
}

// TestVerifySeesWhatIsMissingOrDifferent holds the promise under the test above: a verify that cannot fail would prove nothing.
func TestVerifySeesWhatIsMissingOrDifferent(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	tree := filepath.Join(goSource(t), "sort")
	mustCLI(t, time.Minute, "import", tree, "--addr", c.addrList())
	mustCLI(t, time.Minute, "verify", tree, "--addr", c.addrList())

	rdb := dialRedis(t, c.nodes[0].resp)
	if got := rdb.do("DEL", "sort.go"); got != int64(1) {
		t.Fatalf("DEL sort.go: %v: keys are not the paths relative to the tree", got)
	}
	o := runCLI(t, time.Minute, "verify", tree, "--addr", c.addrList())
	if o.code != 1 || !strings.Contains(o.stdout+o.stderr, "sort.go") || !strings.Contains(o.stdout+o.stderr, "missing") {
		t.Errorf("verify with sort.go missing: %v", o)
	}

	mustCLI(t, time.Minute, "import", tree, "--addr", c.addrList())
	text, ok := rdb.do("GET", "slice.go").(string)
	if !ok || text == "" {
		t.Fatal("slice.go is not there")
	}
	rdb.do("SET", "slice.go", text[:len(text)-1]+"?")
	o = runCLI(t, time.Minute, "verify", tree, "--addr", c.addrList())
	if o.code != 1 || !strings.Contains(o.stdout+o.stderr, "slice.go") || !strings.Contains(o.stdout+o.stderr, "different") {
		t.Errorf("verify with one byte of slice.go changed: %v", o)
	}
}

// goSource returns the directory of Go's own source: about 11,000 files, 157 MB, some empty, some over 1 MB.
func goSource(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// filesBelow returns the paths of all regular files of a tree.
func filesBelow(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func mustFinish(t testing.TB, c *cli) outcome {
	t.Helper()
	o, err := c.finish(importTimeout)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
