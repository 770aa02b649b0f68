package diskfault

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// start makes a machine, and returns how to ask it for something.
func start(t *testing.T, rules ...Rule) (m *Machine, ask func(Request) map[string]int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "raftcask-machine-") // short enough for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	m, err = Start(vfs.OS(), Settings{Socket: socket, Dir: filepath.Join(dir, "notes"), Rules: rules})
	must(t, err)
	return m, func(r Request) map[string]int {
		t.Helper()
		hits, err := Send(socket, r)
		must(t, err)
		return hits
	}
}

func TestRuleStrikesWhatItMatches(t *testing.T) {
	m, ask := start(t, Rule{Name: "full", Ops: []string{"write"}, Path: "*.seg", Error: "ENOSPC", Skip: 1, Count: 1})
	dir := t.TempDir()
	seg, err := m.Disk().Create(filepath.Join(dir, "1.seg"))
	must(t, err)
	other, err := m.Disk().Create(filepath.Join(dir, "other"))
	must(t, err)
	write(t, seg, "skipped", 0)
	write(t, other, "no match", 0)
	if _, err := seg.WriteAt([]byte("struck"), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	write(t, seg, "counted", 0)
	if hits := ask(Request{}); hits["full"] != 1 {
		t.Errorf("hits: %v", hits)
	}
	// A rename counts by its new name, and may fail after it was done.
	ask(Request{Clear: []string{"*"}, Add: []Rule{{Name: "switch", Ops: []string{"rename"}, Path: "MANIFEST", Error: "EIO", After: true}}})
	if err := m.Disk().Rename(filepath.Join(dir, "other"), filepath.Join(dir, "MANIFEST")); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
	if got := tree(t, dir); got != "1.seg=counted MANIFEST=no match" {
		t.Errorf("left %q", got)
	}
	must(t, errors.Join(seg.Close(), other.Close()))
}

func TestFlipChangesOneBitOnTheWay(t *testing.T) {
	m, ask := start(t)
	dir := t.TempDir()
	f, err := m.Disk().Create(filepath.Join(dir, "a"))
	must(t, err)
	mine := []byte("as it was")
	read := func() string {
		b := make([]byte, len(mine))
		_, err := f.ReadAt(b, 0)
		must(t, err)
		return string(b)
	}
	write(t, f, string(mine), 0)
	ask(Request{Add: []Rule{{Name: "flip", Ops: []string{"read", "write"}, Flip: true, Count: 2}}})
	if got := read(); got == string(mine) {
		t.Error("a read was not mangled")
	}
	_, err = f.WriteAt(mine, 0)
	must(t, err)
	if got := read(); got == string(mine) {
		t.Error("a write was not mangled")
	}
	if string(mine) != "as it was" {
		t.Errorf("the writer's own bytes are %q", mine)
	}
	must(t, f.Close())
}

func TestStallLastsUntilItIsCleared(t *testing.T) {
	m, ask := start(t, Rule{Name: "hang", Ops: []string{"sync"}, Stall: true})
	f, err := m.Disk().Create(filepath.Join(t.TempDir(), "a"))
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- f.Sync() }()
	for ask(Request{})["hang"] == 0 {
		time.Sleep(time.Millisecond) // until the sync has begun
	}
	select {
	case err := <-done:
		t.Fatalf("the sync ended: %v", err)
	default:
	}
	ask(Request{Clear: []string{"hang"}})
	must(t, <-done)
	must(t, f.Close())
}

func TestClockJumpsBothWays(t *testing.T) {
	m, ask := start(t)
	for _, ahead := range []time.Duration{time.Hour, -time.Hour, 0} {
		ask(Request{Clock: &ahead})
		if off := time.Until(m.Now()) - ahead; off.Abs() > time.Minute {
			t.Errorf("the clock is to be %v ahead, and is %v off that", ahead, off)
		}
	}
}

func TestMistakesInRulesAreRefused(t *testing.T) {
	for name, rule := range map[string]Rule{
		"no name":        {Error: "EIO"},
		"nothing":        {Name: "x"},
		"unknown error":  {Name: "x", Error: "EWHAT"},
		"broken pattern": {Name: "x", Error: "EIO", Path: "["},
		"taken name":     {Name: "taken", Error: "EIO"},
	} {
		var s ruleSet
		must(t, s.add([]Rule{{Name: "taken", Stall: true}}))
		if s.add([]Rule{rule}) == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}
