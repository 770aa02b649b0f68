package bitcask

import "io"

// copyAll copies in odd pieces, so that every border of the stream is crossed.
func copyAll(dst io.Writer, src io.Reader) (int64, error) {
	buf := make([]byte, 1021)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf)
}
