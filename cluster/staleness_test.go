package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAgeIsNeverLessThanItIs writes at the leader and reads at a follower: whenever the follower says that its data
// is at most so old, it shows every write that was acknowledged before that.
func TestAgeIsNeverLessThanItIs(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	follower := c.others(leader)[0]
	if _, known := follower.Age(); known {
		t.Error("the age is known before anybody has asked")
	}
	acked := make([]time.Time, 0, 200) // acked[i] is when i was acknowledged
	checked := 0
	for i := range 200 {
		if err := tryPut(leader, "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, time.Now())
		if i%20 == 0 {
			if err := follower.Freshen(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		follower.NoteStaleRead()
		age, known := follower.Age()
		asOf := time.Now().Add(-age)
		text, _ := follower.local("k")
		if !known {
			continue
		}
		var shown int
		if _, err := fmt.Sscan(text, &shown); err != nil {
			t.Fatal(err)
		}
		for j := shown + 1; j < len(acked); j++ {
			if acked[j].Before(asOf.Add(-time.Millisecond)) { // the two clock readings are apart
				t.Fatalf("it shows %d and says that it is at most %s old, but %d was acknowledged %s ago", shown, age, j, time.Since(acked[j]))
			}
		}
		checked++
	}
	if checked == 0 {
		t.Error("the age was never known")
	}
}

func TestNodeCutOffSaysHowOldItsDataIs(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	follower := c.others(leader)[0]
	c.write("k", "1")
	if err := follower.Freshen(context.Background()); err != nil {
		t.Fatal(err)
	}
	if v, _ := follower.local("k"); v != "1" {
		t.Errorf("fresh, it shows %q", v)
	}
	c.isolate(follower, true)
	cut := time.Now()
	time.Sleep(200 * time.Millisecond)
	if err := follower.Freshen(context.Background()); err == nil {
		t.Error("it became fresh without anybody else")
	}
	if age, known := follower.Age(); !known || age < time.Since(cut) {
		t.Errorf("its age is %s, %t, but it was cut off %s ago", age, known, time.Since(cut))
	}
	// A leader that is cut off: its lease may last, but no majority confirms it.
	c.isolate(follower, false)
	lone := c.leader()
	c.isolate(lone, true)
	if data, err := lone.handleReadIndex(context.Background()); err != nil || !strings.Contains(string(data), `"ok":false`) {
		t.Errorf("a follower that it still reaches would be told %s, %v", data, err)
	}
	if err := lone.Freshen(context.Background()); err == nil {
		t.Error("a leader became fresh without a majority")
	}
	c.isolate(lone, false)
	until(t, 20*time.Second, func() error { return follower.Freshen(context.Background()) })
}
