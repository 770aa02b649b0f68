package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// What TestMain prepares and the tests only read.
var (
	binary string // path of raftcask
	root   string // directory that holds those of the tests; anyone may enter it, for the tests that run nodes as another user
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	goredis.SetLogger(silence{})
	var err error
	if root, err = os.MkdirTemp("", "raftcask-integration-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.Remove(root) }() // not empty when a failed test's directory is kept
	if err := os.Chmod(root, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := buildBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(filepath.Join(root, "bin")) }() // in the temporary directory anyway
	return m.Run()
}

func buildBinary() error {
	if binary = os.Getenv("RAFTCASK_BIN"); binary != "" {
		_, err := os.Stat(binary)
		return err
	}
	binary = filepath.Join(root, "bin", "raftcask")
	args := []string{"build", "-buildvcs=false", "-o", binary}
	if os.Getenv("RAFTCASK_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/raftcask/raftcask/cmd/node")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build raftcask: %w\n%s", err, out)
	}
	return nil
}

// testDir makes a directory for one test, which stays only after a failure and on request.
func testDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(root, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("RAFTCASK_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	return dir
}

// newRand returns the source of a test's random choices and prints how to repeat them.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("RAFTCASK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("RAFTCASK_SEED: %v", err)
		}
	}
	seeds.Store(t.Name(), seed)
	t.Logf("RAFTCASK_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// seeds of the tests that asked for one.
var seeds sync.Map

func seedOf(t testing.TB) uint64 {
	seed, _ := seeds.Load(t.Name())
	n, _ := seed.(uint64)
	return n
}

// eventually polls until cond returns nil, or fails the test with its last error.
func eventually(t testing.TB, timeout time.Duration, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", timeout, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
