package bitcask

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// Digest sums up the logical contents of a store at one applied entry. Two replicas of one log that have applied the same
// entry have equal digests, whatever each of them merged, received as a snapshot or replayed.
type Digest struct {
	AppliedIndex uint64 `json:"applied_index"`
	AppliedTerm  uint64 `json:"applied_term"`
	Keys         int    `json:"keys"` // without those that had expired by the time that the log carries
	// Sum is over the key, value, version and expiry of each of them, in hexadecimal.
	Sum string `json:"sum"`
}

// Digest reads all of the store, as Scan does: writers are not held up, and every value passes its checksum.
func (s *Store) Digest() (Digest, error) {
	sc, err := s.beginScan(true)
	if err != nil {
		return Digest{}, err
	}
	defer sc.end()
	sc.now = sc.point.time // the clock of this machine is not part of the contents
	d := Digest{AppliedIndex: sc.point.index, AppliedTerm: sc.point.term}
	var sum contentSum
	err = sc.each(nil,
		func(key []byte, it keydir.Item) {
			d.Keys++
			sum.add('k', key, nil, it.Version, it.ExpireAt)
		},
		func(r *record) error {
			sum.add('v', r.key, r.value, 0, r.expireAt)
			return nil
		})
	if err != nil {
		return Digest{}, fmt.Errorf("digest: %w", err)
	}
	d.Sum = fmt.Sprintf("%016x%016x", sum[0], sum[1])
	return d, nil
}

// contentSum adds the hashes of its parts, so that their order does not matter: each replica has one of its own.
type contentSum [2]uint64

func (c *contentSum) add(kind byte, key, value []byte, version uint64, expireAt int64) {
	head := make([]byte, 0, 64)
	head = append(head, kind)
	head = binary.BigEndian.AppendUint64(head, version)
	head = binary.BigEndian.AppendUint64(head, uint64(expireAt))
	head = binary.BigEndian.AppendUint64(head, uint64(len(key)))
	h := sha256.New()
	h.Write(head) // a hash never fails
	h.Write(key)
	h.Write(value)
	sum := h.Sum(head[:0])
	c[0] += binary.BigEndian.Uint64(sum)
	c[1] += binary.BigEndian.Uint64(sum[8:])
}
