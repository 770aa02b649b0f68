package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Histories end, but what was written in them has to stay: at each checkpoint every key is read through every node, and the
// keys of earlier segments, which nobody writes any more, must hold what they held then.

// readAll reads the keys of every group through every node, as the last operations of their histories.
func (x *chaos) readAll() {
	x.t.Helper()
	var groups []string
	x.history.mu.Lock()
	for group := range x.history.groups {
		groups = append(groups, group)
	}
	x.history.mu.Unlock()
	slices.Sort(groups)
	for i, m := range x.fleet.hosts {
		c := &rawCaller{addr: m.respAddr()}
		for _, group := range groups {
			args := []string{"MGET"}
			for slot := range slots {
				args = append(args, fmt.Sprintf("%s-%d", group, slot))
			}
			call := x.now()
			values := mustRead(x.t, c, args)
			x.history.add(group, 1000+i, opInput{args: args, call: call, ret: x.now()}, values)
			if strings.HasPrefix(group, "expiry") {
				continue // they go away by themselves
			}
			for slot, value := range values {
				x.settled[args[1+slot]] = value
			}
		}
		c.close()
	}
}

// checkSettled compares the keys of earlier segments with what they held.
func (x *chaos) checkSettled() (violations []error) {
	x.t.Helper()
	m := x.fleet.hosts[x.rng.IntN(len(x.fleet.hosts))]
	c := &rawCaller{addr: m.respAddr()}
	defer c.close()
	const together = 500
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(x.settled)), together) {
		values := mustRead(x.t, c, append([]string{"MGET"}, keys...))
		violations = append(violations, compareSettled(m.name(), keys, values, x.settled)...)
	}
	return violations[:min(len(violations), 10)]
}

func compareSettled(node string, keys []string, values []any, settled map[string]any) (violations []error) {
	for i, key := range keys {
		if want := settled[key]; values[i] != want {
			violations = append(violations, fmt.Errorf("%s: %s held %.60q, now %.60q, and nobody wrote it", node, key, want, values[i]))
		}
	}
	return violations
}

// mustRead reads from a cluster that nobody disturbs.
func mustRead(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, c *rawCaller, args []string,
) []any {
	t.Helper()
	for deadline := time.Now().Add(healBound); ; {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		a := c.call(ctx, args)[0]
		cancel()
		values, ok := a.reply.([]any)
		if a.outcome == acknowledged && ok {
			return values
		}
		if time.Now().After(deadline) {
			t.Fatalf("%.60q through %s: %v", args, c.addr, a)
			return nil
		}
	}
}
