// Package integration tests raftcask from outside: real processes on loopback, killed with SIGKILL, stopped, paused and
// started again, and asked through the ports and commands that a user has.
//
//	go test ./tests/integration                            # everything, three to four and a half minutes on two cores
//	go test ./tests/integration -run TestRealData -v       # one promise
//	make chaos                                             # the same faults for as long as CHAOS says
//	make bugs                                              # mitigations off, one by one: the tests must notice
//
// BUGS.md lists the bugs of other systems that are scenarios here. startSick puts a machine below each node, whose disk, power and
// clock a test can break (machine_test.go). TestMain builds the binary once, and the first test with a machine builds
// another one. startCluster starts nodes, each with free ports, a data directory and a log file of its
// own, and waits until every one is ready. At the end of a test every process it started is ended by its id, the logs are
// searched for panics, and after a failure their ends are printed.
//
// # Chaos
//
// TestChaos (processes behind a network of ours) and TestChaosContainers (containers whose networks are disconnected for real)
// are one run (chaos_test.go) over a fleet (fleet_test.go) and its list of faults (faults_test.go): each fault once, then random
// ones that overlap, from one printed seed. Meanwhile traffic (traffic_test.go) of several kinds (kinds_test.go) goes through
// three sorts of clients (callers_test.go), stale reads among it (stalereads_test.go). Every minute the clients are held back: the
// replicas' digests are compared at one applied entry (replicas_test.go), every key is read through every node, keys of earlier
// minutes must hold what they held (settled_test.go), each term may have had one leader (leaders_test.go), and the histories are
// checked by porcupine (history_test.go) against the meaning of the commands (semantics_test.go). A run without enough traffic of
// any kind fails, and so does one in which clients are not served soon after a fault has ended. checkers_test.go shows each
// checker what it must refuse. To add a fault, append to the fleet's list; to add traffic, append to kinds.
//
// Disks, power and clocks of processes are broken too (sickfaults_test.go), unless RAFTCASK_BIN gives the binary.
//
// A report is printed and written to a file, as are the picture and the text of a history that no order explains.
//
// Conditions are polled with a deadline (eventually); nothing sleeps in the hope that something has happened by then.
// Random choices come from a seed that is printed and can be given again:
//
//	RAFTCASK_SEED            the seed of every random choice
//	RAFTCASK_BIN             test this binary instead of building one
//	RAFTCASK_RACE=1          build the binary with the race detector
//	RAFTCASK_KEEP=1          keep the directories of failed tests
//	RAFTCASK_CHAOS_DURATION  how long TestChaos goes on (default: 25 s, and each fault once); TestChaosContainers takes a
//	                         fifth of it (default: four faults once)
//	RAFTCASK_CHAOS_NODES     how many processes TestChaos has (default: 3)
//	RAFTCASK_ARTIFACTS       where reports and evidence go (default: raftcask-chaos in the temporary directory)
package integration
