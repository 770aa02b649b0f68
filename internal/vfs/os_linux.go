package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData leaves out what fsync adds (times of change), and with it a journal commit per write.
func syncData(f *osFile) error {
	return f.control("fdatasync", func(fd uintptr) error { return unix.Fdatasync(int(fd)) })
}

// allocate is fallocate(2) with mode 0: extends the size, keeps the contents.
func allocate(f *osFile, size int64) error {
	return f.control("fallocate", func(fd uintptr) error { return unix.Fallocate(int(fd), 0, 0, size) })
}

func syncDir(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
