package integration

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
)

// model is what the keys of one connection hold, and with it what Redis would reply to each of its commands. It knows only
// strings, which is all that raftcask stores.
type model struct {
	rng    *rand.Rand
	prefix string // of every key: connections do not see each other's
	values map[string]string
	expire map[string]bool // the key has an expiry, far away
}

func newModel(rng *rand.Rand, prefix string) *model {
	return &model{rng: rng, prefix: prefix, values: map[string]string{}, expire: map[string]bool{}}
}

// step is a command and the reply that Redis would give.
type step struct {
	args []string
	want any // as redis.receive returns it; an error counts by its first word
}

// modelKeys is small, so that commands of one pipeline meet on the same key all the time.
const modelKeys = 5

func (m *model) key() string { return m.prefix + strconv.Itoa(m.rng.IntN(modelKeys)) }

// text returns a new value: a number now and then, so that INCR finds one.
func (m *model) text() string {
	switch m.rng.IntN(4) {
	case 0:
		return strconv.Itoa(m.rng.IntN(1000) - 500)
	case 1:
		return ""
	default:
		return strings.Repeat(string(rune('a'+m.rng.IntN(26))), 1+m.rng.IntN(40))
	}
}

// next draws a command, applies it to the model, and returns it with its reply.
func (m *model) next() step {
	commands := []func() step{
		m.get, m.get, m.set, m.set, m.setOption, m.del, m.exists, m.appendText, m.strlen,
		m.incr, m.incr, m.mset, m.mget, m.ttl, m.expireKey, m.persist, m.typeOf,
	}
	return commands[m.rng.IntN(len(commands))]()
}

func (m *model) value(key string) any {
	if v, ok := m.values[key]; ok {
		return v
	}
	return nil
}

func (m *model) put(key, value string) {
	m.values[key] = value
	delete(m.expire, key)
}

func (m *model) get() step {
	k := m.key()
	return step{[]string{"GET", k}, m.value(k)}
}

func (m *model) set() step {
	k, v := m.key(), m.text()
	m.put(k, v)
	return step{[]string{"SET", k, v}, status("OK")}
}

func (m *model) setOption() step {
	k, v := m.key(), m.text()
	old := m.value(k)
	switch m.rng.IntN(5) {
	case 0:
		if old != nil {
			return step{[]string{"SET", k, v, "NX"}, nil}
		}
		m.put(k, v)
		return step{[]string{"SET", k, v, "NX"}, status("OK")}
	case 1:
		if old == nil {
			return step{[]string{"SET", k, v, "XX"}, nil}
		}
		m.put(k, v)
		return step{[]string{"SET", k, v, "XX"}, status("OK")}
	case 2:
		m.put(k, v)
		return step{[]string{"SET", k, v, "GET"}, old}
	case 3:
		m.values[k] = v // keeps its expiry
		return step{[]string{"SET", k, v, "KEEPTTL"}, status("OK")}
	default:
		m.put(k, v)
		m.expire[k] = true
		return step{[]string{"SET", k, v, "EX", "100000"}, status("OK")}
	}
}

func (m *model) del() step {
	a, b := m.key(), m.key()
	n := int64(0)
	for _, k := range []string{a, b} {
		if m.value(k) != nil {
			n++
		}
		delete(m.values, k)
		delete(m.expire, k)
	}
	return step{[]string{"DEL", a, b}, n}
}

func (m *model) exists() step {
	a, b := m.key(), m.key()
	n := int64(0)
	for _, k := range []string{a, b} { // a key named twice counts twice
		if m.value(k) != nil {
			n++
		}
	}
	return step{[]string{"EXISTS", a, b}, n}
}

func (m *model) appendText() step {
	k, v := m.key(), m.text()
	m.values[k] += v
	return step{[]string{"APPEND", k, v}, int64(len(m.values[k]))}
}

func (m *model) strlen() step {
	k := m.key()
	return step{[]string{"STRLEN", k}, int64(len(m.values[k]))}
}

func (m *model) incr() step {
	k := m.key()
	by := int64(m.rng.IntN(21) - 10)
	args := []string{"INCRBY", k, strconv.FormatInt(by, 10)}
	switch m.rng.IntN(3) {
	case 0:
		args, by = []string{"INCR", k}, 1
	case 1:
		args, by = []string{"DECR", k}, -1
	}
	text, ok := m.values[k]
	if !ok {
		text = "0"
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != text {
		return step{args, redisError("ERR value is not an integer or out of range")}
	}
	m.values[k] = strconv.FormatInt(n+by, 10) // keeps its expiry
	return step{args, n + by}
}

func (m *model) mset() step {
	args := []string{"MSET"}
	for range 1 + m.rng.IntN(3) {
		k, v := m.key(), m.text()
		args = append(args, k, v)
		m.put(k, v)
	}
	return step{args, status("OK")}
}

func (m *model) mget() step {
	args, want := []string{"MGET"}, []any{}
	for range 1 + m.rng.IntN(4) {
		k := m.key()
		args, want = append(args, k), append(want, m.value(k))
	}
	return step{args, want}
}

// ttl compares the sign only: how much of the time is left is not the subject.
func (m *model) ttl() step {
	k := m.key()
	want := int64(-2)
	if m.value(k) != nil {
		if want = -1; m.expire[k] {
			want = 100_000
		}
	}
	return step{[]string{"TTL", k}, want}
}

func (m *model) expireKey() step {
	k := m.key()
	if m.value(k) == nil {
		return step{[]string{"EXPIRE", k, "100000"}, int64(0)}
	}
	m.expire[k] = true
	return step{[]string{"EXPIRE", k, "100000"}, int64(1)}
}

func (m *model) persist() step {
	k := m.key()
	want := int64(0)
	if m.expire[k] {
		want = 1
		delete(m.expire, k)
	}
	return step{[]string{"PERSIST", k}, want}
}

func (m *model) typeOf() step {
	k := m.key()
	if m.value(k) == nil {
		return step{[]string{"TYPE", k}, status("none")}
	}
	return step{[]string{"TYPE", k}, status("string")}
}

// check compares a reply with what Redis would have said.
func (s step) check(got any) error {
	same := reflect.DeepEqual(got, s.want)
	switch want := s.want.(type) {
	case redisError:
		text, isError := got.(redisError)
		same = isError && firstWord(string(text)) == firstWord(string(want))
	case int64:
		if n, isInt := got.(int64); isInt && s.args[0] == "TTL" && want > 0 {
			same = n > want-1000 && n <= want
		}
	}
	if !same {
		return fmt.Errorf("%q: got %#v, want %#v", s.args, got, s.want)
	}
	return nil
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}

// unsettled reports whether a reply is one of the three that an election may bring: not applied, no leader, or unknown.
func unsettled(reply any) bool {
	e, ok := reply.(redisError)
	if !ok {
		return false
	}
	switch firstWord(string(e)) {
	case "TRYAGAIN", "CLUSTERDOWN", "UNKNOWN":
		return true
	}
	return false
}
