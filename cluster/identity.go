package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/raftcask/raftcask/internal/vfs"
)

const (
	identityFile = "identity.json"
	groupsDir    = "groups"
	maxNodeID    = 64 // bytes; gossip metadata has 512 in all
)

// identity is what a node must never forget or invent. It is written whole, synced, before anything is
// said on the strength of it.
type identity struct {
	NodeID string `json:"node_id"`
	// ClusterID is empty until the node is a member. It never changes afterwards.
	ClusterID string `json:"cluster_id,omitempty"`
	// Prepared is the bootstrap set that this node agreed to (bootstrap.go).
	Prepared *bootstrapSet `json:"prepared,omitempty"`
	// Never holds the cluster ids of sets that this node promised not to agree to.
	Never []string `json:"never,omitempty"`
	// Started is set once the Raft log holds an entry. If the log is empty later, it was lost, and with
	// it the memory of what this node has voted for.
	Started bool `json:"log_started,omitempty"`
	// Removed: an operator took the node out of its cluster.
	Removed bool `json:"removed,omitempty"`
	// Joined: a committed configuration had this node in it.
	Joined bool `json:"joined,omitempty"`
	// Recovering: a recovery (recover.go) has begun and is not finished.
	Recovering bool `json:"recovering,omitempty"`
}

// bootstrapSet is the membership of a new cluster, sorted by id.
type bootstrapSet struct {
	ClusterID string      `json:"cluster_id"`
	Members   []setMember `json:"members"`
}

type setMember struct {
	ID       string `json:"id"`
	PeerAddr string `json:"peer_addr"`
}

func (s *bootstrapSet) has(id string) bool {
	return slices.ContainsFunc(s.Members, func(m setMember) bool { return m.ID == id })
}

// identityStore keeps the identity on disk.
type identityStore struct {
	fs  vfs.FS
	dir string

	mu      sync.Mutex
	cur     identity
	changes uint64 // of cur
}

// NodeID returns the id of the node in dir. If dir has none, it is want, or a generated one when want is empty; Open
// writes it, so that a start that fails before leaves no id behind. An id other than want is ErrIdentity.
func NodeID(dir, want string) (string, error) {
	s, err := readIdentity(vfs.OS(), dir, want)
	if err != nil {
		return "", err
	}
	id := s.get()
	if id.NodeID == "" {
		return newNodeID(want), nil
	}
	return id.NodeID, id.refuse(dir)
}

func newNodeID(want string) string {
	if want == "" {
		return uuid.NewString()
	}
	return want
}

// openIdentity reads the identity, and makes that of a new directory.
func openIdentity(fs vfs.FS, dir, want string) (*identityStore, error) {
	s, err := readIdentity(fs, dir, want)
	if err != nil || s.cur.NodeID != "" {
		return s, err
	}
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	return s, s.update(func(id *identity) error { id.NodeID = newNodeID(want); return nil })
}

// readIdentity leaves NodeID empty for a new directory. One with data but without an identity is not new: a node that
// forgot who it is must not vote.
func readIdentity(fs vfs.FS, dir, want string) (*identityStore, error) {
	s := &identityStore{fs: fs, dir: dir}
	if want != "" {
		if err := checkNodeID(want); err != nil {
			return nil, fmt.Errorf("%w: node id: %w", ErrConfig, err)
		}
	}
	data, err := vfs.ReadFile(fs, filepath.Join(dir, identityFile))
	if errors.Is(err, iofs.ErrNotExist) {
		names, err := fs.List(filepath.Join(dir, groupsDir))
		if err == nil && len(names) > 0 {
			return nil, fmt.Errorf("%w: %s has data but no %s; restore the file, or start with an empty directory and a new node id", ErrIdentity, dir, identityFile)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	if err := json.Unmarshal(data, &s.cur); err != nil {
		return nil, fmt.Errorf("%w: %s is damaged: %w", ErrIdentity, filepath.Join(dir, identityFile), err)
	}
	if err := checkNodeID(s.cur.NodeID); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrIdentity, filepath.Join(dir, identityFile), err)
	}
	if want != "" && want != s.cur.NodeID {
		return nil, fmt.Errorf("%w: %s belongs to node %q, not to %q; use that id, or another directory", ErrIdentity, dir, s.cur.NodeID, want)
	}
	return s, nil
}

// get returns a copy; Prepared and Never are replaced, never changed in place.
func (s *identityStore) get() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

// update changes the identity: on disk first, then in memory. An error of change is returned as it is,
// and nothing is changed.
func (s *identityStore) update(change func(id *identity) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.cur
	if err := change(&next); err != nil {
		return err
	}
	if reflect.DeepEqual(next, s.cur) {
		return nil
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := writeFileAtomic(s.fs, s.dir, identityFile, append(data, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	s.cur = next
	s.changes++
	return nil
}

// changeCount grows with every change.
func (s *identityStore) changeCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// checkNodeID keeps ids fit for file names, labels and log lines.
func checkNodeID(id string) error {
	if id == "" || len(id) > maxNodeID {
		return fmt.Errorf("%q must have 1 to %d characters", id, maxNodeID)
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Errorf("%q has a character %q; letters, digits, '.', '_' and '-' are allowed", id, r)
		}
	}
	return nil
}

// makeDir creates a directory and its missing parents, and makes their names durable: after a power cut a
// synced file in a directory without a name would be gone.
func makeDir(fs vfs.FS, dir string) error {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := fs.List(d); err == nil || d == filepath.Dir(d) {
			break
		}
		missing = append(missing, d)
	}
	if err := fs.MkdirAll(dir); err != nil {
		return err
	}
	for _, d := range missing {
		if err := fs.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// writeFileAtomic replaces a file so that a crash leaves the old contents or the new.
func writeFileAtomic(fs vfs.FS, dir, name string, data []byte) error {
	tmp := filepath.Join(dir, name+".tmp")
	if err := fs.Remove(tmp); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	if err := vfs.WriteFileSync(fs, tmp, data); err != nil {
		return err
	}
	if err := fs.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return fs.SyncDir(dir)
}
