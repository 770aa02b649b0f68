package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Each checker is given what it must refuse, beside what it must accept.

// did is an operation of a hand-made history: from and to are in seconds. A nil word list of out is an absent key.
func did(client int, from, to float64, out any, args ...string) porcupine.Operation {
	in := opInput{args: args, call: int64(from * 1e9), ret: int64(to * 1e9)}
	return porcupine.Operation{ClientId: client, Input: in, Output: out, Call: in.call, Return: in.ret}
}

// lost is one whose outcome is unknown.
func lost(client int, from float64, args ...string) porcupine.Operation {
	op := did(client, from, 0, outcomeless{}, args...)
	in := op.Input.(opInput)
	in.ret = forever
	op.Input, op.Return = in, forever
	return op
}

// stale is a read that told the age of its data, in seconds.
func stale(client int, from, to, age float64, out any, args ...string) porcupine.Operation {
	a := staleAnswer{reply: out, age: time.Duration(age * 1e9), known: true}
	in := staleInput(args, a, int64(from*1e9), int64(to*1e9))
	return porcupine.Operation{ClientId: client, Input: in, Output: out, Call: in.call, Return: in.ret}
}

func TestHistoryCheckSeesEachKindOfLie(t *testing.T) {
	t.Setenv("RAFTCASK_ARTIFACTS", t.TempDir())
	type ops = []porcupine.Operation
	seen := []any{"a1", "b1", nil}
	for _, test := range []struct {
		name string
		ops  ops
		ok   bool
	}{
		{"reads beside a write see either", ops{did(0, 0, 3, "OK", "SET", "k0", "a"), did(1, 1, 2, nil, "GET", "k0"), did(1, 2.5, 4, "a", "GET", "k0")}, true},
		{"stale read", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 3, "OK", "SET", "k0", "b"), did(1, 4, 5, "a", "GET", "k0")}, false},
		{"read that goes back", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 9, "OK", "SET", "k0", "b"), did(1, 3, 4, "b", "GET", "k0"), did(1, 5, 6, "a", "GET", "k0")}, false},
		{"lost update", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(1, 2, 3, nil, "GET", "k0")}, false},
		{"unknown write that came late", ops{lost(0, 0, "SET", "k0", "a"), did(1, 1, 2, nil, "GET", "k0"), did(1, 8, 9, "a", "GET", "k0")}, true},
		{"unknown write that came twice", ops{
			lost(0, 0, "SET", "k0", "a"), did(1, 1, 2, "a", "GET", "k0"), did(1, 3, 4, "OK", "SET", "k0", "b"), did(1, 5, 6, "a", "GET", "k0"),
		}, false},
		// What was told "not applied" is not in the history, so nobody wrote what is read here.
		{"refused write that was applied", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(1, 2, 3, "refused", "GET", "k0")}, false},
		{"CAS from the right value", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "NX"), did(1, 0, 2, nil, "SET", "k0", "b", "NX"), did(1, 3, 4, "a", "GETDEL", "k0")}, true},
		{"two took the lock", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "NX"), did(1, 0, 2, "OK", "SET", "k0", "b", "NX")}, false},
		{"CAS from the wrong value", ops{
			did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 3, "OK", "SET", "k0", "b"), did(1, 4, 5, "a", "SET", "k0", "c", "XX", "GET"),
		}, false},
		{"compare and set", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(1, 2, 3, "OK", "SET", "k0", "b", "IFEQ", "a"), did(0, 4, 5, "b", "GET", "k0")}, true},
		{"compare and set of another value", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(1, 2, 3, "OK", "SET", "k0", "b", "IFEQ", "c")}, false},
		{"two compared and set", ops{
			did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 4, "OK", "SET", "k0", "b", "IFEQ", "a"), did(1, 2, 4, "OK", "SET", "k0", "c", "IFEQ", "a"),
		}, false},
		{"lost INCR", ops{did(0, 0, 2, int64(1), "INCRBY", "k0", "1"), did(1, 0, 2, int64(1), "INCRBY", "k0", "1")}, false},
		{"INCR that counted twice", ops{did(0, 0, 1, int64(1), "INCRBY", "k0", "1"), did(0, 2, 3, int64(3), "INCRBY", "k0", "1")}, false},
		{"APPEND that was lost", ops{did(0, 0, 1, int64(2), "APPEND", "k0", "ab"), did(1, 2, 3, int64(2), "APPEND", "k0", "cd")}, false},
		{"whole MSET", ops{did(0, 0, 3, "OK", "MSET", "k0", "a1", "k1", "b1"), did(1, 1, 2, seen, "MGET", "k0", "k1", "k2")}, true},
		{"half of an MSET", ops{did(0, 0, 3, "OK", "MSET", "k0", "a1", "k1", "b1"), did(1, 1, 2, []any{"a1", nil}, "MGET", "k0", "k1")}, false},
		{"half of an unknown MSET", ops{lost(0, 0, "MSET", "k0", "a1", "k1", "b1"), did(1, 1, 2, []any{nil, "b1"}, "MGET", "k0", "k1")}, false},
		{"RENAME that left its source", ops{
			did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 3, "OK", "RENAME", "k0", "k1"), did(0, 4, 5, []any{"a", "a"}, "MGET", "k0", "k1"),
		}, false},
		{"key that expires in time", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "PX", "1000"), did(1, 1.5, 1.6, "a", "GET", "k0"), did(1, 2, 3, nil, "GET", "k0")}, true},
		{"expired key that is there", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "PX", "1000"), did(1, 2.1, 3, "a", "GET", "k0")}, false},
		{"key that expires too soon", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "PX", "1000"), did(1, 0.8, 0.9, nil, "GET", "k0"), did(1, 0.5, 0.6, "a", "GET", "k0")}, false},
		{"expired key that comes back", ops{did(0, 0, 9, "OK", "SET", "k0", "a", "PX", "1000"), did(1, 1, 2, "a", "GET", "k0"), did(1, 4, 5, nil, "GET", "k0"), did(1, 5.1, 6, "a", "GET", "k0")}, false},
		{"expiry that is longer than was set", ops{did(0, 0, 1, "OK", "SET", "k0", "a", "PX", "1000"), did(1, 1, 1.1, int64(1100), "PTTL", "k0")}, false},
		{"PERSIST that did not hold", ops{
			did(0, 0, 1, "OK", "SET", "k0", "a", "PX", "5000"), did(0, 1, 2, int64(1), "PERSIST", "k0"), did(0, 9, 10, nil, "GET", "k0"),
		}, false},
		{"stale read as old as it says", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 3, "OK", "SET", "k0", "b"), stale(1, 4, 5, 1.5, "a", "GET", "k0")}, true},
		{"stale read older than it says", ops{did(0, 0, 1, "OK", "SET", "k0", "a"), did(0, 2, 3, "OK", "SET", "k0", "b"), stale(1, 4, 5, 0.5, "a", "GET", "k0")}, false},
		{"stale read from the future", ops{did(0, 6, 7, "OK", "SET", "k0", "a"), stale(1, 4, 5, 1, "a", "GET", "k0")}, false},
	} {
		err := checkGroup(semantics{slack: roundingSlack}, "group", test.ops)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	pictures, err := filepath.Glob(filepath.Join(os.Getenv("RAFTCASK_ARTIFACTS"), "*.html"))
	if err != nil || len(pictures) == 0 {
		t.Errorf("no picture was written: %v", err)
	}
}

func TestBoundedReadMayNotSayThatItIsOlder(t *testing.T) {
	for _, test := range []struct {
		bound, age, took time.Duration
		known, ok        bool
	}{
		{0, time.Hour, 0, false, true},
		{time.Second, 900 * time.Millisecond, 0, true, true},
		{time.Second, 1500 * time.Millisecond, 600 * time.Millisecond, true, true}, // it grew older on its way
		{time.Second, 1500 * time.Millisecond, 400 * time.Millisecond, true, false},
		{time.Second, 0, 0, false, false},
	} {
		if err := tooOld(test.bound, staleAnswer{age: test.age, known: test.known}, test.took); (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestTwoLeadersInATermAreSeen(t *testing.T) {
	won := func(term string) string {
		return "time=x level=INFO msg=\"election won\" node=n group=0 component=raft term=" + term + " tally=2\n"
	}
	if terms, err := leaderPerTerm(map[string]string{"n1": won("2") + won("5"), "n2": won("3")}); err != nil || terms != 3 {
		t.Errorf("%d terms, %v", terms, err)
	}
	for name, logs := range map[string]map[string]string{
		"two nodes":    {"n1": won("2"), "n2": won("3") + won("2")},
		"a node twice": {"n1": won("2") + won("2")},
		"no election":  {"n1": "time=x level=INFO msg=leading\n"},
	} {
		if _, err := leaderPerTerm(logs); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestDivergedReplicasAreSeen(t *testing.T) {
	d := func(index uint64, sum string) replicaDigest {
		return replicaDigest{AppliedIndex: index, AppliedTerm: 1, Keys: 1, Sum: sum}
	}
	for _, test := range []struct {
		name             string
		digests          map[string]replicaDigest
		comparable, same bool
	}{
		{"equal", map[string]replicaDigest{"n1": d(7, "a"), "n2": d(7, "a")}, true, true},
		{"not at one entry", map[string]replicaDigest{"n1": d(7, "a"), "n2": d(8, "b")}, false, true},
		{"diverged", map[string]replicaDigest{"n1": d(7, "a"), "n2": d(7, "b"), "n3": d(7, "a")}, true, false},
	} {
		comparable, err := compareDigests(test.digests)
		if comparable != test.comparable || (err == nil) != test.same {
			t.Errorf("%s: %t, %v", test.name, comparable, err)
		}
	}
}

func TestSettledKeysMustStay(t *testing.T) {
	settled := map[string]any{"a": "1", "b": nil}
	if got := compareSettled("n1", []string{"a", "b"}, []any{"1", nil}, settled); len(got) != 0 {
		t.Error(got)
	}
	if got := compareSettled("n1", []string{"a", "b"}, []any{nil, "2"}, settled); len(got) != 2 {
		t.Errorf("a lost key and one that came back: %v", got)
	}
}

func TestReportFailsARunWithoutTraffic(t *testing.T) {
	busy := func() *report {
		r := &report{elapsed: time.Second, ok: 1000, faults: map[string]int{"kill": 1}}
		for of := range r.phases.length {
			r.phases.length[of] = time.Second
			r.phases.done[of] = map[string]uint64{"register": 900, "counter": 100}
		}
		return r
	}
	for name, idle := range map[string]func(r *report){
		"much of all":                    func(*report) {},
		"one kind is not served":         func(r *report) { r.phases.done[quiet]["counter"] = 0 },
		"nobody is served during faults": func(r *report) { clear(r.phases.done[struck]); r.phases.done[struck]["register"] = 0 },
		"nothing was ever quiet":         func(r *report) { r.phases.length[quiet] = 0 },
		"little in all":                  func(r *report) { r.ok = 10 },
		"a fault that never came":        func(r *report) { r.faults["pause"] = 0 },
	} {
		r := busy()
		idle(r)
		r.checkRates()
		if want := name != "much of all"; (len(r.violations) > 0) != want {
			t.Errorf("%s: %v", name, r.violations)
		}
	}
}

// TestSemanticsAgreeWithRedis runs the traffic's own commands against a Redis, one at a time.
func TestSemanticsAgreeWithRedis(t *testing.T) {
	addr := startRedis(t)
	rng := newRand(t)
	c := dialRedis(t, addr)
	sem := semantics{slack: roundingSlack}
	begin := time.Now()
	for _, k := range kinds {
		if k.name == "compare and set" {
			continue // Redis knows IFEQ from 8.4 on
		}
		possible := []groupState{{}}
		for i := range 1000 {
			d := &draw{Rand: rng, group: strings.ReplaceAll(k.name, " ", "-"), unique: "v" + string(rune('a'+i%26))}
			for _, args := range k.draw(d) {
				in := opInput{args: args, call: time.Since(begin).Nanoseconds()}
				got := judgeRaw(c.do(args...))
				in.ret = time.Since(begin).Nanoseconds()
				var next []groupState
				for _, st := range possible {
					next = append(next, sem.step(st, in, got.reply)...)
				}
				if len(next) == 0 {
					t.Fatalf("%s: %s after %v", k.name, describeOperation(in, got.reply), possible)
				}
				possible = next[:min(len(next), 8)] // all agree but for the expiry, which is known within a millisecond
			}
		}
	}
}
