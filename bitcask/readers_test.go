package bitcask

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
)

func TestWaitEndsWhenThoseWhoWereInsideHaveLeft(t *testing.T) {
	var r readers
	r.wait() // nobody is there
	first := r.enter()
	done := make(chan struct{})
	go func() {
		r.wait()
		close(done)
	}()
	for r.phase.Load() == 2 { // the wait before has turned it twice
		select {
		case <-done:
			t.Fatal("the wait ended with somebody inside")
		default:
		}
	}
	second := r.enter() // came later: a wait may end without him
	select {
	case <-done:
		t.Fatal("the wait ended with somebody inside")
	default:
	}
	first.leave()
	second.leave()
	<-done
}

// A get that finds one key of a batch must not be followed by one that does not find the other (I3).
func TestGetsSeeABatchWhole(t *testing.T) {
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never})
	t.Cleanup(func() { _ = db.Close() })
	const keys, rounds = 40, 1500
	key := func(i int) []byte { return fmt.Appendf(nil, "key %d", i) }
	write := func(n uint64) {
		b := new(Batch)
		for i := range keys {
			must(t, b.Put(key(i), binary.BigEndian.AppendUint64(nil, n), 0))
		}
		must(t, db.Write(b))
	}
	write(0)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first, err1 := db.Get(key(0))
				last, err2 := db.Get(key(keys - 1))
				if err := errors.Join(err1, err2); err != nil {
					t.Error(err)
					return
				}
				if bytes.Compare(last, first) < 0 {
					t.Errorf("the first key was of batch %x, then the last of batch %x", first, last)
					return
				}
			}
		})
	}
	for n := range uint64(rounds) {
		write(n + 1)
	}
	close(stop)
	group.Wait()
}

// TestGetsDoNotSeeTheInsideOfABatch: a batch that deletes a key and puts it again never shows it missing, nor the first of two
// values.
func TestGetsDoNotSeeTheInsideOfABatch(t *testing.T) {
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never})
	t.Cleanup(func() { _ = db.Close() })
	key := []byte("k")
	b := new(Batch)
	write := func() {
		b.Reset(0, 0)
		must(t, b.Delete(key))
		must(t, b.Put(key, []byte("inside"), 0))
		for i := range 30 {
			must(t, b.Put(fmt.Append(nil, i), nil, 0))
		}
		must(t, b.Put(key, []byte("whole"), 0))
		must(t, db.Write(b))
	}
	write()
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			value, err := db.Get(key)
			_, ok := db.Lookup(key)
			if string(value) != "whole" || err != nil || !ok {
				t.Errorf("k is %q, %v, found %v", value, err, ok)
				return
			}
		}
	})
	for range 5000 {
		write()
	}
	close(stop)
	group.Wait()
}

// Gets hold no reference: a merge must not close what they read.
func TestGetsOutliveTheSegmentsThatMergesTake(t *testing.T) {
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never, SegmentBytes: 64 << 10, Merge: MergePolicy{Disabled: true}})
	t.Cleanup(func() { _ = db.Close() })
	const keys = 50
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 200+100*i) } // probes and whole reads
	key := func(i int) []byte { return fmt.Appendf(nil, "key %d", i) }
	var group sync.WaitGroup
	stop := make(chan struct{})
	for i := range keys {
		must(t, db.Put(key(i), value(i)))
	}
	for range 2 {
		group.Go(func() {
			for i := 0; ; i = (i + 1) % keys {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := db.Get(key(i)); err != nil || !bytes.Equal(got, value(i)) {
					t.Errorf("key %d: %d bytes, %v", i, len(got), err)
					return
				}
			}
		})
	}
	for range 15 {
		for i := range keys {
			must(t, db.Put(key(i), value(i)))
		}
		must(t, db.Merge(t.Context()))
	}
	close(stop)
	group.Wait()
}
