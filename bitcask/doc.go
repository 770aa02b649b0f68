// Package bitcask is an embedded, durable key-value engine: an append-only log on
// disk, and an index of it (the keydir) in memory. A write is one append, a read
// is one lookup and one read of the disk.
//
//	db, err := bitcask.Open("data", nil)
//	err = db.Put([]byte("greeting"), []byte("hello"))
//	value, err := db.Get([]byte("greeting"))
//	err = db.Delete([]byte("greeting"))
//	err = db.Close()
//
// By default a write is on disk when it returns; concurrent writers share one
// fdatasync. Keys have 1 to 65,535 bytes and all live in memory (33 to 37 bytes and
// the key for each, up to 9 more below half a million keys, outside the garbage-collected heap); values have up to 8 MiB, or
// 64 with Options.MaxValueBytes. PutFrom and GetReader take large ones from a reader and give them to one.
//
// # Two ways to write
//
// By itself a store numbers its entries and commits each as it is appended. With
// Options.Replicated a consensus log drives it: Append makes entries durable
// but not visible, Commit shows them without any I/O (their records are where
// Append put them), TruncateAfter drops uncommitted ones, and Entry reads them back.
// So the log of a replicated state machine and its storage engine are the
// same bytes, written once. The engine knows nothing of consensus but that an
// entry has an index, a term and a kind, and that a data entry names the term in which it is valid:
// stored in another, it is void.
//
// # Files
//
//	LOCK           held by the process that has the store open; never removed
//	MANIFEST       names every other file that counts: the single commit point
//	00000007.seg   a segment: log entries, or merged records
//	00000007.hint  the keys of a sealed segment, made from it
//	RESERVE        zeros: room for a merge on a full disk; may be missing
//	incoming-*     a checkpoint being received, or a backup being made
//
// Segment ids rise and are never used again. All integers are little-endian, every
// CRC is CRC32C (Castagnoli).
//
// MANIFEST is a line "raftcask manifest 1 length <bytes> crc32c <hex>" and a JSON
// document of that length (type manifest). It is replaced by rename.
//
// A segment is a header of 64 bytes and frames:
//
//	0  "RCASKSEG"          32 store id (16)
//	8  format u16 = 1      48 created, ms since 1970, u64
//	10 kind u8: 1 log,     56 zero u32
//	   2 merged            60 CRC of bytes 0 to 59: the seed of the frames
//	11 zero (5)
//	16 uid (16): names this content wherever it is copied
//
// A frame is one log entry, padded with zeros to a multiple of 8 bytes:
//
//	0  payload length u32         40 kind u8: 0 data, 255 merged records, else opaque
//	4  extension length u32       41 zero (3)
//	8  index u64                  44 records u32
//	16 term u64                   48 CRC of the seed u32, the frame's offset u64
//	24 applied u64: committed        and bytes 0 to 47
//	   when it was written        52 CRC of bytes 0 to 51 and 56 to the end, going on
//	32 synced u64: the file was      from the CRC of the frame before (the seed at first)
//	   synced up to this offset   56 payload: data, then extension
//
// The data of kind 0 is a batch: format u8 = 1, zero (3), records u32, term u64 (0: any),
// leader time in ms u64, records. The data of kind 255 is records only.
//
// A record is one key:
//
//	0  CRC of all that follows    6  key length u16
//	4  flags u8: 1 delete,        8  value length u32
//	   2 expiry, 4 clear,         12 expiry in ms since 1970 u64, if flagged
//	   8 version                     version u64, if flagged
//	5  zero u8                       key, value
//
// Only records of merged segments carry a version: the index of the entry that
// wrote them. A clear has no key, is the first of its batch, and ends every key of
// a lower version.
//
// A hint is a header of 128 bytes ("RCASKHNT", format u16, uid, then u64s: segment
// size, keys, places, index of the first place, last clear, last term, leader time,
// zero, hint size; CRC at 124) and blocks (length u32, kind u32, CRC of both and the
// payload, payload). Blocks of kind 1 hold keys (flags u8, key length u16, offset
// u32, size u32, version u64, expiry u64, key), of kind 2 the frames of a log segment
// (offset/8 u32, CRC of the frame before u32).
//
// # What is assumed, and what is not
//
// The disk may lose what was not synced, in any order and torn at 512 bytes;
// names too, until their directory is synced. It does not change synced bytes
// unnoticed: every one is under a CRC, and what fails it is ErrCorrupt. After a
// failed fsync nothing is believed: the store is poisoned and takes no more writes.
//
// At Open, bytes that are no frame end the log if they are the newest, and
// nothing says that they were ever synced: neither the manifest, nor the synced field of any
// later frame. A crash can have left them, and they are cut off. All else is
// damage: Open fails, names file and offset, and changes nothing.
//
// # Looking at a store, and copying it
//
// OpenReadOnly, Verify, Dump, Salvage and Backup read a store that is closed or open
// elsewhere: they take no lock and change nothing in it. What the manifest names never
// changes under them but for the end of the active segment, and a file that a merge takes away
// meanwhile is looked for again in the newer manifest. A backup is a directory of the same
// form, whose manifest has a saved checkpoint of the name "backup"; that manifest is
// replaced last. Each frame's header has a CRC of its own, bound to file and offset, so frames
// behind damage are found again.
//
// # Goroutines
//
// Open starts one that builds hints and merges, and one that reads sealed segments again (the scrub). In a store that
// does not sync each write, one more writes back behind the writers, and one has memory ready ahead of them. Close ends
// them and waits. Everything else runs on the caller's goroutine.
package bitcask
