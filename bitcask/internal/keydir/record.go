package keydir

import "encoding/binary"

// record is one key in an arena:
//
//	0  segment u32 | 4 offset u32 | 8 size u32 | 12 version (56 bits) << 8 | flags (8 bits)
//	20 key length u16 | 22 expiry i64, if flagExpires | key
//
// Little-endian, not aligned: two bytes of padding per key are worth more than an aligned load.
type record []byte

const (
	segmentAt   = 0
	offsetAt    = 4
	sizeAt      = 8
	versionAt   = 12
	keyLenAt    = 20
	headerBytes = 22
	expiryBytes = 8

	maxKeyBytes = 1<<16 - 1 // the key length is a uint16
	maxVersion  = 1<<56 - 1
)

const (
	flagExpires   = 1 << iota // an expiry stands before the key
	flagTombstone             // Item.Tombstone
	flagDead                  // garbage: no table leads here
)

func recordBytes(keyLen int, expires bool) int {
	if expires {
		return headerBytes + expiryBytes + keyLen
	}
	return headerBytes + keyLen
}

func (r record) flags() byte   { return r[versionAt] }
func (r record) expires() bool { return r.flags()&flagExpires != 0 }
func (r record) dead() bool    { return r.flags()&flagDead != 0 }
func (r record) markDead()     { r[versionAt] |= flagDead }

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

func (r record) position() Position {
	return Position{
		Segment: binary.LittleEndian.Uint32(r[segmentAt:]),
		Offset:  binary.LittleEndian.Uint32(r[offsetAt:]),
		Size:    binary.LittleEndian.Uint32(r[sizeAt:]),
	}
}

func (r record) item() Item {
	word := binary.LittleEndian.Uint64(r[versionAt:])
	it := Item{Position: r.position(), Version: word >> 8, Tombstone: word&flagTombstone != 0}
	if word&flagExpires != 0 {
		it.ExpireAt = int64(binary.LittleEndian.Uint64(r[headerBytes:]))
	}
	return it
}

// setItem writes everything but the key and its length. Whether r has room for an expiry must fit.
func (r record) setItem(it Item) {
	binary.LittleEndian.PutUint32(r[segmentAt:], it.Segment)
	binary.LittleEndian.PutUint32(r[offsetAt:], it.Offset)
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
