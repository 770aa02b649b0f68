package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// ErrNotSent marks a call whose request certainly did not reach the peer: asking again, here or elsewhere, cannot run
// anything twice. A failed call without this mark has an unknown outcome.
var ErrNotSent = errors.New("the request was not sent")

// RemoteError is the error of the handler that answered a call.
type RemoteError struct{ Text string }

// Error returns the handler's text.
func (e *RemoteError) Error() string { return e.Text }

// RefusedError is a handshake that was refused: another cluster, an unknown group, another protocol version. It
// is an ErrNotSent too.
type RefusedError struct{ Reason string }

// Error says that the connection was refused and why.
func (e *RefusedError) Error() string { return "connection refused by the peer: " + e.Reason }

// Is makes errors.Is(err, ErrNotSent) hold: nothing is sent before the handshake is over.
func (*RefusedError) Is(target error) bool { return target == ErrNotSent }

// notSent gives cause the ErrNotSent mark, unless it has it.
func notSent(cause error) error {
	if errors.Is(cause, ErrNotSent) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrNotSent, cause)
}

// refusalLog writes about refused connections, at most one line a second: a node of another cluster knocks for ever.
type refusalLog struct {
	logger *slog.Logger

	mu      sync.Mutex
	last    time.Time
	skipped int
}

func (l *refusalLog) add(level slog.Level, from net.Addr, reason string, args ...any) {
	l.mu.Lock()
	if time.Since(l.last) < time.Second {
		l.skipped++
		l.mu.Unlock()
		return
	}
	skipped := l.skipped
	l.last, l.skipped = time.Now(), 0
	l.mu.Unlock()

	args = append(args, "from", from.String(), "reason", reason, "more_since_last_line", skipped)
	l.logger.Log(context.Background(), level, "refused a connection on the peer port", args...)
}
