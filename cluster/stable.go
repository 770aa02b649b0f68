package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// The keys under which raft v1.7.3 keeps its vote, and the one under which we do.
var (
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	keyCurrentTerm  = []byte("CurrentTerm")
	keyVote         = []byte("Vote")
)

// stableStore keeps raft's term and vote in a BoltDB file of its own.
//
// raft writes a vote as two values, its term and then its candidate. A crash between the two would leave
// the new term beside the old candidate, and the restarted node would vote a second time in that term,
// without the check of the log (hashicorp/raft#661). Here the term is held back until the candidate
// arrives, and both are one value in one transaction.
type stableStore struct {
	db    keyValues
	watch *stallWatch
	// onFatal is told of every failed write: whether it is on disk is unknown, and the vote depends on it.
	onFatal func(error)

	mu       sync.Mutex
	heldTerm uint64 // of a vote whose candidate has not come yet
	held     bool
}

// keyValues is the part of raftboltdb.BoltStore that is used.
type keyValues interface {
	raft.StableStore
	Close() error
}

func openStable(path string, watch *stallWatch, onFatal func(error)) (*stableStore, error) {
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        time.Second, // a second process gets an error instead of waiting for ever
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &stableStore{db: db, watch: watch, onFatal: onFatal}, nil
}

// Set implements raft.StableStore.
func (s *stableStore) Set(key, value []byte) error {
	if !bytes.Equal(key, keyLastVoteCand) {
		return s.write(key, value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held {
		return errors.New("a vote's candidate came without its term")
	}
	vote := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), s.heldTerm)
	s.held = false
	return s.write(keyVote, append(vote, value...))
}

// SetUint64 implements raft.StableStore.
func (s *stableStore) SetUint64(key []byte, value uint64) error {
	if !bytes.Equal(key, keyLastVoteTerm) {
		return s.write(key, binary.BigEndian.AppendUint64(nil, value))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heldTerm, s.held = value, true
	return nil
}

func (s *stableStore) write(key, value []byte) error {
	done := s.watch.begin("write to raft.db")
	err := s.db.Set(key, value)
	done()
	if err != nil {
		err = fmt.Errorf("write %s to raft.db: %w", key, err)
		s.onFatal(err)
	}
	return err
}

// Get implements raft.StableStore. raft compares the text of a miss: "not found".
func (s *stableStore) Get(key []byte) ([]byte, error) {
	if !bytes.Equal(key, keyLastVoteCand) {
		return s.db.Get(key)
	}
	_, candidate, err := s.vote()
	return candidate, err
}

// GetUint64 implements raft.StableStore.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	if bytes.Equal(key, keyLastVoteTerm) {
		term, _, err := s.vote()
		return term, err
	}
	value, err := s.db.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s in raft.db has %d bytes, not 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// vote reads the last vote that is on disk; one that is held back was not cast.
func (s *stableStore) vote() (term uint64, candidate []byte, err error) {
	value, err := s.db.Get(keyVote)
	if err != nil {
		return 0, nil, err
	}
	if len(value) < 8 {
		return 0, nil, fmt.Errorf("the vote in raft.db has %d bytes", len(value))
	}
	return binary.BigEndian.Uint64(value), value[8:], nil
}

// term is raft's current term on disk, 0 when there is none.
func (s *stableStore) term() (uint64, error) {
	term, err := s.GetUint64(keyCurrentTerm)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, nil
	}
	return term, err
}

func (s *stableStore) Close() error { return s.db.Close() }
