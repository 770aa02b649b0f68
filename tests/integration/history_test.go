package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what clients did and what they were told, by group of keys. A write that was definitely not applied is not in
// it: if it has an effect all the same, somebody reads a value that nobody wrote, and the check fails.
type history struct {
	mu     sync.Mutex
	groups map[string][]porcupine.Operation
}

func newHistory() *history { return &history{groups: make(map[string][]porcupine.Operation)} }

func (h *history) add(group string, client int, in opInput, out any) {
	op := porcupine.Operation{ClientId: client, Input: in, Output: out, Call: in.call, Return: in.ret}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups[group] = append(h.groups[group], op)
}

// take returns all groups and begins anew.
func (h *history) take() map[string][]porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	groups := h.groups
	h.groups = make(map[string][]porcupine.Operation)
	return groups
}

// checkTime bounds the search for one group. Each unknown write doubles it, which is why groups are exchanged for new ones
// after an epoch; what cannot be decided is a failure.
const checkTime = time.Minute

// checkGroup looks for one order of all operations of a group that explains every answer, and writes down why there is none.
func checkGroup(s semantics, group string, ops []porcupine.Operation) error {
	switch porcupine.CheckOperationsTimeout(s.model(), ops, checkTime) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		path, err := writeHistory(group, ops)
		return errors.Join(fmt.Errorf("%s: the check of %d operations, %d of them of unknown outcome, did not end within %v; see %s",
			group, len(ops), countOpen(ops), checkTime, path), err)
	}
	path, err := writeEvidence(s, group, ops)
	if err != nil {
		path = fmt.Sprintf("(not written: %v)", err)
	}
	return fmt.Errorf("%s: no order of its %d operations explains every answer; see %s", group, len(ops), path)
}

func countOpen(ops []porcupine.Operation) (n int) {
	for _, op := range ops {
		if op.Output == (outcomeless{}) {
			n++
		}
	}
	return n
}

// artifactsDir is where evidence and reports stay after the test.
func artifactsDir() (string, error) {
	dir := os.Getenv("RAFTCASK_ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "raftcask-chaos")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// writeHistory writes a history as text.
func writeHistory(group string, ops []porcupine.Operation) (path string, err error) {
	dir, err := artifactsDir()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, fmt.Sprintf("%s-%s.jsonl", time.Now().Format("20060102-150405"), group))
	return path, os.WriteFile(path, historyText(ops), 0o644)
}

// writeEvidence writes the picture that porcupine draws of a history, and the history itself beside it.
func writeEvidence(s semantics, group string, ops []porcupine.Operation) (path string, err error) {
	path, err = writeHistory(group, ops)
	if err != nil {
		return "", err
	}
	path = strings.TrimSuffix(path, ".jsonl") + ".html"
	model := s.model()
	_, info := porcupine.CheckOperationsVerbose(model, inLanes(ops), checkTime)
	return path, porcupine.VisualizePath(model, info, path)
}

// inLanes gives each operation whose client goes on meanwhile a lane of its own: a client has one operation at a time in the
// picture.
func inLanes(ops []porcupine.Operation) []porcupine.Operation {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	free := map[int]int64{} // when a client's last operation returned
	next := 0
	for _, op := range ops {
		next = max(next, op.ClientId+1)
	}
	for i := range ops {
		if last, busy := free[ops[i].ClientId]; busy && last >= ops[i].Call {
			ops[i].ClientId = next
			next++
		}
		free[ops[i].ClientId] = ops[i].Return
	}
	return ops
}

// historyText is one JSON object a line, in the order of the calls.
func historyText(ops []porcupine.Operation) []byte {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	var text []byte
	for _, op := range ops {
		in := op.Input.(opInput)
		line, err := json.Marshal(map[string]any{
			"client": op.ClientId, "call": time.Duration(op.Call).String(), "return": time.Duration(op.Return).String(),
			"args": in.args, "out": op.Output, "unknown": op.Output == (outcomeless{}),
		})
		if err != nil {
			line = fmt.Appendf(nil, "%q", err.Error())
		}
		text = append(append(text, line...), '\n')
	}
	return text
}

// checker checks histories while the traffic goes on, one group after another.
type checker struct {
	semantics
	wg sync.WaitGroup

	mu         sync.Mutex
	operations int
	violations []error
}

// begin checks groups in the background, after those that were given before.
func (c *checker) begin(groups map[string][]porcupine.Operation) {
	c.wg.Wait()
	c.wg.Go(func() {
		for group, ops := range groups {
			err := checkGroup(c.semantics, group, ops)
			c.mu.Lock()
			c.operations += len(ops)
			if err != nil {
				c.violations = append(c.violations, err)
			}
			c.mu.Unlock()
		}
	})
}

// result waits for the checks that were begun.
func (c *checker) result() (operations int, violations []error) {
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.operations, c.violations
}
