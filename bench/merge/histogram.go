package main

import (
	"math/bits"
	"time"
)

// histogram of durations, in buckets of 1/32 of their size.
type histogram struct {
	counts [64 * steps]int64
	n      int64
	max    time.Duration
}

const steps = 32 // buckets for each power of two

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(uint64(max(0, d)))]++
	h.n++
	h.max = max(h.max, d)
}

// bucketOf numbers a bucket; small values have one each.
func bucketOf(v uint64) int {
	if v < steps {
		return int(v)
	}
	shift := bits.Len64(v) - bits.Len64(steps)
	return (shift+1)*steps + int(v>>shift) - steps
}

// upper is the largest value of a bucket.
func upper(bucket int) uint64 {
	if bucket < steps {
		return uint64(bucket)
	}
	shift := bucket/steps - 1
	return uint64(steps+bucket%steps+1)<<shift - 1
}

// at is the duration that a part p of all did not exceed.
func (h *histogram) at(p float64) time.Duration {
	want, seen := int64(p*float64(h.n)), int64(0)
	for i, c := range h.counts {
		if seen += c; c > 0 && seen >= want {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}
