// Package diskfault makes a machine sick at run time: its disk is slow, hangs, fails, fills up, flips bits or kills the process
// at a chosen operation; after a power cut the disk lacks what was not synced; the clock jumps. The binary that the
// integration tests build with the tag "faults" has it below everything that uses package vfs. No other binary does: the
// product does not import this package, and a test holds that.
//
//	the node                                       the test
//	m, err := diskfault.Start(vfs.OS(), settings)     err := diskfault.Send(socket, diskfault.Request{Add: []diskfault.Rule{{…}}})
//	vfs.ReplaceOS(m.Disk())                        …SIGKILL…
//	now := m.Now()                                 loss, err := diskfault.Cut(dir, rng, 0.5)
//
// # What is covered
//
// Everything that goes through package vfs: segments, hints, the manifest, staged snapshots, the node's identity and list of
// peers, and their directories. Not covered: raft.db (term and vote), which BoltDB writes by its own file access. It sees no
// fault, and a power cut takes nothing from it: BoltDB syncs before it answers. Memory maps are not offered to
// the engine, so that each read passes by here; the plain binary, which all other tests use, reads through maps.
//
// # A power cut
//
// A SIGKILL loses nothing: the kernel keeps what was written. So the recorder (recorder.go) notes, before each change, how to undo
// it, and forgets that note when a sync makes the change durable. After the kill the test undoes all of what is left, or a
// random part: pages of a file survive each by itself, changes of names up to a random one. Notes of a process that was
// only killed stay for its successor, because what it has not synced may still be lost.
//
// # Goroutines
//
// Start has one that serves the control socket until the process ends.
package diskfault

import (
	"encoding/json"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// Settings of a machine, given to the process by its environment.
type Settings struct {
	Socket string // path of the unix socket that takes requests
	// Dir is where the recorder keeps its notes: on the same file system as the data, for this node alone.
	Dir   string
	Rules []Rule // in force from the start
}

// Variables of the environment that hold the Settings; the rules as a JSON list.
const (
	EnvSocket = "RAFTCASK_FAULTS_SOCKET"
	EnvDir    = "RAFTCASK_FAULTS_DIR"
	EnvRules  = "RAFTCASK_FAULTS_RULES"
)

// FromEnv reads the Settings; false when the process is to stay healthy.
func FromEnv(getenv func(string) string) (s Settings, ok bool, err error) {
	s = Settings{Socket: getenv(EnvSocket), Dir: getenv(EnvDir)}
	if s.Socket == "" {
		return s, false, nil
	}
	if text := getenv(EnvRules); text != "" {
		if err := json.Unmarshal([]byte(text), &s.Rules); err != nil {
			return s, false, fmt.Errorf("%s: %w", EnvRules, err)
		}
	}
	return s, true, nil
}

// Machine is the sick one.
type Machine struct {
	disk  *vfs.Faulty
	rules ruleSet
	skew  atomic.Int64 // nanoseconds added to the clock
}

// Start wraps the disk and takes requests from now on, until the process ends.
func Start(disk vfs.FS, s Settings) (*Machine, error) {
	m := &Machine{}
	if err := m.rules.add(s.Rules); err != nil {
		return nil, err
	}
	recorder, err := newRecorder(disk, s.Dir)
	if err != nil {
		return nil, err
	}
	m.disk = vfs.NewFaulty(recorder, m.rules.strike)
	listener, err := net.Listen("unix", s.Socket)
	if err != nil {
		return nil, err
	}
	go m.serve(listener)
	return m, nil
}

// Disk is the file system with its faults.
func (m *Machine) Disk() vfs.FS { return m.disk }

// Now is the time by the machine's clock.
func (m *Machine) Now() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }
