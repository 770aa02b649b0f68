package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/bitcask"
)

// filledCask makes a store of some segments and returns it open.
func filledCask(t *testing.T, dir string) *bitcask.Store {
	t.Helper()
	s, err := bitcask.Open(dir, &bitcask.Options{SegmentBytes: 4096, Merge: bitcask.MergePolicy{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := s.Put(fmt.Appendf(nil, "key-%02d", i), []byte(strings.Repeat("value ", 30))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete([]byte("key-00")); err != nil {
		t.Fatal(err)
	}
	return s
}

func closeCask(t *testing.T, s *bitcask.Store) {
	t.Helper()
	if err := s.Merge(t.Context()); err != nil { // for the hints
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// mustCLI runs a command that should succeed without a word on stderr.
func mustCLI(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := cli(t, "", args...)
	if code != exitDone || stderr != "" {
		t.Fatalf("%v: exit code %d, stderr %q, stdout %q", args, code, stderr, stdout)
	}
	return stdout
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// dirState lists what a directory holds, to see that nothing changed.
func dirState(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, e.Name(), info.Size(), info.ModTime())
	}
	return b.String()
}

// TestCaskCommandsReadAnOpenStoreAndAClosedOne and change nothing in it.
func TestCaskCommandsReadAnOpenStoreAndAClosedOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s := filledCask(t, dir)
	for _, when := range []string{"open", "closed"} {
		before := dirState(t, dir)
		if out := mustCLI(t, "cask", "verify", dir); !strings.Contains(out, "no damage") {
			t.Errorf("%s: verify prints %q", when, out)
		}
		var stats caskStats
		if err := json.Unmarshal([]byte(mustCLI(t, "cask", "stats", dir, "--output", "json")), &stats); err != nil {
			t.Fatal(err)
		}
		if stats.Keys != 49 || stats.Segments < 3 || stats.AppliedIndex != 51 || stats.Dir != dir {
			t.Errorf("%s: stats are %+v", when, stats)
		}
		if out := mustCLI(t, "cask", "stats", dir); !strings.Contains(out, "keys       49\n") {
			t.Errorf("%s: stats prints %q", when, out)
		}
		if out := mustCLI(t, "cask", "dump", dir, "--live"); strings.Count(out, "\n") != 49 || !strings.Contains(out, `"key-07" = "value`) {
			t.Errorf("%s: dump --live prints %q", when, out)
		}
		if out := mustCLI(t, "cask", "digest", dir); !strings.HasSuffix(out, "  49 keys at entry 51 of term 0\n") {
			t.Errorf("%s: digest prints %q", when, out)
		}
		if after := dirState(t, dir); after != before {
			t.Errorf("%s: the directory changed from\n%s\nto\n%s", when, before, after)
		}
		if when == "open" {
			if out := mustCLI(t, "cask", "dump", dir); strings.Count(out, "\n") != 51 || !strings.Contains(out, ` delete index 51 term 0 "key-00"`) {
				t.Errorf("dump prints %q", out)
			}
			closeCask(t, s)
		}
	}
}

func TestCaskDumpAsJSON(t *testing.T) {
	dir := t.TempDir()
	s := filledCask(t, dir)
	lines := strings.Split(strings.TrimSpace(mustCLI(t, "cask", "dump", dir, "--output", "json")), "\n")
	var first bitcask.DumpRecord
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 51 || first.Op != "put" || string(first.Key) != "key-00" || string(first.Value) != strings.Repeat("value ", 30) || first.Index != 1 {
		t.Errorf("%d lines, the first is %+v", len(lines), first)
	}
	closeCask(t, s)
}

// TestCaskVerifyNamesDamage in a closed store and in one that is open, with exit code 1.
func TestCaskVerifyNamesDamage(t *testing.T) {
	dir := t.TempDir()
	s := filledCask(t, dir)
	segment := filepath.Join(dir, "00000001.seg")
	flipByte(t, segment, 64+56+100) // in the first entry
	for _, when := range []string{"open", "closed"} {
		code, stdout, stderr := cli(t, "", "cask", "verify", dir)
		if code != exitFailed || stderr != "" || !strings.Contains(stdout, "damage: "+segment+" at offset 64: ") || !strings.Contains(stdout, "1 damaged place\n") {
			t.Errorf("%s: exit code %d, stderr %q, stdout %q", when, code, stderr, stdout)
		}
		if code, stdout, _ := cli(t, "", "cask", "dump", dir); code != exitFailed || !strings.Contains(stdout, "00000001.seg:64 damage: ") {
			t.Errorf("%s: dump: exit code %d, %.200q", when, code, stdout)
		}
		if when == "open" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var report bitcask.VerifyReport
	_, stdout, _ := cli(t, "", "cask", "verify", dir, "--output", "json")
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Damage) != 1 || report.Damage[0].File != segment || report.Damage[0].Offset != 64 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestCaskSalvageListsWhatIsLost(t *testing.T) {
	dir, dst := t.TempDir(), filepath.Join(t.TempDir(), "saved")
	s := filledCask(t, dir)
	closeCask(t, s)
	sound := filepath.Join(t.TempDir(), "sound")
	if out := mustCLI(t, "cask", "salvage", dir, sound); !strings.Contains(out, "saved 49 keys") || !strings.Contains(out, "no damage, 0 keys known to be lost") {
		t.Errorf("of a sound store: %q", out)
	}
	hints, err := filepath.Glob(filepath.Join(dir, "*.hint"))
	if err != nil || len(hints) == 0 {
		t.Fatal(hints, err)
	}
	segment := strings.TrimSuffix(hints[0], ".hint") + ".seg" // a sealed one
	flipByte(t, segment, 64+56+100)
	code, stdout, stderr := cli(t, "", "cask", "salvage", dir, dst)
	if code != exitFailed || stderr != "" || !strings.Contains(stdout, "damage: "+segment+" at offset 64") || !strings.Contains(stdout, "lost: \"key-") {
		t.Errorf("exit code %d, stderr %q, stdout %q", code, stderr, stdout)
	}
	if out := mustCLI(t, "cask", "verify", dst); !strings.Contains(out, "no damage") {
		t.Errorf("of the new store: %q", out)
	}
	code, _, stderr = cli(t, "", "cask", "salvage", dir, dst)
	if code != exitFailed || !strings.Contains(stderr, "not empty") || !strings.Contains(stderr, dst) {
		t.Errorf("into what is there: exit code %d, %q", code, stderr)
	}
}

// TestCaskBackupOfAnOpenStoreRestores, and the second one copies less.
func TestCaskBackupOfAnOpenStoreRestores(t *testing.T) {
	dir, backup, restored := t.TempDir(), filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "restored")
	s := filledCask(t, dir)
	var full, more caskCopied
	if err := json.Unmarshal([]byte(mustCLI(t, "cask", "backup", dir, backup, "--output", "json")), &full); err != nil {
		t.Fatal(err)
	}
	if err := s.Put([]byte("new"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(mustCLI(t, "cask", "backup", dir, backup, "--output", "json")), &more); err != nil {
		t.Fatal(err)
	}
	if full.CopiedSegments < 3 || full.Index != 51 || more.CopiedSegments != 1 || more.Index != 52 || more.Segments != full.Segments {
		t.Errorf("full %+v, more %+v", full, more)
	}
	closeCask(t, s)
	if out := mustCLI(t, "cask", "restore", backup, restored); !strings.Contains(out, "up to entry 52") {
		t.Errorf("restore prints %q", out)
	}
	if out := mustCLI(t, "cask", "dump", restored, "--live"); strings.Count(out, "\n") != 50 || !strings.Contains(out, `"new" = "value"`) {
		t.Errorf("the restored store holds %q", out)
	}
	for _, tc := range []struct {
		src, dst string
		want     []string
	}{
		{backup, restored, []string{restored, "not empty"}},
		{dir, filepath.Join(t.TempDir(), "x"), []string{dir, "no whole backup"}},
		{t.TempDir(), filepath.Join(t.TempDir(), "x"), []string{"no whole backup"}},
	} {
		code, stdout, stderr := cli(t, "", "cask", "restore", tc.src, tc.dst)
		for _, want := range tc.want {
			if code != exitFailed || stdout != "" || !strings.Contains(stderr, want) {
				t.Errorf("restore %s %s: exit code %d, stderr %q, want %q", tc.src, tc.dst, code, stderr, want)
			}
		}
	}
	if code, _, stderr := cli(t, "", "cask", "backup", dir, restored); code != exitFailed || !strings.Contains(stderr, "no backup") {
		t.Errorf("backup over a store: exit code %d, %q", code, stderr)
	}
}

// TestCaskFindsTheStoreOfARunningNode below its data directory.
func TestCaskFindsTheStoreOfARunningNode(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	node := make(chan int, 1)
	ready := newLineWaiter("node is up")
	args := append(serveLine(dir), "--log-level", "info", "--bootstrap-expect", "1")
	go func() { node <- run(ctx, args, strings.NewReader(""), io.Discard, ready) }()
	stop := func() {
		cancel()
		if code := <-node; code != exitDone {
			t.Errorf("the node: exit code %d\n%s", code, ready.text())
		}
	}
	defer func() { stop() }()
	ready.wait(t)
	var report caskVerified
	eventually(t, "the log has an entry", func() bool {
		return json.Unmarshal([]byte(mustCLI(t, "cask", "verify", dir, "--output", "json")), &report) == nil && report.Frames > 0
	})
	if !strings.HasPrefix(report.Dir, filepath.Join(dir, "groups")) || len(report.Damage) > 0 {
		t.Errorf("%+v", report)
	}
	mustCLI(t, "cask", "stats", dir)
	mustCLI(t, "cask", "backup", dir, filepath.Join(t.TempDir(), "backup"))
}

func TestCaskSaysWhereItLooked(t *testing.T) {
	empty := t.TempDir()
	several := t.TempDir()
	for _, group := range []string{"0001", "0002"} {
		closeCask(t, filledCask(t, filepath.Join(several, "groups", group, "cask")))
	}
	for _, name := range []string{"verify", "dump", "stats"} {
		if code, stdout, stderr := cli(t, "", "cask", name, empty); code != exitFailed || stdout != "" || !strings.Contains(stderr, empty) || !strings.Contains(stderr, "MANIFEST") {
			t.Errorf("%s of an empty directory: exit code %d, %q", name, code, stderr)
		}
		if code, _, stderr := cli(t, "", "cask", name, filepath.Join(empty, "x")); code != exitFailed || !strings.Contains(stderr, "no such file") {
			t.Errorf("%s of nothing: exit code %d, %q", name, code, stderr)
		}
		if code, _, stderr := cli(t, "", "cask", name, several); code != exitUsage || !strings.Contains(stderr, filepath.Join("0002", "cask")) {
			t.Errorf("%s of two stores: exit code %d, %q", name, code, stderr)
		}
	}
}

// TestCaskBackupOfAnIdleNodeHasWhatItAcknowledgedLast: the node notes what is committed when it comes to rest, and is waited for. What it
// never commits is left out, and counted.
func TestCaskBackupOfAnIdleNodeHasWhatItAcknowledgedLast(t *testing.T) {
	dir := t.TempDir()
	s, err := bitcask.Open(dir, &bitcask.Options{Replicated: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeCask(t, s)
	write := func(index uint64) {
		t.Helper()
		var b bitcask.Batch
		b.Reset(1, 0)
		err := b.Put(fmt.Append(nil, "key-", index), []byte("v"), 0)
		if err := errors.Join(err, s.Append([]bitcask.Entry{{Index: index, Term: 1, Data: b.Detach()}})); err != nil {
			t.Fatal(err)
		}
	}
	backup := func() (index uint64, stderr string) {
		t.Helper()
		var copied caskCopied
		code, stdout, stderr := cli(t, "", "cask", "backup", dir, filepath.Join(t.TempDir(), "backup"), "--output", "json")
		if err := json.Unmarshal([]byte(stdout), &copied); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v: %s", code, err, stderr)
		}
		return copied.Index, stderr
	}
	write(1)
	if err := s.Commit(1); err != nil {
		t.Fatal(err)
	}
	if index, stderr := backup(); index != 1 || stderr != "" {
		t.Errorf("the backup ends at entry %d, %q", index, stderr)
	}
	write(2)
	if index, stderr := backup(); index != 1 || !strings.Contains(stderr, "entries after 1 are not known to be committed, 1 of them, and are left out") {
		t.Errorf("the backup ends at entry %d, %q", index, stderr)
	}
}
