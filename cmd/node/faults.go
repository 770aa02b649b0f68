//go:build faults

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
	"github.com/raftcask/raftcask/internal/vfs/diskfault"
)

// clock is what expiry times are judged by; the integration tests make it jump.
var clock = time.Now

// init puts the sick machine below everything else, when the environment asks for it. Only the binary that the integration
// tests build with the tag "faults" has this file; main knows nothing of it.
func init() {
	settings, sick, err := diskfault.FromEnv(os.Getenv)
	if err == nil && sick {
		err = makeSick(settings)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "raftcask: faults:", err)
		os.Exit(exitUsage)
	}
}

func makeSick(settings diskfault.Settings) error {
	machine, err := diskfault.Start(vfs.OS(), settings)
	if err != nil {
		return err
	}
	vfs.ReplaceOS(machine.Disk())
	clock = machine.Now
	return nil
}
