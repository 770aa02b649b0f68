package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/raftcask/raftcask/bitcask"
)

const valueBytes = 256

// load is what the foreground does.
type load struct {
	name       string
	durability bitcask.Durability
	// getEvery and putEvery are the times between the beginnings of two operations; 0: as fast as it goes.
	getEvery, putEvery time.Duration
}

var loads = []load{
	{"busy, unsynced", bitcask.Never, 0, 0},
	{"busy, synced", bitcask.Always, 0, 0},
	{"steady, unsynced", bitcask.Never, 100 * time.Microsecond, 200 * time.Microsecond},
	{"steady, synced", bitcask.Always, 100 * time.Microsecond, time.Millisecond},
}

// latencies of one load, without and with a merge.
type latencies struct {
	load     load
	get, put [2]histogram
}

// latency takes turns: make garbage, measure one phase without a merge and one with, or the other way round.
func latency(ctx context.Context, dir string, l load, o options) (_ *latencies, err error) {
	s, err := bitcask.Open(dir, &bitcask.Options{
		Durability: l.durability, SegmentBytes: o.segment,
		Merge: bitcask.MergePolicy{Disabled: true}, Scrub: bitcask.ScrubPolicy{Disabled: true},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
	if err := overwrite(s, o.keys, 0, 1); err != nil {
		return nil, err
	}
	f := &latencies{load: l}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range o.rounds {
		if err := overwrite(s, o.keys, round%4, 4); err != nil { // every fourth key: what a merge finds when it keeps up
			return nil, err
		}
		if err := s.Sync(); err != nil {
			return nil, err
		}
		phases := []func() error{
			func() error { return f.phase(ctx, s, l, o, rng.Uint64(), 0) },
			func() error { return f.whileMerging(ctx, s, l, o, rng.Uint64(), round+1 < o.rounds) },
		}
		for i := range phases {
			if err := phases[(i+round)%2](); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// whileMerging measures one phase. The merge goes on to its end if there are more phases like this, else it is given up.
func (f *latencies) whileMerging(ctx context.Context, s *bitcask.Store, l load, o options, seed uint64, toEnd bool) error {
	merging, giveUp := context.WithCancel(ctx)
	defer giveUp()
	phase, done := context.WithCancel(ctx)
	defer done()
	merged := make(chan error, 1)
	go func() {
		merged <- s.Merge(merging)
		done() // a merge that ends early ends the phase
	}()
	err := f.phase(phase, s, l, o, seed, 1)
	if !toEnd {
		giveUp()
	}
	mergeErr := <-merged
	if !toEnd && errors.Is(mergeErr, context.Canceled) {
		mergeErr = nil
	}
	return errors.Join(err, mergeErr)
}

// phase runs the foreground for a while.
func (f *latencies) phase(ctx context.Context, s *bitcask.Store, l load, o options, seed uint64, merging int) error {
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	var get, put histogram
	var getErr, putErr error
	var group sync.WaitGroup
	group.Go(func() {
		var buf []byte
		getErr = paced(ctx, l.getEvery, o.keys, seed, &get, func(key []byte) (err error) {
			buf, err = s.GetInto(key, buf[:0])
			return err
		})
	})
	group.Go(func() {
		value := make([]byte, valueBytes)
		putErr = paced(ctx, l.putEvery, o.keys, seed+1, &put, func(key []byte) error { return s.Put(key, value) })
	})
	group.Wait()
	f.get[merging].merge(&get)
	f.put[merging].merge(&put)
	return errors.Join(getErr, putErr)
}

// paced does one operation after another on random keys. With a rate, an operation's time begins when it should have begun.
func paced(ctx context.Context, every time.Duration, keys int, seed uint64, h *histogram, do func(key []byte) error) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	key := make([]byte, 16)
	began := time.Now()
	for n := 0; n%64 != 0 || ctx.Err() == nil; n++ {
		k := keyOf(key, rng.IntN(keys))
		if every > 0 {
			began = began.Add(every)
			if wait := time.Until(began); wait > 0 {
				time.Sleep(wait)
			}
		}
		if err := do(k); err != nil {
			return err
		}
		now := time.Now()
		h.add(now.Sub(began))
		if every == 0 {
			began = now
		}
	}
	return nil
}

// overwrite puts every n-th key from a first one on.
func overwrite(s *bitcask.Store, keys, first, n int) error {
	var b bitcask.Batch
	b.Reset(0, 0)
	value := make([]byte, valueBytes)
	key := make([]byte, 16)
	for k := first; k < keys; k += n {
		if err := b.Put(keyOf(key, k), value, 0); err != nil {
			return err
		}
		if b.Size() > 256<<10 || k+n >= keys {
			if err := s.Write(&b); err != nil {
				return fmt.Errorf("overwrite: %w", err)
			}
			b.Reset(0, 0)
		}
	}
	return nil
}

// keyOf is the 16-byte key of a number: numbers in order are keys in no order.
func keyOf(key []byte, n int) []byte {
	x := uint64(n) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	key = binary.BigEndian.AppendUint64(key[:0], x)
	return binary.BigEndian.AppendUint64(key, uint64(n))
}
