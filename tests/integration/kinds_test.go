package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// kind is one sort of traffic. Each has groups of keys of its own.
type kind struct {
	name string
	// draw gives the next commands, all on one group; several are sent together, and each may be answered by itself.
	draw func(d *draw) [][]string
}

// draw is what the commands of one step are made from.
type draw struct {
	*rand.Rand
	group  string // the keys' common beginning
	unique string // a word that no other step uses
}

func (d *draw) key(slot int) string { return d.group + "-" + strconv.Itoa(slot) }

// value is unique, so that a read tells which write it saw. Some are long, to fill segments.
func (d *draw) value() string {
	if d.IntN(8) == 0 {
		return d.unique + filler[:d.IntN(len(filler))]
	}
	return d.unique
}

// kinds of traffic: every command that reads and writes by turns, and several keys at a time. Transactions belong here too.
var kinds = []kind{
	{"register", func(d *draw) [][]string {
		if d.IntN(2) == 0 {
			return one("GET", d.key(0))
		}
		return one("SET", d.key(0), d.value())
	}},
	// A condition on the present value, and the old value as the reply: what a lock or a CAS is made of.
	{"conditional", func(d *draw) [][]string {
		switch d.IntN(8) {
		case 0, 1:
			return one("SET", d.key(0), d.value(), "NX")
		case 2:
			return one("SET", d.key(0), d.value(), "XX")
		case 3:
			return one("SET", d.key(0), d.value(), "GET")
		case 4:
			return one("SET", d.key(0), d.value(), "XX", "GET")
		case 5:
			return one("GETDEL", d.key(0))
		case 6:
			return one("DEL", d.key(0))
		default:
			return one("GET", d.key(0))
		}
	}},
	// A few values only, so that a comparison often succeeds.
	{"compare and set", func(d *draw) [][]string {
		few := func() string { return strconv.Itoa(d.IntN(3)) }
		switch d.IntN(8) {
		case 0:
			return one("SET", d.key(0), few())
		case 1, 2, 3:
			return one("SET", d.key(0), few(), "IFEQ", few())
		case 4:
			return one("SET", d.key(0), few(), "IFEQ", few(), "GET")
		default:
			return one("GET", d.key(0))
		}
	}},
	{"counter", func(d *draw) [][]string {
		switch d.IntN(4) {
		case 0:
			return one("GET", d.key(0))
		case 1:
			return one("INCRBY", d.key(0), "1")
		default: // sums of different numbers tell which increments are in them
			return one("INCRBY", d.key(0), strconv.Itoa(d.IntN(1_000_000)-500_000))
		}
	}},
	{"append", func(d *draw) [][]string {
		switch d.IntN(8) {
		case 0:
			return one("GETDEL", d.key(0))
		case 1, 2:
			return one("STRLEN", d.key(0))
		case 3:
			return one("GET", d.key(0))
		default:
			return one("APPEND", d.key(0), d.unique+".")
		}
	}},
	{"several keys", func(d *draw) [][]string {
		a, b := d.twoKeys()
		switch d.IntN(12) {
		case 0, 1, 2:
			return one("MSET", d.key(0), d.unique+"a", d.key(1), d.unique+"b", d.key(2), d.unique+"c")
		case 3:
			return one("MSET", a, d.unique+"a", b, d.unique+"b")
		case 4:
			return one("MSETNX", a, d.unique+"a", b, d.unique+"b")
		case 5:
			return one("DEL", a, b)
		case 6:
			return one("RENAME", a, b)
		case 7:
			return one("COPY", a, b, "REPLACE")
		case 8:
			return one("EXISTS", d.key(0), d.key(1), d.key(2))
		default:
			return one("MGET", d.key(0), d.key(1), d.key(2))
		}
	}},
	{"expiry", func(d *draw) [][]string {
		ms := strconv.Itoa(20 + d.IntN(1000))
		switch d.IntN(12) {
		case 0, 1:
			return one("SET", d.key(0), d.unique, "PX", ms)
		case 2:
			return one("SET", d.key(0), d.unique, "NX", "PX", ms)
		case 3:
			return one("SET", d.key(0), d.unique, "XX", "KEEPTTL")
		case 4:
			return one("PEXPIRE", d.key(0), ms)
		case 5:
			return one("PERSIST", d.key(0))
		case 6:
			return one("PTTL", d.key(0))
		case 7:
			return one("APPEND", d.key(0), ".") // keeps the expiry
		default:
			return one("GET", d.key(0))
		}
	}},
	// Commands on a register and a counter, sent together.
	{"pipeline", func(d *draw) [][]string {
		var commands [][]string
		for i := range 2 + d.IntN(4) {
			switch d.IntN(4) {
			case 0:
				commands = append(commands, []string{"GET", d.key(0)})
			case 1:
				commands = append(commands, []string{"SET", d.key(0), fmt.Sprintf("%s-%d", d.unique, i)})
			case 2:
				commands = append(commands, []string{"INCRBY", d.key(1), strconv.Itoa(1 + d.IntN(1_000_000))})
			default:
				commands = append(commands, []string{"MGET", d.key(0), d.key(1)})
			}
		}
		return commands
	}},
}

func one(args ...string) [][]string { return [][]string{args} }

func (d *draw) twoKeys() (a, b string) {
	i := d.IntN(slots)
	return d.key(i), d.key((i + 1 + d.IntN(slots-1)) % slots)
}

// readsOnly are the commands whose lost answers say nothing.
func readsOnly(args []string) bool {
	switch args[0] {
	case "GET", "MGET", "STRLEN", "EXISTS", "PTTL":
		return true
	}
	return false
}
