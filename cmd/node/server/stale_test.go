package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/raftcask/raftcask/cluster"
)

// fakeFreshness is a node whose data is so old, and becomes fresh or does not.
type fakeFreshness struct {
	age     time.Duration
	aging   time.Duration // older by this with every look
	known   bool
	freshen error
	check   error
	asked   int
}

func (f *fakeFreshness) Age() (time.Duration, bool) {
	f.age += f.aging
	return f.age, f.known
}
func (f *fakeFreshness) NoteStaleRead()    {}
func (f *fakeFreshness) CheckStale() error { return f.check }
func (f *fakeFreshness) Freshen(context.Context) error {
	f.asked++
	if f.freshen == nil {
		f.age, f.known = 0, true
	}
	return f.freshen
}

// TestStaleReadIsNeverOlderThanItMayBe has a follower whose own data says "old", and no leader: what is not answered
// from the node's own data is refused.
func TestStaleReadIsNeverOlderThanItMayBe(t *testing.T) {
	cut := cluster.ErrNotConfirmed
	for name, tc := range map[string]struct {
		fresh  fakeFreshness
		maxAge time.Duration
		want   string
		asked  int
	}{
		"any age, known":          {fakeFreshness{age: time.Hour, known: true, freshen: cut}, -1, `"old"`, 0},
		"any age, not known":      {fakeFreshness{freshen: cut}, -1, `"old"`, 0},
		"young enough":            {fakeFreshness{age: time.Second, known: true, freshen: cut}, 2 * time.Second, `"old"`, 0},
		"too old":                 {fakeFreshness{age: 3 * time.Second, known: true, freshen: cut}, 2 * time.Second, "CLUSTERDOWN", 1},
		"too old, and catches up": {fakeFreshness{age: 3 * time.Second, known: true}, 2 * time.Second, `"old"`, 1},
		"too old when it is read": {fakeFreshness{age: time.Second, aging: 400 * time.Millisecond, known: true, freshen: cut}, 1500 * time.Millisecond, "CLUSTERDOWN", 0},
		"not known":               {fakeFreshness{freshen: cut}, time.Hour, "CLUSTERDOWN", 1},
		"no data":                 {fakeFreshness{known: true, check: errors.New("empty")}, -1, "CLUSTERDOWN", 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := newFakeGroup()
			g.data["k"], g.leads = "old", false
			e := newTestExecutor(g, nil)
			e.fresh = &tc.fresh
			replies, age, known := e.execStale(t.Context(), calls(t, "GET k"), tc.maxAge)
			if script(replies) != tc.want || tc.fresh.asked != tc.asked {
				t.Errorf("got %s, asked %d times; want %s, %d", script(replies), tc.fresh.asked, tc.want, tc.asked)
			}
			if tc.want == `"old"` && (known != tc.fresh.known || age < tc.fresh.age) {
				t.Errorf("it says that the data is %s old (%t), and it is %s (%t)", age, known, tc.fresh.age, tc.fresh.known)
			}
		})
	}
}
