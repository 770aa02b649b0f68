package client

import (
	"errors"
	"time"
)

// SetOption changes what Set does.
type SetOption interface{ applySet(*setCommand) }

// setCommand collects the options of one Set.
type setCommand struct {
	ttl          time.Duration
	hasTTL       bool
	keepTTL      bool
	ifAbsent     bool
	ifPresent    bool
	ifEquals     bool
	expected     string
	retryUnknown bool
}

type setOption func(*setCommand)

func (o setOption) applySet(s *setCommand) { o(s) }

// WithTTL makes the key expire after ttl, which must be at least 1 ms.
func WithTTL(ttl time.Duration) SetOption {
	return setOption(func(s *setCommand) { s.ttl, s.hasTTL = ttl, true })
}

// KeepTTL lets the key expire when it would have expired without this Set.
func KeepTTL() SetOption { return setOption(func(s *setCommand) { s.keepTTL = true }) }

// IfAbsent sets the key only when it does not exist.
func IfAbsent() SetOption { return setOption(func(s *setCommand) { s.ifAbsent = true }) }

// IfPresent sets the key only when it exists.
func IfPresent() SetOption { return setOption(func(s *setCommand) { s.ifPresent = true }) }

// IfEquals sets the key only when its value is the expected one: compare and set. A key that does not exist equals nothing.
func IfEquals(expected []byte) SetOption {
	return setOption(func(s *setCommand) { s.ifEquals, s.expected = true, string(expected) })
}

// newSet builds the request of a Set.
func newSet(key string, value []byte, settings settings, opts []SetOption) (request, error) {
	s := setCommand{retryUnknown: settings.retryUnknown}
	for _, o := range opts {
		o.applySet(&s)
	}
	r := request{name: "SET", args: []any{key, string(value)}, write: true}
	if s.ifAbsent && s.ifPresent || s.ifEquals && (s.ifAbsent || s.ifPresent) {
		return request{}, errors.New("client: IfAbsent, IfPresent and IfEquals exclude each other")
	}
	if s.hasTTL && s.keepTTL {
		return request{}, errors.New("client: WithTTL and KeepTTL exclude each other")
	}
	if s.hasTTL {
		ms, err := milliseconds(s.ttl)
		if err != nil {
			return request{}, err
		}
		r.args = append(r.args, "PX", ms)
	}
	if s.keepTTL {
		r.args = append(r.args, "KEEPTTL")
	}
	switch {
	case s.ifAbsent:
		r.args = append(r.args, "NX")
	case s.ifPresent:
		r.args = append(r.args, "XX")
	case s.ifEquals:
		r.args = append(r.args, "IFEQ", s.expected)
	default:
		r.repeatable = s.retryUnknown // a condition that held the first time may not hold the second
	}
	return r, nil
}
