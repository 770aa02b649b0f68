package command

// The commands on keys, whatever their values: DEL, EXISTS, TYPE, RENAME, COPY and FLUSHALL.

import "bytes"

// runDel serves UNLINK too: a delete never waits for memory to be given back.
func runDel(tx Tx, args [][]byte) Reply {
	var n int64
	for _, key := range args[1:] {
		_, found, err := tx.Lookup(key)
		if err != nil {
			return failed(err)
		}
		if !found {
			continue
		}
		if err := tx.Delete(key); err != nil {
			return failed(err)
		}
		n++
	}
	return Int(n)
}

// runExists serves TOUCH too, which here changes nothing: there is no eviction by age of use. A key that
// is named twice counts twice.
func runExists(tx Tx, args [][]byte) Reply {
	var n int64
	for _, key := range args[1:] {
		_, found, err := tx.Lookup(key)
		if err != nil {
			return failed(err)
		}
		if found {
			n++
		}
	}
	return Int(n)
}

func runType(tx Tx, args [][]byte) Reply {
	_, found, err := tx.Lookup(args[1])
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return Simple("none")
	}
	return Simple("string")
}

func runRename(tx Tx, args [][]byte) Reply { return rename(tx, args, true, OK()) }

func runRenameNX(tx Tx, args [][]byte) Reply { return rename(tx, args, false, Int(1)) }

// rename moves a value with its expiry. To the same name, it does nothing and RENAMENX says so.
func rename(tx Tx, args [][]byte, replace bool, done Reply) Reply {
	from, to := args[1], args[2]
	value, meta, found, err := tx.Get(from)
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return errNoKey
	case bytes.Equal(from, to) && replace:
		return done
	}
	if !replace {
		_, taken, err := tx.Lookup(to)
		switch {
		case err != nil:
			return failed(err)
		case taken:
			return Int(0)
		}
	}
	if err := tx.Put(to, value, meta.ExpireAt); err != nil {
		return failed(err)
	}
	return deleteFound(tx, from, true, done)
}

func runCopy(tx Tx, args [][]byte) Reply {
	replace := false
	for i := 3; i < len(args); i++ {
		switch {
		case IsWord(args[i], "REPLACE"):
			replace = true
		case IsWord(args[i], "DB") && i+1 < len(args):
			i++
			if bad := CheckDBIndex(args[i]); bad != nil {
				return *bad
			}
		default:
			return errSyntax
		}
	}
	from, to := args[1], args[2]
	if bytes.Equal(from, to) {
		return Err("ERR source and destination objects are the same")
	}
	value, meta, found, err := tx.Get(from)
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return Int(0)
	}
	if !replace {
		_, taken, err := tx.Lookup(to)
		switch {
		case err != nil:
			return failed(err)
		case taken:
			return Int(0)
		}
	}
	return put(tx, to, value, meta.ExpireAt, Int(1))
}

// runFlush serves FLUSHALL and FLUSHDB, which are the same with one database. ASYNC and SYNC are the
// same too: one record says that everything before it is gone.
func runFlush(tx Tx, args [][]byte) Reply {
	if len(args) > 2 || (len(args) == 2 && !IsWord(args[1], "ASYNC") && !IsWord(args[1], "SYNC")) {
		return errSyntax
	}
	if err := tx.Clear(); err != nil {
		return failed(err)
	}
	return OK()
}
