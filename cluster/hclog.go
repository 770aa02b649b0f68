package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatWindow is how long an identical warning is held back: with a peer down, raft repeats the same
// line several times a second.
const repeatWindow = 5 * time.Second

// hclogAdapter lets raft log through slog.
type hclogAdapter struct {
	log     *slog.Logger
	name    string
	implied []any
	quiet   *repeatFilter
}

func newHclog(logger *slog.Logger, name string) *hclogAdapter {
	return &hclogAdapter{log: logger.With("component", name), name: name, quiet: &repeatFilter{seen: map[string]*repeated{}}}
}

// slogLevel lowers raft's routine lines by one step: they are for debugging raft, not for operators.
func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn, hclog.Info:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (a *hclogAdapter) Log(level hclog.Level, msg string, args ...any) {
	to := slogLevel(level)
	if !a.log.Enabled(context.Background(), to) {
		return
	}
	if level >= hclog.Warn {
		held, pass := a.quiet.pass(msg, time.Now())
		if !pass {
			return
		}
		if held > 0 {
			args = append(args[:len(args):len(args)], "repeated", held)
		}
	}
	for i := 1; i < len(args); i += 2 {
		if f, ok := args[i].(hclog.Format); ok && len(f) > 0 {
			if layout, ok := f[0].(string); ok {
				args[i] = fmt.Sprintf(layout, f[1:]...)
			}
		}
	}
	a.log.Log(context.Background(), to, msg, args...)
}

func (a *hclogAdapter) Trace(msg string, args ...any) { a.Log(hclog.Trace, msg, args...) }
func (a *hclogAdapter) Debug(msg string, args ...any) { a.Log(hclog.Debug, msg, args...) }
func (a *hclogAdapter) Info(msg string, args ...any)  { a.Log(hclog.Info, msg, args...) }
func (a *hclogAdapter) Warn(msg string, args ...any)  { a.Log(hclog.Warn, msg, args...) }
func (a *hclogAdapter) Error(msg string, args ...any) { a.Log(hclog.Error, msg, args...) }

func (a *hclogAdapter) enabled(level hclog.Level) bool {
	return a.log.Enabled(context.Background(), slogLevel(level))
}
func (a *hclogAdapter) IsTrace() bool { return a.enabled(hclog.Trace) }
func (a *hclogAdapter) IsDebug() bool { return a.enabled(hclog.Debug) }
func (a *hclogAdapter) IsInfo() bool  { return a.enabled(hclog.Info) }
func (a *hclogAdapter) IsWarn() bool  { return a.enabled(hclog.Warn) }
func (a *hclogAdapter) IsError() bool { return a.enabled(hclog.Error) }

func (a *hclogAdapter) ImpliedArgs() []any { return a.implied }
func (a *hclogAdapter) Name() string       { return a.name }

func (a *hclogAdapter) With(args ...any) hclog.Logger {
	c := *a
	c.log = a.log.With(args...)
	c.implied = append(a.implied[:len(a.implied):len(a.implied)], args...)
	return &c
}

func (a *hclogAdapter) Named(name string) hclog.Logger      { return a.ResetNamed(a.name + "." + name) }
func (a *hclogAdapter) ResetNamed(name string) hclog.Logger { c := *a; c.name = name; return &c }

// SetLevel does nothing: the level is slog's.
func (a *hclogAdapter) SetLevel(hclog.Level) {}

func (a *hclogAdapter) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Info} {
		if a.enabled(level) {
			return level
		}
	}
	return hclog.Error
}

func (a *hclogAdapter) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(a.StandardWriter(opts), "", 0)
}

func (a *hclogAdapter) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return lineWriter{a}
}

// lineWriter takes the lines that memberlist prints: "[WARN] memberlist: text".
type lineWriter struct{ to *hclogAdapter }

func (w lineWriter) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	level := hclog.Debug
	if rest, ok := bytes.CutPrefix(text, []byte("[")); ok {
		name, rest, found := bytes.Cut(rest, []byte("] "))
		if found {
			text = bytes.TrimPrefix(rest, []byte("memberlist: "))
			level = map[string]hclog.Level{"ERR": hclog.Error, "ERROR": hclog.Error, "WARN": hclog.Warn}[string(name)]
		}
	}
	w.to.Log(max(level, hclog.Debug), string(text))
	return len(line), nil
}

// repeatFilter counts identical messages instead of passing them on.
type repeatFilter struct {
	mu   sync.Mutex
	seen map[string]*repeated
}

type repeated struct {
	last time.Time
	held int
}

// maxRepeated bounds the filter's memory; memberlist puts addresses into its text.
const maxRepeated = 256

// pass tells whether msg may be logged now, and how many were held back since it last was.
func (f *repeatFilter) pass(msg string, now time.Time) (held int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.seen[msg]
	if r == nil {
		if len(f.seen) >= maxRepeated {
			clear(f.seen)
		}
		f.seen[msg] = &repeated{last: now}
		return 0, true
	}
	if now.Sub(r.last) < repeatWindow {
		r.held++
		return 0, false
	}
	held, r.held, r.last = r.held, 0, now
	return held, true
}
