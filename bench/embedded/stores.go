package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/akrylysov/pogreb"
	"github.com/cockroachdb/pebble/v2"
	"github.com/nutsdb/nutsdb"
	"github.com/rosedblabs/rosedb/v2"
	mills "go.mills.io/bitcask/v2"

	"github.com/raftcask/raftcask/bitcask"
)

// store is what all of them can do.
type store interface {
	put(key, value []byte) error
	// get returns a value that stays valid. buf may be used for it, and is only where the store takes one.
	get(key, buf []byte) ([]byte, error)
	close() error
}

// engine is one of the compared.
type engine struct {
	name string
	// syncs is what a synced put does before it returns.
	syncs string
	// open with its defaults but for what is said in the notes; synced: every put is on disk when it returns.
	open func(dir string, synced bool) (store, error)
	// takesBuffer: get can fill a caller's buffer.
	takesBuffer bool
}

// engines in the order of the table; the first one is ours.
var engines = []engine{
	{"raftcask", "fdatasync, one for all who wait", openRaftcask, true},
	{"pogreb", "fsync of the log, under a lock", openPogreb, false},
	{"pebble", "fdatasync of the WAL, one for all who wait", openPebble, false},
	{"nutsdb", "fsync in each transaction", openNuts, false},
	{"rosedb", "DB.Sync (fsync) after each put", openRose, false},
	{"mills", "fsync in each put", openMills, false},
}

func engineOf(name string) (engine, error) {
	for _, e := range engines {
		if e.name == name {
			return e, nil
		}
	}
	return engine{}, fmt.Errorf("no engine %q", name)
}

var errMissing = errors.New("the key is missing")

type raftcaskStore struct{ *bitcask.Store }

func openRaftcask(dir string, synced bool) (store, error) {
	o := &bitcask.Options{Durability: bitcask.Never, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if synced {
		o.Durability = bitcask.Always
	}
	s, err := bitcask.Open(dir, o)
	return raftcaskStore{s}, err
}

func (s raftcaskStore) put(key, value []byte) error         { return s.Put(key, value) }
func (s raftcaskStore) get(key, buf []byte) ([]byte, error) { return s.GetInto(key, buf) }
func (s raftcaskStore) close() error                        { return s.Close() }

type pogrebStore struct{ *pogreb.DB }

func openPogreb(dir string, synced bool) (store, error) {
	pogreb.SetLogger(nil)
	o := &pogreb.Options{}
	if synced {
		o.BackgroundSyncInterval = -1
	}
	db, err := pogreb.Open(dir, o)
	return pogrebStore{db}, err
}

func (s pogrebStore) put(key, value []byte) error { return s.Put(key, value) }
func (s pogrebStore) close() error                { return s.Close() }

func (s pogrebStore) get(key, _ []byte) ([]byte, error) {
	v, err := s.Get(key)
	if err == nil && v == nil {
		err = errMissing
	}
	return v, err
}

type pebbleStore struct {
	*pebble.DB
	write *pebble.WriteOptions
}

type quietPebble struct{}

func (quietPebble) Infof(string, ...any)  {}
func (quietPebble) Errorf(string, ...any) {}
func (quietPebble) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func openPebble(dir string, synced bool) (store, error) {
	db, err := pebble.Open(dir, &pebble.Options{Logger: quietPebble{}})
	write := pebble.NoSync
	if synced {
		write = pebble.Sync
	}
	return pebbleStore{db, write}, err
}

func (s pebbleStore) put(key, value []byte) error { return s.Set(key, value, s.write) }
func (s pebbleStore) close() error                { return s.Close() }

func (s pebbleStore) get(key, _ []byte) ([]byte, error) {
	v, closer, err := s.Get(key)
	if err != nil {
		return nil, err
	}
	v = append([]byte(nil), v...)
	return v, closer.Close()
}

type nutsStore struct{ *nutsdb.DB }

const nutsBucket = "b"

func openNuts(dir string, synced bool) (store, error) {
	db, err := nutsdb.Open(nutsdb.DefaultOptions, nutsdb.WithDir(dir), nutsdb.WithSyncEnable(synced))
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *nutsdb.Tx) error {
		if tx.ExistBucket(nutsdb.DataStructureBTree, nutsBucket) {
			return nil
		}
		return tx.NewBucket(nutsdb.DataStructureBTree, nutsBucket)
	})
	return nutsStore{db}, err
}

func (s nutsStore) close() error { return s.Close() }

func (s nutsStore) put(key, value []byte) error {
	return s.Update(func(tx *nutsdb.Tx) error { return tx.Put(nutsBucket, key, value, 0) })
}

func (s nutsStore) get(key, _ []byte) (v []byte, err error) {
	err = s.View(func(tx *nutsdb.Tx) error {
		v, err = tx.Get(nutsBucket, key)
		return err
	})
	return v, err
}

type roseStore struct {
	*rosedb.DB
	synced bool
}

func openRose(dir string, synced bool) (store, error) {
	o := rosedb.DefaultOptions
	o.DirPath = dir
	db, err := rosedb.Open(o)
	return roseStore{db, synced}, err
}

func (s roseStore) get(key, _ []byte) ([]byte, error) { return s.Get(key) }
func (s roseStore) close() error                      { return s.Close() }

// put: Options.Sync alone syncs nothing in this version.
func (s roseStore) put(key, value []byte) error {
	if err := s.Put(key, value); err != nil || !s.synced {
		return err
	}
	return s.Sync()
}

type millsStore struct{ *mills.Bitcask }

func openMills(dir string, synced bool) (store, error) {
	db, err := mills.Open(dir, mills.WithSyncWrites(synced), mills.WithAutoRecovery(true))
	return millsStore{db}, err
}

func (s millsStore) put(key, value []byte) error       { return s.Put(key, value) }
func (s millsStore) get(key, _ []byte) ([]byte, error) { return s.Get(key) }
func (s millsStore) close() error                      { return s.Close() }
