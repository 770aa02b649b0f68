package keydir

import "encoding/binary"

// record is one key in an arena; its place on disk is in the slot that leads here:
//
//	0  size on disk u32 | 4 version (56 bits) << 8 | flags (8 bits)
//	12 key length u16 | 14 expiry i64, if flagExpires | key
//
// Little-endian, not aligned: two bytes of padding per key are worth more than an aligned load.
type record []byte

const (
	sizeAt      = 0
	versionAt   = 4
	keyLenAt    = 12
	headerBytes = 14
	expiryBytes = 8

	maxKeyBytes = 1<<16 - 1 // the key length is a uint16
	maxVersion  = 1<<56 - 1
)

const (
	flagExpires   = 1 << iota // an expiry stands before the key
	flagTombstone             // Item.Tombstone
)

func recordBytes(keyLen int, expires bool) int {
	if expires {
		return headerBytes + expiryBytes + keyLen
	}
	return headerBytes + keyLen
}

func (r record) flags() byte     { return r[versionAt] }
func (r record) expires() bool   { return r.flags()&flagExpires != 0 }
func (r record) tombstone() bool { return r.flags()&flagTombstone != 0 }

// bytes is the length of the record, which starts r.
func (r record) bytes() int {
	return recordBytes(int(binary.LittleEndian.Uint16(r[keyLenAt:])), r.expires())
}

func (r record) key() []byte {
	at := headerBytes
	if r.expires() {
		at += expiryBytes
	}
	end := at + int(binary.LittleEndian.Uint16(r[keyLenAt:]))
	return r[at:end:end]
}

// item is what a slot and its record say together.
func (s *slot) item(r record) (it Item) {
	s.load(r, &it)
	return it
}

// load is item without the copies: see Replace.
func (s *slot) load(r record, it *Item) {
	word := binary.LittleEndian.Uint64(r[versionAt:])
	it.Segment, it.Offset, it.Size = s.segment, s.offset, binary.LittleEndian.Uint32(r[sizeAt:])
	it.Version, it.Tombstone = word>>8, word&flagTombstone != 0
	it.ExpireAt = 0
	if word&flagExpires != 0 {
		it.ExpireAt = int64(binary.LittleEndian.Uint64(r[headerBytes:]))
	}
}

// setItem writes everything but the key and its length. Whether r has room for an expiry must fit.
func (s *slot) setItem(r record, it *Item) {
	s.segment, s.offset = it.Segment, it.Offset
	binary.LittleEndian.PutUint32(r[sizeAt:], it.Size)
	word := it.Version << 8
	if it.Tombstone {
		word |= flagTombstone
	}
	if it.ExpireAt != 0 {
		word |= flagExpires
		binary.LittleEndian.PutUint64(r[headerBytes:], uint64(it.ExpireAt))
	}
	binary.LittleEndian.PutUint64(r[versionAt:], word)
}

// setKey writes the key after setItem has said whether there is an expiry.
func (r record) setKey(key []byte) {
	binary.LittleEndian.PutUint16(r[keyLenAt:], uint16(len(key)))
	copy(r.key(), key)
}
