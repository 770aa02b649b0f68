package cluster

import (
	"testing"
	"time"
)

func TestSilenceIsNoticedOnceAndInTime(t *testing.T) {
	const heartbeat = 400 * time.Millisecond
	for _, random := range []float64{0, 0.5, 0.999} {
		start := time.Now()
		s := silence{heartbeat: heartbeat, looked: start}
		contact, noticed := start, 0
		for at := time.Duration(0); at < 5*time.Second; at += silenceLook {
			if at < time.Second {
				contact = start.Add(at) // the leader speaks until then
			}
			if s.over(start.Add(at), contact, random) {
				noticed++
				silent := start.Add(at).Sub(contact)
				if silent < heartbeat*11/10 || silent > heartbeat*14/10+silenceLook {
					t.Errorf("noticed after %v", silent)
				}
			}
		}
		if noticed != 1 {
			t.Errorf("noticed %d times", noticed)
		}
	}
}

// TestOwnPauseIsNotTheLeadersSilence: a process that was stopped, or starved, gives its leader time to be heard again.
func TestOwnPauseIsNotTheLeadersSilence(t *testing.T) {
	const heartbeat = 400 * time.Millisecond
	start := time.Now()
	s := silence{heartbeat: heartbeat, looked: start}
	if s.over(start, start, 0) || s.over(start.Add(3*time.Second), start, 0) {
		t.Fatal("a pause of this process was taken for the leader's silence")
	}
	if s.over(start.Add(3*time.Second+silenceLook), start, 0) {
		t.Error("the leader was given no time")
	}
	now := start.Add(3 * time.Second)
	for range 25 {
		now = now.Add(silenceLook)
		if s.over(now, start, 0) {
			return
		}
	}
	t.Error("the silence goes on, and was not noticed")
}
