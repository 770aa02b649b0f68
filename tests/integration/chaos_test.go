package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// opTimeout is how long a client waits for one operation: longer than an election.
const opTimeout = 5 * time.Second

// TestChaosIsLinearizable reads and writes a few registers from many clients while nodes are killed, paused and started again,
// and the network between them is cut, slowed down and reset, and then looks for one order of all operations that explains every
// answer, register by register. A leader that was paused or cut off while another was elected, and answers a read from its past, is
// the classic mistake that this finds.
func TestChaosIsLinearizable(t *testing.T) {
	rng := newRand(t)
	c, network := startSeparable(t, 3)
	duration := chaosDuration(t)

	h := startRegisters(t, c, rng)
	disturb(t, c, network, rng, duration, h)
	c.waitReady()
	h.waitForProgress(t, 100)
	h.stop()
	h.check(t)
}

func chaosDuration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("RAFTCASK_CHAOS_DURATION")
	if text == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("RAFTCASK_CHAOS_DURATION: %v", err)
	}
	return d
}

// faultLength is longer than the longest election time-out (0.8 s), so that a leader that is away for so long is deposed.
const faultLength = 1200 * time.Millisecond

// faults of the chaos test. Each ends what it began.
var faults = []struct {
	name   string
	strike func(c *cluster, network *netfault.Network, victims []*node)
}{
	{"kill -9", func(_ *cluster, _ *netfault.Network, victims []*node) {
		for _, n := range victims {
			n.kill()
		}
		for _, n := range victims {
			n.start()
		}
	}},
	{"pause", func(_ *cluster, _ *netfault.Network, victims []*node) {
		for _, n := range victims {
			n.pause()
		}
		time.Sleep(faultLength) // the length is the fault
		for _, n := range victims {
			n.resume()
		}
	}},
	{"cut off", between(netfault.Rule{Cut: true}, netfault.Rule{Cut: true})},
	{"cut what they send", between(netfault.Rule{Cut: true}, netfault.Rule{})},
	{"cut what they hear", between(netfault.Rule{}, netfault.Rule{Cut: true})},
	{"slow network", between(netfault.Rule{Delay: 80 * time.Millisecond, Loss: 0.2}, netfault.Rule{Delay: 20 * time.Millisecond})},
	{"thin network", between(netfault.Rule{BytesPerSecond: 20_000}, netfault.Rule{BytesPerSecond: 20_000})},
	{"reset connections", func(c *cluster, network *netfault.Network, victims []*node) {
		for _, a := range victims {
			for _, b := range c.nodes {
				network.Reset(a.id, b.id)
			}
		}
	}},
}

// between is a fault of the network between the victims and the others.
func between(out, in netfault.Rule) func(*cluster, *netfault.Network, []*node) {
	return func(c *cluster, network *netfault.Network, victims []*node) {
		separate(c, network, victims, out, in)
		time.Sleep(faultLength) // the length is the fault
		network.Heal()
	}
}

// disturb does one thing after another to the cluster, each followed by progress of the clients, and reports how often what.
func disturb(t *testing.T, c *cluster, network *netfault.Network, rng *rand.Rand, duration time.Duration, h *registers) {
	t.Helper()
	counts := make(map[string]int)
	for deadline := time.Now().Add(duration); time.Now().Before(deadline); {
		victims, fault := chooseVictims(c, rng), faults[rng.IntN(len(faults))]
		t.Logf("%s: %s", fault.name, ids(victims))
		fault.strike(c, network, victims)
		counts[fault.name]++
		h.waitForProgress(t, 50+rng.Uint64N(200))
	}
	t.Logf("faults: %v", counts)
}

func ids(nodes []*node) string {
	var ids []string
	for _, n := range nodes {
		ids = append(ids, n.id)
	}
	return strings.Join(ids, " ")
}

const (
	registerClients = 6
	registerCount   = 20 // in use at a time

	// Registers are exchanged for new ones at this pace. Each unknown write stays possible for the rest of its register's
	// history and doubles the work of the check, so that histories must end.
	registerEpoch = 15 * time.Second
)

// registers are the clients of one run and the history of what they did.
type registers struct {
	begin   time.Time
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	done    atomic.Uint64
	history [][]porcupine.Operation // by client; each appends to its own
}

// registerInput is one operation; its output is a string: what a read returned, "" when the key was absent.
type registerInput struct {
	register int
	write    bool
	value    string
}

// outcomeless is the output of a write whose outcome is unknown.
type outcomeless struct{}

func startRegisters(t *testing.T, c *cluster, rng *rand.Rand) *registers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h := &registers{begin: time.Now(), cancel: cancel, history: make([][]porcupine.Operation, registerClients)}
	for i := range registerClients {
		// Half of them follow the leader; the others stay with one node, which may also be one that was just deposed.
		var r register = openSDK(t, c.addrs())
		if i%2 == 1 {
			r = openPinned(t, c.nodes[i/2%len(c.nodes)].resp)
		}
		clientRng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		h.wg.Go(func() { h.run(ctx, i, r, clientRng) })
	}
	t.Cleanup(h.stop)
	return h
}

func (h *registers) stop() {
	h.cancel()
	h.wg.Wait()
}

func (h *registers) run(ctx context.Context, id int, r register, rng *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		epoch := int(time.Since(h.begin) / registerEpoch)
		in := registerInput{register: epoch*registerCount + rng.IntN(registerCount), write: rng.IntN(2) == 0, value: fmt.Sprintf("%d-%d", id, i)}
		if !h.operate(ctx, id, r, in) {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// operate does one operation and notes what can be known of it. A write that was not applied and a read without an answer say
// nothing; a write of unknown outcome may take effect at any time from its start on.
func (h *registers) operate(ctx context.Context, id int, r register, in registerInput) bool {
	opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	key := fmt.Sprintf("register-%d", in.register)
	op := porcupine.Operation{ClientId: id, Input: in, Call: time.Since(h.begin).Nanoseconds()}
	if in.write {
		switch r.set(opCtx, key, in.value) {
		case notApplied:
			return false
		case unknown:
			op.Output = outcomeless{}
		}
	} else {
		value, err := r.get(opCtx, key)
		if err != nil {
			return false
		}
		op.Output = value
	}
	op.Return = time.Since(h.begin).Nanoseconds()
	h.history[id] = append(h.history[id], op)
	if op.Output == (outcomeless{}) {
		return false
	}
	h.done.Add(1)
	return true
}

func (h *registers) waitForProgress(t *testing.T, more uint64) {
	t.Helper()
	goal := h.done.Load() + more
	eventually(t, time.Minute, "operations go on", func() error {
		if n := h.done.Load(); n < goal {
			return fmt.Errorf("%d done, want %d", n, goal)
		}
		return nil
	})
}

// check looks for an order of each register's operations.
func (h *registers) check(t *testing.T) {
	t.Helper()
	var all []porcupine.Operation
	for _, ops := range h.history {
		all = append(all, ops...)
	}
	open := 0
	for i := range all {
		if all[i].Output == (outcomeless{}) {
			open++
			all[i].Return = time.Since(h.begin).Nanoseconds() // after everything else: its effect may come at any time
			all[i].ClientId = registerClients + open          // its client went on, and a client has one operation at a time
		}
	}
	t.Logf("%d operations, %d of them of unknown outcome", len(all), open)
	result := porcupine.CheckOperationsTimeout(registerModel(), all, 2*time.Minute)
	switch result {
	case porcupine.Illegal:
		t.Errorf("the history is not linearizable")
	case porcupine.Unknown:
		t.Errorf("the check did not finish: the history is too long for its number of unknown outcomes")
	}
}

// registerModel is a register that holds a string, "" at first; operations on different registers do not concern each other.
func registerModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byRegister := make(map[int][]porcupine.Operation)
			for _, op := range history {
				i := op.Input.(registerInput).register
				byRegister[i] = append(byRegister[i], op)
			}
			return slices.Collect(maps.Values(byRegister))
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			if in := input.(registerInput); in.write {
				return true, in.value
			}
			return output == state, state
		},
	}
}

// TestRegisterModelSeesAStaleRead breaks the promise on purpose: the check above must notice.
func TestRegisterModelSeesAStaleRead(t *testing.T) {
	op := func(client int, write bool, value string, call, ret int64) porcupine.Operation {
		in := registerInput{write: write, value: value}
		out := porcupine.Operation{ClientId: client, Input: in, Call: call, Return: ret}
		if !write {
			out.Input, out.Output = registerInput{}, value
		}
		return out
	}
	history := []porcupine.Operation{
		op(0, true, "a", 0, 1), op(0, true, "b", 2, 3), op(1, false, "b", 2, 3),
	}
	if !porcupine.CheckOperations(registerModel(), history) {
		t.Error("a correct history was refused")
	}
	if porcupine.CheckOperations(registerModel(), append(history, op(1, false, "a", 4, 5))) {
		t.Error("a stale read was not noticed")
	}
}
