package command

import "fmt"

// Default limits of what a client may send.
const (
	// DefaultMaxKeyBytes is 64 KiB - 1: the engine keeps the length of a key in 16 bits.
	DefaultMaxKeyBytes = 64<<10 - 1
	// DefaultMaxValueBytes is 8 MiB: one value travels in one Raft entry, and a follower must receive it
	// within one RPC.
	DefaultMaxValueBytes = 8 << 20
	// hardMaxValueBytes is Redis's proto-max-bulk-len, 512 MiB. No command builds a longer value whatever
	// the limits are, so that SETRANGE with a huge offset cannot exhaust the memory.
	hardMaxValueBytes = 512 << 20
)

// Limits bound what a command may carry. Zero fields mean the defaults.
type Limits struct {
	MaxKeyBytes   int
	MaxValueBytes int
}

// WithDefaults fills the zero fields.
func (l Limits) WithDefaults() Limits {
	if l.MaxKeyBytes <= 0 {
		l.MaxKeyBytes = DefaultMaxKeyBytes
	}
	if l.MaxValueBytes <= 0 {
		l.MaxValueBytes = DefaultMaxValueBytes
	}
	return l
}

// Check returns the error reply for a call that the store could not take, before anything is proposed:
// a key that is too long, an empty key in a write, or a value that is too long. nil means go on.
func Check(spec *Spec, args [][]byte, lim Limits) *Reply {
	lim = lim.WithDefaults()
	first, last, step := spec.Keys(len(args))
	for i := 1; i < len(args); i++ {
		n := len(args[i])
		if first != 0 && i >= first && i <= last && (i-first)%step == 0 {
			if n > lim.MaxKeyBytes && spec.Class != Write {
				r := Err(fmt.Sprintf("ERR the key of %d bytes is too long, the limit is %d: no such key can exist", n, lim.MaxKeyBytes))
				return &r
			}
			if n > lim.MaxKeyBytes {
				return refuse("the key of %d bytes is too long, the limit is %d", n, lim.MaxKeyBytes)
			}
			if n == 0 && spec.Class == Write {
				return refuse("a key must have at least one byte")
			}
		} else if n > lim.MaxValueBytes {
			return TooLong(n, lim.MaxValueBytes)
		}
	}
	if spec.Name == "setrange" {
		return checkSetRange(args, lim)
	}
	return nil
}

// checkSetRange refuses a result that would be too long, which its arguments alone tell.
func checkSetRange(args [][]byte, lim Limits) *Reply {
	offset, ok := ParseInt(args[2])
	if ok && len(args[3]) > 0 && offset > int64(lim.MaxValueBytes-len(args[3])) {
		r := errTooLong
		return &r
	}
	return nil
}

// TooLong is the reply to a command with an argument that is longer than a value may be.
func TooLong(bytes, limit int) *Reply {
	return refuse("an argument of %d bytes is too long, the limit is %d", bytes, limit)
}

func refuse(format string, a ...any) *Reply {
	r := Err("ERR not applied: " + fmt.Sprintf(format, a...))
	return &r
}
