// Package integration tests raftcask from outside: real processes on loopback, killed with SIGKILL, stopped, paused and
// started again, and asked through the ports and commands that a user has.
//
//	go test ./tests/integration                            # everything, about five minutes on two cores
//	go test ./tests/integration -run TestRealData -v       # one promise
//	make chaos                                             # the same faults for as long as CHAOS says
//
// TestMain builds the binary once. startCluster starts nodes, each with free ports, a data directory and a log file of its
// own, and waits until every one is ready. At the end of a test every process it started is ended by its id, the logs are
// searched for panics, and after a failure their ends are printed.
//
// Conditions are polled with a deadline (eventually); nothing sleeps in the hope that something has happened by then.
// Random choices come from a seed that is printed and can be given again:
//
//	RAFTCASK_SEED            the seed of every random choice
//	RAFTCASK_BIN             test this binary instead of building one
//	RAFTCASK_RACE=1          build the binary with the race detector
//	RAFTCASK_KEEP=1          keep the directories of failed tests
//	RAFTCASK_CHAOS_DURATION  how long TestChaos goes on (default: 20s)
package integration
