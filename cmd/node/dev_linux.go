package main

import "syscall"

// childAttributes: a node has a process group of its own, so that Ctrl-C reaches
// dev alone, which then stops the nodes; and the kernel kills it when dev dies,
// whatever dev dies of.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
