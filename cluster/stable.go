package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/raftcask/raftcask/bitcask"
)

// The keys under which raft v1.7.3 keeps its term and its vote, and the one under which we keep both. Earlier versions had the
// term under raft's key, and the vote under keyVote.
var (
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	keyCurrentTerm  = []byte("CurrentTerm")
	keyVote         = []byte("Vote")
	keyBallot       = []byte("Ballot")
)

// stableStore keeps raft's term and vote in a BoltDB file of its own.
//
// raft writes a vote as two values, its term and then its candidate. A crash between the two would leave
// the new term beside the old candidate, and the restarted node would vote a second time in that term,
// without the check of the log (hashicorp/raft#661). Here the term is held back until the candidate
// arrives. All is one value, with a checksum: BoltDB has none over values, and a vote that a disk has changed would be
// one that was never cast.
type stableStore struct {
	path  string
	db    keyValues
	watch *stallWatch
	// onFatal is told of every failed write: whether it is on disk is unknown, and the vote depends on it.
	onFatal func(error)

	// mu is held across a write and its fsync: nobody may see what is not on disk yet.
	mu       sync.Mutex
	stored   ballot
	heldTerm uint64 // of a vote whose candidate has not come yet
	held     bool
}

// ballot is the current term, and the last vote that was cast. A term of 0 is none.
type ballot struct {
	term, voteTerm uint64
	candidate      []byte
}

// keyValues is the part of raftboltdb.BoltStore that is used.
type keyValues interface {
	Set(key, value []byte) error
	Get(key []byte) ([]byte, error)
	Close() error
}

// openStable opens the file, or makes it. One that does not read is bitcask.ErrCorrupt.
func openStable(path string, watch *stallWatch, onFatal func(error)) (*stableStore, error) {
	s := &stableStore{path: path, watch: watch, onFatal: onFatal}
	err := withoutPanic(func() error {
		if err := readBolt(path); err != nil {
			return err
		}
		db, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(false), MsgpackUseNewTimeFormat: true})
		if err != nil {
			return err
		}
		s.db = db
		return s.load()
	})
	if err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func boltOptions(readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout:        time.Second, // a second process gets an error instead of waiting for ever
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		ReadOnly:       readOnly,
	}
}

// readBolt looks the ballot up before the file is opened to be written: then BoltDB reads pages on a goroutine of its own, where
// nobody can catch its panic over a damaged one.
func readBolt(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, iofs.ErrNotExist) || (err == nil && info.Size() == 0) {
		return nil // it is made
	}
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, boltOptions(true))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // only read
	return db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("conf")); b != nil { // raft-boltdb's name
			b.Get(keyBallot)
		}
		return nil
	})
}

// withoutPanic returns a panic as damage: BoltDB panics where it meets a page that is none, and a file that is shorter than its
// map is a fault.
func withoutPanic(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", bitcask.ErrCorrupt, p)
		}
	}()
	return fn()
}

// load reads what is stored.
func (s *stableStore) load() error {
	value, err := s.get(keyBallot)
	if err != nil {
		return err
	}
	if value != nil {
		s.stored, err = decodeBallot(value)
		return err
	}
	term, err := s.get(keyCurrentTerm)
	if err != nil {
		return err
	}
	vote, err := s.get(keyVote)
	if err != nil {
		return err
	}
	if (term != nil && len(term) != 8) || (vote != nil && len(vote) < 8) {
		return fmt.Errorf("%w: the term has %d bytes, the vote %d", bitcask.ErrCorrupt, len(term), len(vote))
	}
	if term != nil {
		s.stored.term = binary.BigEndian.Uint64(term)
	}
	if vote != nil {
		s.stored.voteTerm, s.stored.candidate = binary.BigEndian.Uint64(vote), vote[8:]
	}
	return nil
}

// get returns nil for what is not there.
func (s *stableStore) get(key []byte) ([]byte, error) {
	value, err := s.db.Get(key)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, nil
	}
	return value, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode is the CRC-32C of the rest, the term, the term of the vote, all big-endian, and the candidate.
func (b *ballot) encode() []byte {
	out := make([]byte, 4, 20+len(b.candidate))
	out = binary.BigEndian.AppendUint64(out, b.term)
	out = binary.BigEndian.AppendUint64(out, b.voteTerm)
	out = append(out, b.candidate...)
	binary.BigEndian.PutUint32(out, crc32.Checksum(out[4:], castagnoli))
	return out
}

func decodeBallot(value []byte) (ballot, error) {
	if len(value) < 20 || binary.BigEndian.Uint32(value) != crc32.Checksum(value[4:], castagnoli) {
		return ballot{}, fmt.Errorf("%w: the term and the vote do not match their checksum", bitcask.ErrCorrupt)
	}
	return ballot{binary.BigEndian.Uint64(value[4:]), binary.BigEndian.Uint64(value[12:]), bytes.Clone(value[20:])}, nil
}

// Set implements raft.StableStore.
func (s *stableStore) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.stored
	switch {
	case bytes.Equal(key, keyCurrentTerm) && len(value) == 8:
		next.term = binary.BigEndian.Uint64(value)
	case bytes.Equal(key, keyLastVoteCand) && s.held:
		next.voteTerm, next.candidate = s.heldTerm, bytes.Clone(value)
		s.held = false
	case bytes.Equal(key, keyLastVoteCand):
		return errors.New("a vote's candidate came without its term")
	default:
		return fmt.Errorf("raft.db has no place for %d bytes of %q", len(value), key)
	}
	done := s.watch.begin("write to raft.db")
	err := withoutPanic(func() error { return s.db.Set(keyBallot, next.encode()) })
	done()
	if err != nil {
		err = fmt.Errorf("write raft's term and vote to %s: %w", s.path, err)
		s.onFatal(err)
		return err
	}
	s.stored = next
	return nil
}

// SetUint64 implements raft.StableStore.
func (s *stableStore) SetUint64(key []byte, value uint64) error {
	if !bytes.Equal(key, keyLastVoteTerm) {
		return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heldTerm, s.held = value, true
	return nil
}

// Get implements raft.StableStore. raft compares the text of a miss: "not found".
func (s *stableStore) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch b := &s.stored; {
	case bytes.Equal(key, keyCurrentTerm) && b.term != 0:
		return binary.BigEndian.AppendUint64(nil, b.term), nil
	case bytes.Equal(key, keyLastVoteTerm) && b.voteTerm != 0: // one that is held back was not cast
		return binary.BigEndian.AppendUint64(nil, b.voteTerm), nil
	case bytes.Equal(key, keyLastVoteCand) && b.voteTerm != 0:
		return bytes.Clone(b.candidate), nil
	}
	return nil, raftboltdb.ErrKeyNotFound
}

// GetUint64 implements raft.StableStore.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s in raft.db has %d bytes", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// term is raft's current term on disk, 0 when there is none.
func (s *stableStore) term() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored.term
}

// Close closes the file.
func (s *stableStore) Close() error { return s.db.Close() }

var _ raft.StableStore = (*stableStore)(nil)
