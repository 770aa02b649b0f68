package integration

import (
	"encoding/json"
	"fmt"
	"time"
)

// replicaDigest is what RAFTCASK DIGEST answers: a sum over all keys, values, versions and expiries at an applied entry.
type replicaDigest struct {
	AppliedIndex uint64 `json:"applied_index"`
	AppliedTerm  uint64 `json:"applied_term"`
	Keys         int    `json:"keys"`
	Sum          string `json:"sum"`
}

func digestOf(addr string) (replicaDigest, error) {
	c, err := tryDialRedis(addr)
	if err != nil {
		return replicaDigest{}, err
	}
	defer func() { _ = c.Close() }() // answered
	reply, err := c.try("RAFTCASK", "DIGEST")
	if err != nil {
		return replicaDigest{}, err
	}
	text, ok := reply.(string)
	if !ok {
		return replicaDigest{}, fmt.Errorf("RAFTCASK DIGEST at %s: %v", addr, reply)
	}
	var d replicaDigest
	return d, json.Unmarshal([]byte(text), &d)
}

// compareDigests reports whether all replicas stand at one entry, and if so, how their contents differ.
func compareDigests(byNode map[string]replicaDigest) (comparable bool, err error) {
	var first replicaDigest
	for _, d := range byNode {
		first = d
	}
	for _, d := range byNode {
		if d.AppliedIndex != first.AppliedIndex {
			return false, nil
		}
	}
	for _, d := range byNode {
		if d != first {
			return true, fmt.Errorf("the replicas have diverged at entry %d: %+v", d.AppliedIndex, byNode)
		}
	}
	return true, nil
}

// compareReplicas waits, without traffic, until all nodes have applied the same entry, and compares what they hold.
func (f *fleet) compareReplicas() error {
	f.t.Helper()
	var verdict error
	eventually(f.t, 2*time.Minute, "all nodes at one applied entry", func() error {
		byNode := make(map[string]replicaDigest)
		for _, m := range f.hosts {
			d, err := digestOf(m.respAddr())
			if err != nil {
				return fmt.Errorf("%s: %w", m.name(), err)
			}
			byNode[m.name()] = d
		}
		same, err := compareDigests(byNode)
		if !same {
			return fmt.Errorf("%+v", byNode)
		}
		verdict = err
		return nil
	})
	return verdict
}
