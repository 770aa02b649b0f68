package command

// The commands that read and write one value: GET, SET and their variants, APPEND, ranges, MGET, MSET.

import (
	"bytes"
	"fmt"
)

// maxReplyBytes bounds the values in one MGET reply, which is built in memory. 512 MiB, the largest
// single value Redis would send.
const maxReplyBytes = 512 << 20

func runGet(tx Tx, args [][]byte) Reply { return get(tx, args[1]) }

func get(tx Tx, key []byte) Reply {
	value, _, ok, err := tx.Get(key)
	switch {
	case err != nil:
		return failed(err)
	case !ok:
		return Nil()
	}
	return Bulk(value)
}

func runMGet(tx Tx, args [][]byte) Reply {
	values := make([]Reply, 0, len(args)-1)
	total := 0
	for _, key := range args[1:] {
		value := get(tx, key)
		if value.IsErr() {
			return value
		}
		if total += len(value.data); total > maxReplyBytes {
			return Err(fmt.Sprintf("ERR the values are longer than %d bytes together: ask for fewer keys at a time", maxReplyBytes))
		}
		values = append(values, value)
	}
	return Array(values...)
}

func runStrlen(tx Tx, args [][]byte) Reply {
	meta, ok, err := tx.Lookup(args[1])
	switch {
	case err != nil:
		return failed(err)
	case !ok:
		return Int(0)
	}
	return Int(int64(meta.ValueLen))
}

// runGetRange serves SUBSTR as well, its old name.
func runGetRange(tx Tx, args [][]byte) Reply {
	start, ok1 := ParseInt(args[2])
	end, ok2 := ParseInt(args[3])
	if !ok1 || !ok2 {
		return errNotInteger
	}
	value, _, _, err := tx.Get(args[1])
	if err != nil {
		return failed(err)
	}
	n := int64(len(value))
	if start < 0 && end < 0 && start > end {
		return Bulk(nil)
	}
	if start < 0 {
		start = max(n+start, 0)
	}
	if end < 0 {
		end = max(n+end, 0)
	}
	end = min(end, n-1)
	if start > end {
		return Bulk(nil)
	}
	return Bulk(value[start : end+1])
}

func runSet(tx Tx, args [][]byte) Reply {
	if len(args) == 3 { // the common form needs to know nothing of the old value
		return put(tx, args[1], args[2], 0, OK())
	}
	o, ok := parseSetOptions(args)
	if !ok {
		return errSyntax
	}
	expireAt, bad := o.expiry.deadline(tx.Now(), "set")
	if bad != nil {
		return *bad
	}
	past := expireAt != 0 && expireAt <= tx.Now() // EXAT, PXAT: the key would be gone at once
	if o.condition == always && !o.get && o.expiry.kind != expiryKeep && !past {
		return put(tx, args[1], args[2], expireAt, OK())
	}
	old, bad := o.look(tx, args[1])
	if bad != nil {
		return *bad
	}
	reply := OK()
	if o.get {
		reply = old.reply
	}
	switch {
	case !old.holds && o.get:
		return reply
	case !old.holds:
		return Nil()
	case past:
		return deleteFound(tx, args[1], old.found, reply)
	case o.expiry.kind == expiryKeep:
		expireAt = old.meta.ExpireAt
	}
	return put(tx, args[1], args[2], expireAt, reply)
}

// present is a key before SET writes it.
type present struct {
	found bool
	meta  Meta
	reply Reply // its value, if the options need it
	holds bool  // the condition of the SET
}

func (o *setOptions) look(tx Tx, key []byte) (p present, bad *Reply) {
	var value []byte
	var err error
	if o.get || o.condition == ifEqual {
		value, p.meta, p.found, err = tx.Get(key)
	} else {
		p.meta, p.found, err = tx.Lookup(key)
	}
	if err != nil {
		r := failed(err)
		return p, &r
	}
	p.reply = Nil()
	if p.found {
		p.reply = Bulk(value)
	}
	switch o.condition {
	case ifAbsent:
		p.holds = !p.found
	case ifPresent:
		p.holds = p.found
	case ifEqual:
		p.holds = p.found && bytes.Equal(value, o.expected)
	default:
		p.holds = true
	}
	return p, nil
}

func runSetNX(tx Tx, args [][]byte) Reply {
	_, found, err := tx.Lookup(args[1])
	switch {
	case err != nil:
		return failed(err)
	case found:
		return Int(0)
	}
	return put(tx, args[1], args[2], 0, Int(1))
}

func runSetEX(tx Tx, args [][]byte) Reply {
	return setWithTTL(tx, args, expiry{kind: expiryEX, arg: args[2]}, "setex")
}

func runPSetEX(tx Tx, args [][]byte) Reply {
	return setWithTTL(tx, args, expiry{kind: expiryPX, arg: args[2]}, "psetex")
}

func setWithTTL(tx Tx, args [][]byte, ttl expiry, name string) Reply {
	expireAt, bad := ttl.deadline(tx.Now(), name)
	if bad != nil {
		return *bad
	}
	return put(tx, args[1], args[3], expireAt, OK())
}

func runGetSet(tx Tx, args [][]byte) Reply {
	old := get(tx, args[1])
	if old.IsErr() {
		return old
	}
	return put(tx, args[1], args[2], 0, old)
}

func runGetDel(tx Tx, args [][]byte) Reply {
	old := get(tx, args[1])
	if old.IsErr() {
		return old
	}
	return deleteFound(tx, args[1], old.kind != KindNil, old)
}

func runGetEX(tx Tx, args [][]byte) Reply {
	e, ok := parseGetExOptions(args)
	if !ok {
		return errSyntax
	}
	value, meta, found, err := tx.Get(args[1])
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return Nil()
	}
	expireAt, bad := e.deadline(tx.Now(), "getex")
	switch {
	case bad != nil:
		return *bad
	case e.kind == expiryNone || (e.kind == expiryPersist && meta.ExpireAt == 0):
		return Bulk(value)
	case expireAt != 0 && expireAt <= tx.Now():
		return deleteFound(tx, args[1], true, Bulk(value))
	}
	return put(tx, args[1], value, expireAt, Bulk(value))
}

func runMSet(tx Tx, args [][]byte) Reply {
	if len(args)%2 == 0 {
		return WrongArgs("mset")
	}
	return putAll(tx, args, OK())
}

func runMSetNX(tx Tx, args [][]byte) Reply {
	if len(args)%2 == 0 {
		return WrongArgs("msetnx")
	}
	for i := 1; i < len(args); i += 2 {
		_, found, err := tx.Lookup(args[i])
		switch {
		case err != nil:
			return failed(err)
		case found:
			return Int(0)
		}
	}
	return putAll(tx, args, Int(1))
}

func putAll(tx Tx, args [][]byte, reply Reply) Reply {
	for i := 1; i < len(args); i += 2 {
		if err := tx.Put(args[i], args[i+1], 0); err != nil {
			return failed(err)
		}
	}
	return reply
}

func runAppend(tx Tx, args [][]byte) Reply {
	old, meta, _, err := tx.Get(args[1])
	if err != nil {
		return failed(err)
	}
	n := len(old) + len(args[2])
	if n > hardMaxValueBytes {
		return errTooLong
	}
	value := make([]byte, 0, n)
	value = append(append(value, old...), args[2]...)
	return put(tx, args[1], value, meta.ExpireAt, Int(int64(n)))
}

func runSetRange(tx Tx, args [][]byte) Reply {
	offset, ok := ParseInt(args[2])
	switch {
	case !ok:
		return errNotInteger
	case offset < 0:
		return errOffsetRange
	}
	old, meta, _, err := tx.Get(args[1])
	if err != nil {
		return failed(err)
	}
	patch := args[3]
	if len(patch) == 0 { // nothing to write: not even the padding
		return Int(int64(len(old)))
	}
	if offset > int64(hardMaxValueBytes-len(patch)) {
		return errTooLong
	}
	value := make([]byte, max(len(old), int(offset)+len(patch)))
	copy(value, old)
	copy(value[offset:], patch)
	return put(tx, args[1], value, meta.ExpireAt, Int(int64(len(value))))
}

// put is the effect of most writes: it answers reply once the value is taken.
func put(tx Tx, key, value []byte, expireAt int64, reply Reply) Reply {
	if err := tx.Put(key, value, expireAt); err != nil {
		return failed(err)
	}
	return reply
}

// deleteFound deletes the key if it was found there, and answers reply.
func deleteFound(tx Tx, key []byte, found bool, reply Reply) Reply {
	if !found {
		return reply
	}
	if err := tx.Delete(key); err != nil {
		return failed(err)
	}
	return reply
}
