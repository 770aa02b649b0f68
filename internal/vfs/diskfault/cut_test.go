package diskfault

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/internal/vfs"
)

// unlocked is a disk whose locks a process that "died" in this one does not hold.
type unlocked struct{ vfs.FS }

func (unlocked) Lock(string, string) (io.Closer, error) { return io.NopCloser(nil), nil }

// disk is one recorder, and the directories of it and its data.
type disk struct {
	*recorder
	data, notes string
}

func newDisk(t *testing.T) disk {
	t.Helper()
	d := disk{data: t.TempDir(), notes: filepath.Join(t.TempDir(), "notes")}
	d.restart(t)
	return d
}

// restart gives the directory to a successor, as after a kill.
func (d *disk) restart(t *testing.T) {
	t.Helper()
	var err error
	if d.recorder, err = newRecorder(unlocked{vfs.OS()}, d.notes); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) at(name string) string { return filepath.Join(d.data, name) }

func (d *disk) create(t *testing.T, name, text string) vfs.File {
	t.Helper()
	f, err := d.Create(d.at(name))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	write(t, f, text, 0)
	return f
}

// synced creates a file that is durable with its name.
func (d *disk) synced(t *testing.T, name, text string) vfs.File {
	t.Helper()
	f := d.create(t, name, text)
	must(t, f.Sync())
	must(t, d.SyncDir(d.data))
	return f
}

func write(t *testing.T, f vfs.File, text string, off int64) {
	t.Helper()
	_, err := f.WriteAt([]byte(text), off)
	must(t, err)
}

// tree is what a directory holds, "name=contents" each.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if info.IsDir() {
			all = append(all, name+"/")
			return nil
		}
		text, err := os.ReadFile(path)
		all = append(all, name+"="+strings.ReplaceAll(string(text), "\x00", "."))
		return err
	}))
	sort.Strings(all)
	return strings.Join(all, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutTakesWhatWasNotSynced(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, d *disk)
		want string
	}{
		{"synced file and name", func(t *testing.T, d *disk) { d.synced(t, "a", "one") }, "a=one"},
		{"name without its directory", func(t *testing.T, d *disk) { must(t, d.create(t, "a", "one").Sync()) }, ""},
		{"contents without a sync", func(t *testing.T, d *disk) {
			d.create(t, "a", "one")
			must(t, d.SyncDir(d.data))
		}, "a="},
		{"overwritten and made longer", func(t *testing.T, d *disk) { write(t, d.synced(t, "a", "one"), "TWO and more", 0) }, "a=one"},
		{"cut off", func(t *testing.T, d *disk) { must(t, d.synced(t, "a", "one").Truncate(1)) }, "a=one"},
		{"cut off and written again", func(t *testing.T, d *disk) {
			f := d.synced(t, "a", "one two three")
			must(t, f.Truncate(1))
			write(t, f, "four", 1)
		}, "a=one two three"},
		{"preallocated", func(t *testing.T, d *disk) {
			f := d.synced(t, "a", "one")
			must(t, f.Preallocate(10))
			write(t, f, "two", 3)
		}, "a=one"},
		{"written into synced zeros", func(t *testing.T, d *disk) {
			f := d.create(t, "a", "")
			must(t, f.Preallocate(6))
			must(t, f.Sync())
			must(t, d.SyncDir(d.data))
			write(t, f, "two", 1)
		}, "a=......"},
		{"renamed over another", func(t *testing.T, d *disk) {
			d.synced(t, "a", "old")
			d.synced(t, "b", "new")
			must(t, d.Rename(d.at("b"), d.at("a")))
		}, "a=old b=new"},
		{"renamed and synced", func(t *testing.T, d *disk) {
			d.synced(t, "a", "old")
			d.synced(t, "b", "new")
			must(t, d.Rename(d.at("b"), d.at("a")))
			must(t, d.SyncDir(d.data))
		}, "a=new"},
		{"removed", func(t *testing.T, d *disk) {
			d.synced(t, "a", "one")
			must(t, d.Remove(d.at("a")))
		}, "a=one"},
		{"removed for good", func(t *testing.T, d *disk) {
			write(t, d.synced(t, "a", "one"), "TWO", 0)
			must(t, d.Remove(d.at("a")))
			must(t, d.SyncDir(d.data))
		}, ""},
		{"linked", func(t *testing.T, d *disk) {
			d.synced(t, "a", "one")
			must(t, d.Link(d.at("a"), d.at("b")))
		}, "a=one"},
		{"written after it was renamed", func(t *testing.T, d *disk) {
			f := d.synced(t, "a", "one")
			must(t, d.Rename(d.at("a"), d.at("b")))
			must(t, d.SyncDir(d.data))
			write(t, f, "two", 0)
		}, "b=one"},
		{"directory takes its files along", func(t *testing.T, d *disk) {
			must(t, d.MkdirAll(d.at("x/y")))
			must(t, d.create(t, "x/y/a", "one").Sync())
			must(t, d.SyncDir(d.at("x/y")))
			must(t, d.SyncDir(d.at("x")))
		}, ""},
		{"moved out of a directory that is gone", func(t *testing.T, d *disk) {
			must(t, d.MkdirAll(d.at("x")))
			must(t, d.create(t, "x/a", "one").Sync())
			must(t, d.SyncDir(d.at("x")))
			must(t, d.SyncDir(d.data))
			must(t, d.Rename(d.at("x/a"), d.at("a")))
			must(t, d.Remove(d.at("x")))
			must(t, d.SyncDir(d.data))
		}, "a=one"},
		{"failed change", func(t *testing.T, d *disk) {
			d.synced(t, "a", "one")
			if _, err := d.Create(d.at("a")); err == nil {
				t.Fatal("created twice")
			}
			if d.Rename(d.at("none"), d.at("a")) == nil {
				t.Fatal("renamed what is not there")
			}
		}, "a=one"},
		{"a kill, and a power cut later", func(t *testing.T, d *disk) {
			f := d.synced(t, "a", "one")
			write(t, f, "TWO", 0)
			d.restart(t)
			must(t, d.create(t, "b", "x").Sync())
		}, "a=one"},
		{"the successor syncs", func(t *testing.T, d *disk) {
			f := d.synced(t, "a", "one")
			write(t, f, "TWO", 0)
			d.restart(t)
			f, err := d.Open(d.at("a"))
			must(t, err)
			must(t, f.Sync())
			must(t, f.Close())
		}, "a=TWO"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDisk(t)
			test.do(t, &d)
			_, err := Cut(d.notes, nil, 0)
			must(t, err)
			if got := tree(t, d.data); got != test.want {
				t.Errorf("left %q, want %q", got, test.want)
			}
		})
	}
}

func TestKillAloneLosesNothingAndNotesEndWithTheSync(t *testing.T) {
	d := newDisk(t)
	f := d.synced(t, "a", "one")
	write(t, f, "two", 0)
	d.restart(t)
	if got := tree(t, d.data); got != "a=two" {
		t.Fatalf("after a restart: %q", got)
	}
	f, err := d.Open(d.at("a"))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	if got := tree(t, d.notes); got != "notes=" {
		t.Errorf("all is durable, and the notes still hold %q", got)
	}
}

// TestEngineSurvivesRandomPowerCuts runs the real engine over the recorder: whatever a cut takes, acknowledged writes stay.
// It is the recorder that is tested here, by an engine that other tests trust: a cut must not take more than it may.
func TestEngineSurvivesRandomPowerCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := newDisk(t)
	values := map[string][]byte{}
	lost := 0
	for round := range 12 {
		d.restart(t)
		store, err := bitcask.Open(d.at("cask"), &bitcask.Options{FS: d.recorder, SegmentBytes: 1 << 20})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for key, want := range values {
			if got, err := store.Get([]byte(key)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d: %s: %d bytes, %v; want %d bytes", round, key, len(got), err, len(want))
			}
		}
		for i := range rng.IntN(200) {
			key, value := fmt.Sprint("k", rng.IntN(30)), bytes.Repeat([]byte{byte(i)}, rng.IntN(20_000))
			must(t, store.Put([]byte(key), value))
			values[key] = value
		}
		// The process dies in the middle of what was never synced.
		f, err := d.Create(d.at("garbage"))
		must(t, err)
		write(t, f, strings.Repeat("x", 50_000), 0)
		d.mu.Lock() // for good: the dead change nothing
		loss, err := Cut(d.notes, rng, rng.Float64())
		must(t, err)
		lost += loss.Names + loss.Pages + loss.Sizes
		_ = os.Remove(d.at("garbage")) // may have survived
	}
	if lost == 0 {
		t.Error("no cut took anything")
	}
}
