package command

import (
	"math/bits"
	"slices"
	"strings"
)

// Key positions of the table: first, last, step.
var (
	noKeys  = [3]int{0, 0, 0}
	oneKey  = [3]int{1, 1, 1}
	allKeys = [3]int{1, -1, 1} // every argument
	pairs   = [3]int{1, -1, 2} // key value key value …
	twoKeys = [3]int{1, 2, 1}
)

const (
	write     = "write"
	writeFast = "write fast"
	grow      = "write denyoom" // may need more memory
	growFast  = "write denyoom fast"
	read      = "readonly"
	readFast  = "readonly fast"
	session   = "loading stale fast"
	handshake = "noscript loading stale fast no_auth allow_busy"
)

// table holds every command, sorted by name. Flags, arity and key positions are those of Redis 7.4.
var table = sorted([]*Spec{
	// One value.
	row("get", 2, Read, readFast, oneKey, "string", "1.0.0", "key", "Read the value of a key.", runGet),
	row("set", -3, Write, grow, oneKey, "string", "1.0.0", "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]", "Write the value of a key.", runSet),
	row("getset", 3, Write, growFast, oneKey, "string", "1.0.0", "key value", "Write a value and answer the old one.", runGetSet),
	row("getdel", 2, Write, writeFast, oneKey, "string", "6.2.0", "key", "Answer a value and delete its key.", runGetDel),
	row("getex", -2, Write, writeFast, oneKey, "string", "6.2.0", "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]", "Answer a value and change its expiry.", runGetEX),
	row("setex", 4, Write, grow, oneKey, "string", "2.0.0", "key seconds value", "Write a value that expires in seconds.", runSetEX),
	row("psetex", 4, Write, grow, oneKey, "string", "2.6.0", "key milliseconds value", "Write a value that expires in milliseconds.", runPSetEX),
	row("setnx", 3, Write, growFast, oneKey, "string", "1.0.0", "key value", "Write a value if the key does not exist.", runSetNX),
	row("append", 3, Write, growFast, oneKey, "string", "2.0.0", "key value", "Add to the end of a value.", runAppend),
	row("strlen", 2, Read, readFast, oneKey, "string", "2.2.0", "key", "Tell the length of a value.", runStrlen),
	row("getrange", 4, Read, read, oneKey, "string", "2.4.0", "key start end", "Read a part of a value.", runGetRange),
	row("substr", 4, Read, read, oneKey, "string", "1.0.0", "key start end", "Read a part of a value; the old name of GETRANGE.", runGetRange),
	row("setrange", 4, Write, grow, oneKey, "string", "2.2.0", "key offset value", "Overwrite a part of a value.", runSetRange),

	// Several values.
	row("mget", -2, Read, readFast, allKeys, "string", "1.0.0", "key [key ...]", "Read the values of several keys.", runMGet),
	row("mset", -3, Write, grow, pairs, "string", "1.0.1", "key value [key value ...]", "Write several keys at once.", runMSet),
	row("msetnx", -3, Write, grow, pairs, "string", "1.0.1", "key value [key value ...]", "Write several keys at once if none of them exists.", runMSetNX),

	// Numbers.
	row("incr", 2, Write, growFast, oneKey, "string", "1.0.0", "key", "Add one to an integer.", runIncr),
	row("decr", 2, Write, growFast, oneKey, "string", "1.0.0", "key", "Subtract one from an integer.", runDecr),
	row("incrby", 3, Write, growFast, oneKey, "string", "1.0.0", "key increment", "Add to an integer.", runIncrBy),
	row("decrby", 3, Write, growFast, oneKey, "string", "1.0.0", "key decrement", "Subtract from an integer.", runDecrBy),
	row("incrbyfloat", 3, Write, growFast, oneKey, "string", "2.6.0", "key increment", "Add to a floating point number.", runIncrByFloat),

	// Expiry.
	row("expire", -3, Write, writeFast, oneKey, "generic", "1.0.0", "key seconds [NX|XX|GT|LT]", "Let a key expire in seconds.", runExpire),
	row("pexpire", -3, Write, writeFast, oneKey, "generic", "2.6.0", "key milliseconds [NX|XX|GT|LT]", "Let a key expire in milliseconds.", runPExpire),
	row("expireat", -3, Write, writeFast, oneKey, "generic", "1.2.0", "key unix-time-seconds [NX|XX|GT|LT]", "Let a key expire at a Unix time in seconds.", runExpireAt),
	row("pexpireat", -3, Write, writeFast, oneKey, "generic", "2.6.0", "key unix-time-milliseconds [NX|XX|GT|LT]", "Let a key expire at a Unix time in milliseconds.", runPExpireAt),
	row("persist", 2, Write, writeFast, oneKey, "generic", "2.2.0", "key", "Let a key expire no more.", runPersist),
	row("ttl", 2, Read, readFast, oneKey, "generic", "1.0.0", "key", "Tell in how many seconds a key expires.", runTTL),
	row("pttl", 2, Read, readFast, oneKey, "generic", "2.6.0", "key", "Tell in how many milliseconds a key expires.", runPTTL),
	row("expiretime", 2, Read, readFast, oneKey, "generic", "7.0.0", "key", "Tell the Unix time in seconds at which a key expires.", runExpireTime),
	row("pexpiretime", 2, Read, readFast, oneKey, "generic", "7.0.0", "key", "Tell the Unix time in milliseconds at which a key expires.", runPExpireTime),

	// Keys.
	row("del", -2, Write, write, allKeys, "generic", "1.0.0", "key [key ...]", "Delete keys.", runDel),
	row("unlink", -2, Write, writeFast, allKeys, "generic", "4.0.0", "key [key ...]", "Delete keys; the same as DEL.", runDel),
	row("exists", -2, Read, readFast, allKeys, "generic", "1.0.0", "key [key ...]", "Count the keys that exist.", runExists),
	row("touch", -2, Read, readFast, allKeys, "generic", "3.2.1", "key [key ...]", "Count the keys that exist; the same as EXISTS.", runExists),
	row("type", 2, Read, readFast, oneKey, "generic", "1.0.0", "key", "Tell the type of a value: string, or none.", runType),
	row("rename", 3, Write, write, twoKeys, "generic", "1.0.0", "key newkey", "Give a key another name.", runRename),
	row("renamenx", 3, Write, writeFast, twoKeys, "generic", "1.0.0", "key newkey", "Give a key another name that does not exist yet.", runRenameNX),
	row("copy", -3, Write, grow, twoKeys, "generic", "6.2.0", "source destination [DB destination-db] [REPLACE]", "Copy a value to another key.", runCopy),

	// All keys.
	row("scan", -2, ReadAll, read, noKeys, "generic", "2.8.0", "cursor [MATCH pattern] [COUNT count] [TYPE type]", "Go through the keys, some at a time.", runScan),
	row("keys", 2, ReadAll, read, noKeys, "generic", "1.0.0", "pattern", "List the keys that match a pattern.", runKeys),
	row("randomkey", 1, ReadAll, read, noKeys, "generic", "1.0.0", "", "Draw a key.", runRandomKey),
	row("dbsize", 1, ReadAll, readFast, noKeys, "server", "1.0.0", "", "Count the keys.", runDBSize),
	row("flushdb", -1, Write, write, noKeys, "server", "1.0.0", "[ASYNC|SYNC]", "Delete all keys.", runFlush),
	row("flushall", -1, Write, write, noKeys, "server", "1.0.0", "[ASYNC|SYNC]", "Delete all keys.", runFlush),

	// The connection.
	row("ping", -1, Connection, "fast", noKeys, "connection", "1.0.0", "[message]", "Ask for a sign of life.", nil),
	row("echo", 2, Connection, session, noKeys, "connection", "1.0.0", "message", "Answer the message.", nil),
	row("hello", -1, Connection, handshake, noKeys, "connection", "6.0.0", "[protover [AUTH username password] [SETNAME clientname]]", "Choose the version of the protocol.", nil),
	row("auth", -2, Connection, handshake, noKeys, "connection", "1.0.0", "[username] password", "Present a password.", nil),
	row("quit", -1, Connection, handshake, noKeys, "connection", "1.0.0", "", "Close the connection.", nil),
	row("reset", 1, Connection, handshake, noKeys, "connection", "6.2.0", "", "Bring the connection back to its first state.", nil),
	row("select", 2, Connection, session, noKeys, "connection", "1.0.0", "index", "Choose the database; there is only 0.", nil),
	row("client", -2, Connection, "", noKeys, "connection", "2.4.0", "subcommand [argument ...]", "Ask about the connections and name one's own.", nil),
	row("command", -1, Connection, "loading stale", noKeys, "server", "2.8.13", "[subcommand [argument ...]]", "Describe the commands.", nil),

	// The node.
	row("info", -1, Server, "loading stale", noKeys, "server", "1.0.0", "[section [section ...]]", "Describe the state of the node.", nil),
	row("role", 1, Server, "noscript loading stale fast", noKeys, "server", "2.8.12", "", "Tell whether the node leads or follows.", nil),
	row("config", -2, Server, "", noKeys, "server", "2.0.0", "subcommand [argument ...]", "Read the settings of the node.", nil),
	row("raftcask", -2, Server, "noscript loading stale", noKeys, "server", "7.4.0", "subcommand [argument ...]", "Read from one node (READ, READMODE), and describe or change the cluster; see RAFTCASK HELP.", nil),
	row("time", 1, Server, session, noKeys, "server", "2.6.0", "", "Tell the time of the node.", nil),
})

func row(name string, arity int, class Class, flags string, keys [3]int, group, since, syntax, summary string, run func(Tx, [][]byte) Reply) *Spec {
	return &Spec{
		Name: name, Arity: arity, Class: class, Flags: strings.Fields(flags),
		FirstKey: keys[0], LastKey: keys[1], Step: keys[2],
		Group: group, Since: since, Syntax: syntax, Summary: summary, Run: run,
	}
}

func sorted(specs []*Spec) []*Spec {
	slices.SortFunc(specs, func(a, b *Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs
}

// All lists the commands by name. The slice and what it points to must not be modified.
func All() []*Spec { return table }

// slots is an open-addressed hash table over the names: Find runs for every command of every client.
var slots = hashed(table)

// slotBits makes the hash table sparse: 256 slots for some 60 names.
const slotBits = 8

func hashed(specs []*Spec) *[1 << slotBits]*Spec {
	var t [1 << slotBits]*Spec
	for _, s := range specs {
		i := slot([]byte(s.Name))
		for t[i] != nil {
			i = (i + 1) % uint(len(t))
		}
		t[i] = s
	}
	return &t
}

// slot hashes a name without regard to case: bit 5 of each byte, which tells the cases apart, is set.
func slot(name []byte) uint {
	h := uint32(len(name))
	for _, c := range name {
		h = (bits.RotateLeft32(h, 5) ^ uint32(c|0x20)) * 0x9e3779b1
	}
	return uint(h >> (32 - slotBits))
}

// maxNameBytes is above the longest name, incrbyfloat. Find looks at no longer ones.
const maxNameBytes = 16

// Find returns the command of that name, in whatever case. It does not allocate.
func Find(name []byte) (*Spec, bool) {
	if len(name) > maxNameBytes {
		return nil, false
	}
	for i := slot(name); ; i = (i + 1) % (1 << slotBits) {
		s := slots[i]
		if s == nil {
			return nil, false
		}
		if IsWord(name, s.Name) {
			return s, true
		}
	}
}
