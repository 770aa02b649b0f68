package command

import "math"

// condition says when SET writes.
type condition uint8

const (
	always    condition = iota
	ifAbsent            // NX
	ifPresent           // XX
	ifEqual             // IFEQ: the present value is the given one
)

// expiryKind is what SET and GETEX do to the expiry of the key.
type expiryKind uint8

const (
	expiryNone    expiryKind = iota // SET removes it, GETEX leaves it
	expiryKeep                      // KEEPTTL
	expiryPersist                   // PERSIST
	expiryEX                        // in seconds from now
	expiryPX                        // in milliseconds from now
	expiryEXAT                      // at a Unix time in seconds
	expiryPXAT                      // at a Unix time in milliseconds
)

type expiry struct {
	kind expiryKind
	arg  []byte // the number after EX, PX, EXAT, PXAT
}

// deadline is the absolute expiry in ms that an EX, PX, EXAT or PXAT asks for, and 0 for the other kinds.
func (e expiry) deadline(now int64, name string) (int64, *Reply) {
	if e.kind < expiryEX {
		return 0, nil
	}
	n, ok := ParseInt(e.arg)
	if !ok {
		return 0, &errNotInteger
	}
	seconds := e.kind == expiryEX || e.kind == expiryEXAT
	if n <= 0 || (seconds && n > math.MaxInt64/1000) {
		bad := badExpire(name)
		return 0, &bad
	}
	if seconds {
		n *= 1000
	}
	if e.kind == expiryEX || e.kind == expiryPX {
		if n > math.MaxInt64-now {
			bad := badExpire(name)
			return 0, &bad
		}
		n += now
	}
	return n, nil
}

// set takes an option that changes the expiry. Two different ones exclude each other; the same one
// twice is accepted by Redis, and the last counts.
func (e *expiry) set(kind expiryKind, arg []byte) bool {
	if e.kind != expiryNone && e.kind != kind {
		return false
	}
	*e = expiry{kind: kind, arg: arg}
	return true
}

type setOptions struct {
	condition condition
	expected  []byte // of ifEqual
	get       bool
	expiry    expiry
}

// parseSetOptions reads what follows "SET key value", in any order; false is a syntax error.
func parseSetOptions(args [][]byte) (o setOptions, ok bool) {
	for i := 3; i < len(args); i++ {
		switch arg := args[i]; {
		case IsWord(arg, "NX") && (o.condition == always || o.condition == ifAbsent):
			o.condition = ifAbsent
		case IsWord(arg, "XX") && (o.condition == always || o.condition == ifPresent):
			o.condition = ifPresent
		case IsWord(arg, "IFEQ") && o.condition == always && i+1 < len(args):
			i++
			o.condition, o.expected = ifEqual, args[i]
		case IsWord(arg, "GET"):
			o.get = true
		case IsWord(arg, "KEEPTTL"):
			if !o.expiry.set(expiryKeep, nil) {
				return o, false
			}
		default:
			if !parseDeadline(args, &i, &o.expiry) {
				return o, false
			}
		}
	}
	return o, true
}

// parseGetExOptions reads what follows "GETEX key".
func parseGetExOptions(args [][]byte) (e expiry, ok bool) {
	for i := 2; i < len(args); i++ {
		if IsWord(args[i], "PERSIST") {
			ok = e.set(expiryPersist, nil)
		} else {
			ok = parseDeadline(args, &i, &e)
		}
		if !ok {
			return e, false
		}
	}
	return e, true
}

// parseDeadline reads EX, PX, EXAT or PXAT at args[*i] and the number after it, and moves *i to it.
func parseDeadline(args [][]byte, i *int, e *expiry) bool {
	var kind expiryKind
	switch arg := args[*i]; {
	case IsWord(arg, "EX"):
		kind = expiryEX
	case IsWord(arg, "PX"):
		kind = expiryPX
	case IsWord(arg, "EXAT"):
		kind = expiryEXAT
	case IsWord(arg, "PXAT"):
		kind = expiryPXAT
	default:
		return false
	}
	if *i+1 == len(args) {
		return false
	}
	*i++
	return e.set(kind, args[*i])
}

// expireFlags are the options of EXPIRE and its variants.
type expireFlags struct{ nx, xx, gt, lt bool }

func parseExpireFlags(args [][]byte) (f expireFlags, bad *Reply) {
	for _, arg := range args[3:] {
		switch {
		case IsWord(arg, "NX"):
			f.nx = true
		case IsWord(arg, "XX"):
			f.xx = true
		case IsWord(arg, "GT"):
			f.gt = true
		case IsWord(arg, "LT"):
			f.lt = true
		default:
			r := Err("ERR Unsupported option " + string(quote(arg, maxOption)))
			return f, &r
		}
	}
	if f.nx && (f.xx || f.gt || f.lt) {
		return f, &errNXWithOthers
	}
	if f.gt && f.lt {
		return f, &errGTWithLT
	}
	return f, nil
}

var (
	errNXWithOthers = Err("ERR NX and XX, GT or LT options at the same time are not compatible")
	errGTWithLT     = Err("ERR GT and LT options at the same time are not compatible")
)

// allow reports whether the expiry may change from old (0: none, which counts as infinitely late) to
// when. Both are absolute.
func (f expireFlags) allow(old, when int64) bool {
	switch {
	case f.nx && old != 0:
		return false
	case f.xx && old == 0:
		return false
	case f.gt && (old == 0 || when <= old):
		return false
	case f.lt && old != 0 && when >= old:
		return false
	}
	return true
}
