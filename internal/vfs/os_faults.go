//go:build faults

package vfs

// replaced is what OS returns instead of the machine's file system. Only the binary of the integration tests has it.
var replaced FS

// OS is the file system of the machine, or what ReplaceOS put in its place.
func OS() FS {
	if replaced != nil {
		return replaced
	}
	return osFS{}
}

// ReplaceOS puts a file system in the place of the machine's. Call it before anything else uses OS.
func ReplaceOS(fs FS) { replaced = fs }
