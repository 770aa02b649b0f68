package client

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// What callers branch on, with errors.Is.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound = errors.New("client: the key does not exist")
	// ErrConditionFailed: the condition of a Set did not hold, nothing was written.
	ErrConditionFailed = errors.New("client: the condition did not hold, nothing was written")
	// ErrOutcomeUnknown: a write may or may not have been applied.
	ErrOutcomeUnknown = errors.New("client: the outcome is unknown")
	// ErrNotApplied: a write was certainly not applied.
	ErrNotApplied = errors.New("client: not applied")
	// ErrUnavailable: nobody answered a read.
	ErrUnavailable = errors.New("client: no answer")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("client: closed")
)

// UnknownError is a write that was sent and whose outcome could not be learned. It is an ErrOutcomeUnknown.
type UnknownError struct {
	Command string // the command and its key
	Cause   error  // the connection's error, the context's, or the server's UNKNOWN answer
}

// Error says that the write may have been applied, why that is unknown, and what to do.
func (e *UnknownError) Error() string {
	text := fmt.Sprintf("client: %s may or may not have been applied: %v", e.Command, e.Cause)
	advice, again := keyAdvice, " write again"
	if strings.HasPrefix(e.Command, "RAFTCASK ") { // what was asked is about members, not keys
		advice, again = membersAdvice, " try again"
	}
	if strings.Contains(text, advice) {
		return text // the server has said it
	}
	return text + "; " + advice + again
}

// What to do after an unknown outcome, as servers begin it too.
const (
	keyAdvice     = "read the key before you"
	membersAdvice = `look at "raftcask cluster members" before you`
)

// Is makes errors.Is(err, ErrOutcomeUnknown) hold.
func (*UnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }

// Unwrap returns the cause.
func (e *UnknownError) Unwrap() error { return e.Cause }

// NotAppliedError is a write that was given up and certainly not applied. It is an ErrNotApplied.
type NotAppliedError struct {
	Command  string
	Attempts int
	Elapsed  time.Duration
	Cause    error // why the call ended, and what its last try met
}

// Error says that nothing was applied, how long it was tried, and why it failed.
func (e *NotAppliedError) Error() string {
	return fmt.Sprintf("client: %s was not applied: gave up %s: %v; it is safe to try again", e.Command, effort(e.Attempts, e.Elapsed), e.Cause)
}

// Is makes errors.Is(err, ErrNotApplied) hold.
func (*NotAppliedError) Is(target error) bool { return target == ErrNotApplied }

// Unwrap returns the cause.
func (e *NotAppliedError) Unwrap() error { return e.Cause }

// UnavailableError is a read that was given up. It is an ErrUnavailable.
type UnavailableError struct {
	Command  string
	Attempts int
	Elapsed  time.Duration
	Cause    error // why the call ended, and what its last try met
}

// Error says how long the read was tried and why it failed.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("client: %s was not answered: gave up %s: %v; check that a majority of the nodes is up and reachable",
		e.Command, effort(e.Attempts, e.Elapsed), e.Cause)
}

// Is makes errors.Is(err, ErrUnavailable) hold.
func (*UnavailableError) Is(target error) bool { return target == ErrUnavailable }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Cause }

func effort(attempts int, elapsed time.Duration) string {
	switch attempts {
	case 0:
		return "before the first try"
	case 1:
		return fmt.Sprintf("after 1 try in %v", elapsed.Round(time.Millisecond))
	default:
		return fmt.Sprintf("after %d tries in %v", attempts, elapsed.Round(time.Millisecond))
	}
}

// ServerError is an error answer that trying again would not change: a wrong type of value, a syntax error,
// missing rights. Nothing was applied.
type ServerError struct {
	Command string
	Text    string // the answer as it came
}

// Error returns the command and the answer.
func (e *ServerError) Error() string { return fmt.Sprintf("client: %s: %s", e.Command, e.Text) }

// Code returns the first word of the answer, such as ERR, WRONGTYPE or NOAUTH.
func (e *ServerError) Code() string { return code(e.Text) }

// code returns the first word of an error answer: client libraries decide by it.
func code(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}
