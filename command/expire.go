package command

// The commands that set and tell the expiry of a key. What is stored is always an absolute time.

import "math"

const (
	inSeconds = 1000
	inMillis  = 1
)

func runExpire(tx Tx, args [][]byte) Reply {
	return expire(tx, args, tx.Now(), inSeconds, "expire")
}

func runPExpire(tx Tx, args [][]byte) Reply {
	return expire(tx, args, tx.Now(), inMillis, "pexpire")
}

func runExpireAt(tx Tx, args [][]byte) Reply { return expire(tx, args, 0, inSeconds, "expireat") }

func runPExpireAt(tx Tx, args [][]byte) Reply { return expire(tx, args, 0, inMillis, "pexpireat") }

// expire moves the expiry of a key to base plus its argument in units of unit ms. A time that has
// already passed deletes the key, as in Redis. The value travels again with the new expiry, since effects
// are whole puts.
func expire(tx Tx, args [][]byte, base, unit int64, name string) Reply {
	flags, bad := parseExpireFlags(args)
	if bad != nil {
		return *bad
	}
	when, ok := ParseInt(args[2])
	switch {
	case !ok:
		return errNotInteger
	case when > math.MaxInt64/unit || when < math.MinInt64/unit || when*unit > math.MaxInt64-base:
		return badExpire(name)
	}
	when = when*unit + base
	meta, found, err := tx.Lookup(args[1])
	switch {
	case err != nil:
		return failed(err)
	case !found || !flags.allow(meta.ExpireAt, when):
		return Int(0)
	case when <= tx.Now():
		return deleteFound(tx, args[1], true, Int(1))
	}
	return setExpiry(tx, args[1], when)
}

func runPersist(tx Tx, args [][]byte) Reply {
	meta, found, err := tx.Lookup(args[1])
	switch {
	case err != nil:
		return failed(err)
	case !found || meta.ExpireAt == 0:
		return Int(0)
	}
	return setExpiry(tx, args[1], 0)
}

// setExpiry puts the present value of a key that was found with another expiry.
func setExpiry(tx Tx, key []byte, expireAt int64) Reply {
	value, _, found, err := tx.Get(key)
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return Int(0)
	}
	return put(tx, key, value, expireAt, Int(1))
}

func runTTL(tx Tx, args [][]byte) Reply { return timeLeft(tx, args[1], tx.Now(), inSeconds) }

func runPTTL(tx Tx, args [][]byte) Reply { return timeLeft(tx, args[1], tx.Now(), inMillis) }

func runExpireTime(tx Tx, args [][]byte) Reply { return timeLeft(tx, args[1], 0, inSeconds) }

func runPExpireTime(tx Tx, args [][]byte) Reply { return timeLeft(tx, args[1], 0, inMillis) }

// timeLeft is the expiry of a key after base, in units of unit ms, rounded to the nearest; -2 when there
// is no key, -1 when it does not expire.
func timeLeft(tx Tx, key []byte, base, unit int64) Reply {
	meta, found, err := tx.Lookup(key)
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return Int(-2)
	case meta.ExpireAt == 0:
		return Int(-1)
	}
	left := meta.ExpireAt - base
	if unit == inSeconds {
		// Rounded as Redis does, but without the overflow of adding half a second first.
		left = left/inSeconds + (left%inSeconds+inSeconds/2)/inSeconds
	}
	return Int(left)
}
