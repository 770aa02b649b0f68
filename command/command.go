// Package command says what each command of the Redis protocol means here: its name, how many
// arguments it takes, which of them are keys, and what it reads and writes. It knows no socket and
// no wire format (that is transport/resp), and no disk (that is the Tx it is given).
//
//	spec, ok := command.Find(args[0])           // case-insensitive
//	if ok && spec.AcceptsArgs(len(args)) {
//		reply := spec.Run(tx, args)            // Read, ReadAll and Write commands
//	}
//
// A write is evaluated on the leader, and what is replicated is its effects: Tx.Put and Tx.Delete with
// absolute expiry times, Tx.Clear. Nothing here is evaluated again on a replica, so a command may look
// at the clock and at the present value. A Run function is pure but for its Tx: it keeps no state, and
// may be called by several goroutines, each with its own Tx.
//
// The texts of errors are those of Redis 7.4, because clients compare them. All values are strings.
//
// Files: strings.go, counter.go, expire.go, keys.go and scan.go hold the commands; table.go lists them;
// codec.go is the binary form in which a node forwards calls to the leader; describe.go answers COMMAND,
// and server.go helps a node to answer INFO, CONFIG, ROLE and TIME.
package command

// Meta is what is known of a key without reading its value.
type Meta struct {
	Version  uint64 // Raft index of the last write
	ExpireAt int64  // absolute, Unix milliseconds; 0 is never
	ValueLen int
}

// Tx is the leader's view of the data while one command is evaluated. A key whose expiry is at or
// before Now is absent from it.
type Tx interface {
	// Now is the time of evaluation in Unix milliseconds. It does not move while one command runs.
	Now() int64
	// Lookup reads no value.
	Lookup(key []byte) (Meta, bool, error)
	// Get returns a value that must not be modified. It may be given to Put, and put into a reply.
	Get(key []byte) (value []byte, meta Meta, ok bool, err error)
	// Put keeps references to key and value until they are applied. expireAt is absolute, 0 is never.
	// The error wraps ErrTooLarge when the value is longer than the store accepts.
	Put(key, value []byte, expireAt int64) error
	Delete(key []byte) error
	// Clear removes every key, those put earlier in this transaction included.
	Clear() error
	// Len counts the keys. It may count expired ones that are not removed yet.
	Len() int
	// Scan calls fn for about count keys from cursor on and returns the cursor to go on with, 0 at the
	// end. A key that is there during a whole iteration is seen. key is valid only during fn.
	Scan(cursor uint64, count int, fn func(key []byte, m Meta)) (next uint64)
}

// Class says who answers a command, and on which view of the data.
type Class uint8

// The classes.
const (
	Connection Class = iota // answered by the session itself
	Server                  // answered by the node: INFO, ROLE, CONFIG, TIME
	Read                    // reads the keys it names
	ReadAll                 // reads all keys (SCAN, KEYS, DBSIZE): needs a view of the store, never the proposer's overlay
	Write                   // may change data
)

// Data reports whether commands of the class are evaluated on a Tx.
func (c Class) Data() bool { return c >= Read }

// Spec describes one command.
type Spec struct {
	Name  string   // lower case
	Arity int      // arguments with the name; negative: at least that many
	Class Class    // who answers
	Flags []string // as in COMMAND INFO

	// Keys are the arguments FirstKey, FirstKey+Step … LastKey. LastKey counts from the end when it is
	// negative; FirstKey 0 means no keys.
	FirstKey, LastKey, Step int

	Syntax  string // the arguments, as a manual writes them: "key value [NX|XX]"
	Summary string
	Since   string // the Redis version that introduced it
	Group   string // string, generic, connection, server

	// Run evaluates the command; args[0] is its name. It is nil for Connection and Server commands. The
	// number of arguments must have been checked with AcceptsArgs.
	Run func(tx Tx, args [][]byte) Reply
}

// AcceptsArgs reports whether the command may have n arguments, its name included.
func (s *Spec) AcceptsArgs(n int) bool {
	if s.Arity < 0 {
		return n >= -s.Arity
	}
	return n == s.Arity
}

// Keys returns the positions of the keys among n arguments: first, first+step … last; first is 0 when
// the command has none.
func (s *Spec) Keys(n int) (first, last, step int) {
	if s.FirstKey == 0 {
		return 0, 0, 0
	}
	last = s.LastKey
	if last < 0 {
		last += n
	}
	return s.FirstKey, min(last, n-1), s.Step
}

// Call is one command with its arguments. Args[0] is the name. Nobody modifies the arguments.
type Call struct {
	Spec *Spec
	Args [][]byte
}
