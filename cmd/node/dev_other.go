//go:build !linux

package main

import "syscall"

// childAttributes: without a signal for the parent's death the nodes stay in its
// process group, where Ctrl-C in the terminal reaches them too.
func childAttributes() *syscall.SysProcAttr { return nil }
