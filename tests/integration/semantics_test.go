package integration

import (
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The sequential meaning of the traffic's commands, on a group of keys that are used together. A command gives every state that
// it may lead to: more than one where the time of an expiry is not known exactly.

// slots is how many keys a group may have. A key's last letter is its slot.
const slots = 3

type groupState [slots]keyState

type keyState struct {
	exists bool
	value  string
	// The key expires between lo and hi, in ns since the run began: the leader's time of evaluation is not known, only that it is
	// between call and return. hi is 0 for a key that does not expire.
	lo, hi int64
}

// opInput is one command as it was sent. Reads of bounded staleness have their call moved back by the age that was told.
type opInput struct {
	args      []string
	call, ret int64 // ns since the run began; ret is forever for an unknown outcome
}

// outcomeless is the output of a write whose outcome is unknown. Its effect may come at any time from its call on, or never.
type outcomeless struct{}

const forever = math.MaxInt64 / 4

// semantics are the rules of the clock: slack is how far the clocks of evaluation may be from the one of this test. It has to
// cover rounding to milliseconds, and jumps of clocks where a run makes them.
type semantics struct{ slack time.Duration }

const roundingSlack = 5 * time.Millisecond

func (s semantics) model() porcupine.Model {
	seed := maphash.MakeSeed()
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{groupState{}} },
		Step: func(state, input, output any) []any {
			var next []any
			for _, st := range s.step(state.(groupState), input.(opInput), output) {
				next = append(next, st)
			}
			return next
		},
		Hash:              func(state any) uint64 { return maphash.Comparable(seed, state.(groupState)) },
		DescribeOperation: func(input, output any) string { return describeOperation(input.(opInput), output) },
		DescribeState:     func(state any) string { return state.(groupState).String() },
	}
	return m.ToModel()
}

// step returns the states that a command may leave behind if it was answered with output.
func (s semantics) step(state groupState, in opInput, output any) []groupState {
	states := []groupState{state}
	for i := range state {
		if state[i].hi != 0 {
			states = s.expire(states, i, in)
		}
	}
	var next []groupState
	for _, st := range states {
		if in.args[0] == "PTTL" {
			if s.timeLeft(&st[slotOf(in.args[1])], in, output) {
				next = append(next, st)
			}
			continue
		}
		if reply := evaluate(&st, in); output == (outcomeless{}) || sameReply(reply, output) {
			next = append(next, st)
		}
	}
	return next
}

// expire branches into the states in which the key has expired by the time of the command, and those in which it lives: each
// only if the interval of the command allows it.
func (s semantics) expire(states []groupState, slot int, in opInput) (next []groupState) {
	for _, st := range states {
		k := &st[slot]
		if in.ret+int64(s.slack) >= k.lo {
			gone := st
			gone[slot] = keyState{}
			next = append(next, gone)
		}
		if earliest := in.call - int64(s.slack); earliest < k.hi {
			k.lo = max(k.lo, earliest) // it lived then
			next = append(next, st)
		}
	}
	return next
}

// timeLeft compares an answer of PTTL with what is known of the expiry, and learns from it.
func (s semantics) timeLeft(k *keyState, in opInput, output any) bool {
	left, ok := output.(int64)
	switch {
	case !ok:
		return false
	case !k.exists:
		return left == -2
	case k.hi == 0:
		return left == -1
	case left < 0:
		return false
	}
	told := left * int64(time.Millisecond)
	k.lo = max(k.lo, in.call+told-int64(s.slack))
	k.hi = min(k.hi, in.ret+told+int64(s.slack))
	return k.lo <= k.hi
}

func slotOf(key string) int { return int(key[len(key)-1] - '0') }

// evaluate runs a command on the state and returns its reply: nil, string, int64, []any or redisError.
func evaluate(state *groupState, in opInput) any {
	args := in.args
	key := func(i int) *keyState { return &state[slotOf(args[i])] }
	switch args[0] {
	case "GET":
		return key(1).reply()
	case "SET":
		return evaluateSet(key(1), in)
	case "GETDEL":
		old := key(1).reply()
		*key(1) = keyState{}
		return old
	case "APPEND":
		k := key(1)
		k.exists, k.value = true, k.value+args[2]
		return int64(len(k.value))
	case "STRLEN":
		return int64(len(key(1).value))
	case "INCRBY":
		return increment(key(1), args[2])
	case "PEXPIRE":
		if !key(1).exists {
			return int64(0)
		}
		key(1).expireAfter(in, args[2])
		return int64(1)
	case "PERSIST":
		k := key(1)
		if !k.exists || k.hi == 0 {
			return int64(0)
		}
		k.lo, k.hi = 0, 0
		return int64(1)
	}
	return evaluateMany(state, args, key)
}

// evaluateMany is evaluate for the commands that name several keys.
func evaluateMany(state *groupState, args []string, key func(i int) *keyState) any {
	switch args[0] {
	case "MGET":
		var values []any
		for i := 1; i < len(args); i++ {
			values = append(values, key(i).reply())
		}
		return values
	case "MSET", "MSETNX":
		for i := 1; i < len(args) && args[0] == "MSETNX"; i += 2 {
			if key(i).exists {
				return int64(0)
			}
		}
		for i := 1; i < len(args); i += 2 {
			*key(i) = keyState{exists: true, value: args[i+1]}
		}
		if args[0] == "MSETNX" {
			return int64(1)
		}
		return "OK"
	case "DEL", "EXISTS":
		n := int64(0)
		for i := 1; i < len(args); i++ {
			if key(i).exists {
				n++
			}
			if args[0] == "DEL" {
				*key(i) = keyState{}
			}
		}
		return n
	case "RENAME":
		if !key(1).exists {
			return redisError("ERR no such key")
		}
		moved := *key(1)
		*key(1) = keyState{}
		*key(2) = moved
		return "OK"
	case "COPY": // always with REPLACE
		if !key(1).exists {
			return int64(0)
		}
		*key(2) = *key(1)
		return int64(1)
	}
	panic("no semantics for " + args[0])
}

func evaluateSet(k *keyState, in opInput) any {
	args, old := in.args, *k
	has := func(option string) bool { return slices.Contains(args[3:], option) }
	reply := any("OK")
	if has("GET") {
		reply = old.reply()
	}
	expects := slices.Index(args, "IFEQ")
	if (has("NX") && old.exists) || (has("XX") && !old.exists) || (expects > 2 && (!old.exists || old.value != args[expects+1])) {
		if has("GET") {
			return reply
		}
		return nil
	}
	*k = keyState{exists: true, value: args[2]}
	if i := slices.Index(args, "PX"); i > 2 {
		k.expireAfter(in, args[i+1])
	}
	if has("KEEPTTL") {
		k.lo, k.hi = old.lo, old.hi
	}
	return reply
}

func increment(k *keyState, by string) any {
	n, err := strconv.ParseInt(by, 10, 64)
	if err != nil {
		panic(err) // the traffic counts with numbers
	}
	if k.exists {
		old, err := strconv.ParseInt(k.value, 10, 64)
		if err != nil {
			return redisError("ERR value is not an integer or out of range")
		}
		n += old
	}
	k.exists, k.value = true, strconv.FormatInt(n, 10)
	return n
}

func (k *keyState) reply() any {
	if !k.exists {
		return nil
	}
	return k.value
}

func (k *keyState) expireAfter(in opInput, milliseconds string) {
	ms, err := strconv.ParseInt(milliseconds, 10, 64)
	if err != nil {
		panic(err) // the traffic's own number
	}
	k.lo = in.call + ms*int64(time.Millisecond)
	k.hi = in.ret + ms*int64(time.Millisecond)
}

func sameReply(a, b any) bool {
	list, ok := a.([]any)
	if !ok {
		_, isList := b.([]any)
		return !isList && a == b
	}
	other, ok := b.([]any)
	return ok && slices.EqualFunc(list, other, sameReply)
}

func (s groupState) String() string {
	var parts []string
	for i, k := range s {
		switch {
		case !k.exists:
		case k.hi != 0:
			parts = append(parts, fmt.Sprintf("%d: %.20q until %v to %v", i, k.value, time.Duration(k.lo), time.Duration(k.hi)))
		default:
			parts = append(parts, fmt.Sprintf("%d: %.20q", i, k.value))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func describeOperation(in opInput, output any) string {
	var words []string
	for _, arg := range in.args {
		words = append(words, fmt.Sprintf("%.20s", arg))
	}
	text := strings.Join(words, " ")
	switch out := output.(type) {
	case outcomeless:
		return text + " → ?"
	case string:
		return fmt.Sprintf("%s → %.20q", text, out)
	default:
		return fmt.Sprintf("%s → %.60v", text, out)
	}
}
