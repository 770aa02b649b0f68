// Package archtest holds the direction of imports.
//
// The packages of this module form layers (ARCHITECTURE.md): the engine knows nothing of Raft, what a command means knows
// nothing of sockets, the peer port and the cluster do not know each other, and the command line joins them. The table in
// the test says for every package what it may import, of this module and of others, and why. A package without a row, an
// import outside its row, and a row without a package all fail the test.
package archtest
