//go:build !unix

package main

import "io"

func isTerminal(io.Writer) bool { return false }
