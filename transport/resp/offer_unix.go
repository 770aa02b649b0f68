//go:build unix

package resp

import (
	"errors"
	"syscall"
)

// canOffer: a socket can be written to without waiting.
const canOffer = true

// offerOnce writes the parts to the socket until it takes no more, and sets taken and erred. It always
// returns true, "do not wait": the runtime would otherwise call it again when the socket is writable.
func (w *writer) offerOnce(fd uintptr) bool {
	for _, part := range w.parts {
		n, err := syscall.Write(int(fd), part)
		for errors.Is(err, syscall.EINTR) {
			n, err = syscall.Write(int(fd), part)
		}
		if errors.Is(err, syscall.EAGAIN) {
			return true
		}
		if err != nil {
			w.erred = err
			return true
		}
		w.taken += n
		if n < len(part) {
			return true
		}
	}
	return true
}
