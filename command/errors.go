package command

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// ErrTooLarge is wrapped by the error of Tx.Put when the value is longer than the store accepts.
var ErrTooLarge = errors.New("value too large")

// Replies that several commands share; the texts are Redis's.
var (
	errSyntax      = Err("ERR syntax error")
	errNotInteger  = Err("ERR value is not an integer or out of range")
	errNotFloat    = Err("ERR value is not a valid float")
	errOverflow    = Err("ERR increment or decrement would overflow")
	errNoKey       = Err("ERR no such key")
	errTooLong     = Err("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
	errOffsetRange = Err("ERR offset is out of range")
	errDBIndex     = Err("ERR DB index is out of range")
	errDBNumber    = Err("ERR value is out of range, value must between -2147483648 and 2147483647")
)

// failed is the reply when the transaction itself could not do something. Nothing of the command is
// applied then: its effects are dropped with the transaction's error.
func failed(err error) Reply {
	if errors.Is(err, ErrTooLarge) {
		return errTooLong
	}
	return Err("ERR " + err.Error())
}

// WrongArgs is the reply to a command with a wrong number of arguments. name is in lower case; a
// subcommand is written "client|setname".
func WrongArgs(name string) Reply {
	return Err("ERR wrong number of arguments for '" + name + "' command")
}

func badExpire(name string) Reply {
	return Err("ERR invalid expire time in '" + name + "' command")
}

// Bounds on how much of a client's own text comes back in an error.
const (
	maxQuoted = 128  // Redis's, for names
	maxOption = 1024 // for an option that is not known, where Redis has no bound
)

// UnknownCommand is the reply to a name that is not in the table. It quotes the arguments, as Redis
// does, so that the cause is in the client's log.
func UnknownCommand(args [][]byte) Reply {
	var quoted strings.Builder
	for _, arg := range args[1:] {
		if quoted.Len() >= maxQuoted {
			break
		}
		fmt.Fprintf(&quoted, "'%s' ", quote(arg, maxQuoted-quoted.Len()))
	}
	return Err(fmt.Sprintf("ERR unknown command '%s', with args beginning with: %s", quote(args[0], maxQuoted), quoted.String()))
}

// UnknownSubcommand is the reply to a subcommand that container (CLIENT, COMMAND, CONFIG) does not have.
func UnknownSubcommand(container string, sub []byte) Reply {
	return Err(fmt.Sprintf("ERR unknown subcommand '%s'. Try %s HELP.", quote(sub, maxQuoted), strings.ToUpper(container)))
}

// quote cuts b at limit bytes and, as Redis prints C strings, at a NUL byte.
func quote(b []byte, limit int) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return b[:min(len(b), limit)]
}
