// Package vfstest lends tests a disk of their own, so that filling it up disturbs nobody.
package vfstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// SmallDisk mounts a new ext4 file system, of a few MiB less than the given size, and returns its root. It is unmounted
// when the test ends. The test is skipped where that cannot be done: it takes root, loop devices and mkfs.ext4.
func SmallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	image, root := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", image}, // no blocks that only root may use: the tests are root
		{"mount", "-o", "loop", image, root},
	} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("skipped: a small disk cannot be made here: %s: %v: %s", command[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", root).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", root, err, out)
		}
	})
	return root
}
