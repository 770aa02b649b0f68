package command

import "strings"

// A write has three outcomes, never two: applied, definitely not applied, and unknown. The first word of
// an error decides what client libraries do with it: go-redis and others retry by themselves whatever
// begins with TRYAGAIN or CLUSTERDOWN. So these two words are kept for commands that were definitely not
// applied, and an unknown outcome has a word of its own, which no library retries: a second INCR could
// count twice.

const (
	codeTryAgain = "TRYAGAIN"
	codeNoLeader = "CLUSTERDOWN"
)

// NotApplied is the reply to a command that was definitely not applied and may be sent again.
func NotApplied(reason string) Reply {
	return Err(codeTryAgain + " not applied: " + reason)
}

// NoLeader is the reply while no leader is known. Nothing was applied.
func NoLeader() Reply {
	return Err(codeNoLeader + " not applied: no leader is known; it needs a majority of the nodes, try again")
}

// IsNotApplied reports whether r says that the command was not applied and may be sent again.
func IsNotApplied(r *Reply) bool {
	return r.kind == KindError && (strings.HasPrefix(r.text, codeTryAgain+" ") || strings.HasPrefix(r.text, codeNoLeader+" "))
}

// Unknown is the reply to a write that was proposed and whose outcome this node could not learn.
func Unknown(reason string) Reply {
	return Err("UNKNOWN the write may or may not have been applied: " + reason + "; read the key before you retry")
}
