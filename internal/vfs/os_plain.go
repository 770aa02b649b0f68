//go:build !faults

package vfs

// OS is the file system of the machine.
func OS() FS { return osFS{} }
