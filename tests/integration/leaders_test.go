package integration

import (
	"fmt"
	"regexp"
	"strconv"
)

// electionWon is what raft logs in the moment when a node becomes leader.
var electionWon = regexp.MustCompile(`msg="election won" .*\bterm=(\d+)`)

// leaderPerTerm finds two elections won in one term in the logs of the nodes. Even the same node must not win twice: it would
// have forgotten its vote in between.
func leaderPerTerm(logs map[string]string) (terms int, err error) {
	won := make(map[uint64]string)
	for node, text := range logs {
		for _, match := range electionWon.FindAllStringSubmatch(text, -1) {
			term, err := strconv.ParseUint(match[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %q: %w", node, match[0], err)
			}
			if other, twice := won[term]; twice {
				return 0, fmt.Errorf("two leaders in term %d: %s and %s", term, other, node)
			}
			won[term] = node
		}
	}
	if len(won) == 0 {
		return 0, fmt.Errorf("no node logged that it won an election")
	}
	return len(won), nil
}
