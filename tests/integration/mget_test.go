package integration

import (
	"fmt"
	"strconv"
	"testing"
)

// TestMGETNeverSeesHalfOfAnMSET writes three keys together, over and over, and reads them together through every node.
func TestMGETNeverSeesHalfOfAnMSET(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	writer := dialRedis(t, c.leader().resp)
	if got := writer.do("MSET", "a", "0", "b", "0", "c", "0"); got != status("OK") {
		t.Fatalf("MSET: %v", got)
	}
	stop, written := make(chan struct{}), make(chan any, 1)
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				written <- n
				return
			default:
			}
			value := strconv.Itoa(n)
			if got, err := writer.try("MSET", "a", value, "b", value, "c", value); err != nil || got != status("OK") {
				written <- fmt.Sprint(got, err)
				return
			}
		}
	}()
	for _, n := range c.nodes {
		reader := dialRedis(t, n.resp)
		for range 1000 {
			got, ok := reader.do("MGET", "a", "b", "c").([]any)
			if !ok || len(got) != 3 || got[0] != got[1] || got[1] != got[2] {
				t.Errorf("MGET through %s: %v", n.id, got)
				break
			}
		}
	}
	close(stop)
	if n, ok := (<-written).(int); !ok || n < 100 {
		t.Errorf("the writer made %v rounds", n)
	}
}
