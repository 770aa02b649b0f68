package command

// The commands that look at all keys: SCAN, KEYS, RANDOMKEY, DBSIZE.

import (
	"math"
	"math/rand/v2"
	"strconv"
)

// defaultScanCount is how many keys a SCAN without COUNT looks at, as in Redis.
const defaultScanCount = 10

type scanOptions struct {
	count   int
	pattern []byte // nil matches all
	none    bool   // a TYPE that no key has
}

func parseScanOptions(args [][]byte) (o scanOptions, bad *Reply) {
	o.count = defaultScanCount
	for i := 2; i < len(args); i += 2 {
		if i+1 == len(args) {
			return o, &errSyntax
		}
		arg := args[i+1]
		switch {
		case IsWord(args[i], "COUNT"):
			n, ok := ParseInt(arg)
			if !ok {
				return o, &errNotInteger
			}
			if n < 1 {
				return o, &errSyntax
			}
			o.count = int(min(n, math.MaxInt))
		case IsWord(args[i], "MATCH"):
			o.pattern = pattern(arg)
		case IsWord(args[i], "TYPE"):
			o.none = !IsWord(arg, "STRING")
		default:
			return o, &errSyntax
		}
	}
	return o, nil
}

// pattern is nil for "*", which needs no matching.
func pattern(arg []byte) []byte {
	if len(arg) == 1 && arg[0] == '*' {
		return nil
	}
	return arg
}

// runScan answers the next cursor and the keys. COUNT bounds the keys that are looked at, so that a call
// with a pattern may answer none and still not be the last.
func runScan(tx Tx, args [][]byte) Reply {
	cursor, ok := parseCursor(args[1])
	if !ok {
		return Err("ERR invalid cursor")
	}
	o, bad := parseScanOptions(args)
	if bad != nil {
		return *bad
	}
	var keys Strings
	take := func(key []byte, _ Meta) {
		if !o.none && (o.pattern == nil || MatchGlob(o.pattern, key)) {
			keys.Add(key)
		}
	}
	for left := o.count; ; {
		step := min(left, keysStep)
		cursor = tx.Scan(cursor, step, take)
		if left -= step; left == 0 || cursor == 0 {
			break
		}
	}
	return Array(Bulk(strconv.AppendUint(nil, cursor, 10)), keys.Reply())
}

// keysStep is how many keys SCAN and KEYS ask the store for at a time at most, so that the store's locks are let go in
// between.
const keysStep = 1024

func runKeys(tx Tx, args [][]byte) Reply {
	wanted := pattern(args[1])
	var keys Strings
	for cursor := uint64(0); ; {
		cursor = tx.Scan(cursor, keysStep, func(key []byte, _ Meta) {
			if wanted == nil || MatchGlob(wanted, key) {
				keys.Add(key)
			}
		})
		if cursor == 0 {
			return keys.Reply()
		}
	}
}

const (
	// randomKeySample is how many neighbors RANDOMKEY draws from, which evens out the gaps between the
	// hashes of the keys.
	randomKeySample = 16
	// cursorBits is the width of the engine's cursors.
	cursorBits = 48
)

// runRandomKey jumps to a random place of the iteration and draws one of the keys that follow it. Every
// key can be drawn; those after a large gap somewhat more often.
func runRandomKey(tx Tx, _ [][]byte) Reply {
	var sample [][]byte
	take := func(key []byte, _ Meta) {
		if len(sample) < randomKeySample {
			sample = append(sample, append([]byte(nil), key...))
		}
	}
	start := rand.Uint64N(1 << cursorBits)
	for cursor := start; ; {
		if cursor = tx.Scan(cursor, randomKeySample, take); cursor == 0 || len(sample) > 0 {
			break
		}
	}
	// Nothing between start and the end: go round from the beginning.
	for cursor := uint64(0); len(sample) == 0; {
		if cursor = tx.Scan(cursor, randomKeySample, take); cursor == 0 {
			break
		}
	}
	if len(sample) == 0 {
		return Nil()
	}
	return Bulk(sample[rand.IntN(len(sample))])
}

func runDBSize(tx Tx, _ [][]byte) Reply { return Int(int64(tx.Len())) }
