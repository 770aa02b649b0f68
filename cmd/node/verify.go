package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/spf13/cobra"
)

func newVerify() *cobra.Command {
	var o bulkOptions
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Compare the store with a directory tree",
		Long: `Compare every regular file under DIR with the value of its key, byte by byte, and
report what is missing or different. The values are read through exactly the node
that --addr names; with several addresses, through each of them in turn.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var failed error
			for _, addr := range o.addrs {
				if err := verifyThrough(cmd, addr, args[0], o); err != nil && !errors.Is(err, errReported) {
					return fmt.Errorf("verify through %s: %w", addr, err)
				} else if err != nil {
					failed = err
				}
			}
			return failed
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&o.exact, "exact", false, "also report keys (with the --prefix) that are not in the tree")
	return cmd
}

func verifyThrough(cmd *cobra.Command, addr, dir string, o bulkOptions) error {
	s, err := o.openNode(addr)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // everything was answered
	return runVerify(cmd.Context(), s, addr, dir, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// verifySummary is the result of verify through one node.
type verifySummary struct {
	Addr      string  `json:"addr"`
	Files     int64   `json:"files"`
	Bytes     int64   `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	Identical int64   `json:"identical"`
	Missing   int64   `json:"missing"`
	Different int64   `json:"different"`
	Failed    int64   `json:"failed"` // could not be compared
	Extra     int64   `json:"extra"`
	Retries   int64   `json:"retries"`
	Skipped   int     `json:"skipped"`
	Complete  bool    `json:"complete"`
}

func (s verifySummary) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "verified %d files, %d bytes, through %s in %.1f seconds (%.0f files/s): %d identical, %d missing, %d different, %d failed, %d extra; %d retries, %d skipped\n",
		s.Files, s.Bytes, s.Addr, s.Seconds, float64(s.Files)/s.Seconds,
		s.Identical, s.Missing, s.Different, s.Failed, s.Extra, s.Retries, s.Skipped)
	return err
}

// verifier counts what it finds. Its methods are called by several workers.
type verifier struct {
	store store
	retry *retrier
	limit int64 // bytes of a value
	shown *progress

	identical, bytes, missing, different, failed, extra atomic.Int64
}

func runVerify(ctx context.Context, s store, addr, dir string, o bulkOptions, stdout, stderr io.Writer) error {
	t, err := readTree(dir, o.prefix)
	if err != nil {
		return err
	}
	r := o.retrier()
	limit, err := valueLimit(ctx, r, s)
	if err != nil {
		return err
	}
	v := &verifier{store: s, retry: r, limit: limit, shown: startProgress(stderr, "compared", t)}
	for _, err := range t.errs {
		v.shown.say("not compared: %v", err)
		v.failed.Add(1)
	}
	err = each(ctx, t.files, o.workers, v.compare)
	if err == nil && o.exact {
		err = v.findExtra(ctx, t, o.prefix)
	}
	took := v.shown.finish()
	sum := verifySummary{
		Addr: addr, Files: int64(len(t.files)), Bytes: v.bytes.Load(), Seconds: max(took.Seconds(), 0.001),
		Identical: v.identical.Load(), Missing: v.missing.Load(), Different: v.different.Load(),
		Failed: v.failed.Load(), Extra: v.extra.Load(), Retries: v.retry.retries.Load(),
		Skipped: t.skipped, Complete: err == nil,
	}
	if printErr := o.print(stdout, sum); printErr != nil {
		return printErr
	}
	switch {
	case err != nil:
		return fmt.Errorf("verify stopped before the end: %w", err)
	case sum.Missing+sum.Different+sum.Failed+sum.Extra > 0:
		return errReported
	}
	return nil
}

// compare looks at one file. The error ends the whole run.
func (v *verifier) compare(ctx context.Context, f file) error {
	want, err := f.read(v.limit)
	if err != nil {
		v.failed.Add(1)
		v.shown.say("not compared: %s: %v", f.path, err)
		return nil //nolint:nilerr // reported and counted: one file does not end the run
	}
	var value []byte
	var found bool
	err = v.retry.do(ctx, func(ctx context.Context) error {
		value, found, err = v.store.Get(ctx, f.key)
		return err
	})
	switch {
	case stopsAll(ctx, err):
		return fmt.Errorf("%s: %w", f.key, err)
	case err != nil:
		v.failed.Add(1)
		v.shown.say("not compared: %s: %v", f.key, err)
	case !found:
		v.missing.Add(1)
		v.shown.say("missing: %s", f.key)
	case !bytes.Equal(value, want):
		v.different.Add(1)
		v.shown.say("different: %s: %s", f.key, difference(want, value))
	default:
		v.identical.Add(1)
		v.bytes.Add(int64(len(want)))
		v.shown.add(int64(len(want)))
	}
	return nil
}

func difference(file, value []byte) string {
	n := min(len(file), len(value))
	for i := range n {
		if file[i] != value[i] {
			return fmt.Sprintf("from byte %d on (file %d bytes, value %d bytes)", i, len(file), len(value))
		}
	}
	return fmt.Sprintf("the file has %d bytes, the value %d", len(file), len(value))
}

// findExtra reports keys with the prefix that no file of the tree has.
func (v *verifier) findExtra(ctx context.Context, t *tree, prefix string) error {
	known := make(map[string]struct{}, len(t.files))
	for _, f := range t.files {
		known[f.key] = struct{}{}
	}
	err := v.retry.do(ctx, func(ctx context.Context) error {
		return v.store.Keys(ctx, prefix, func(key string) {
			if _, ok := known[key]; ok {
				return
			}
			known[key] = struct{}{} // a scan may bring a key twice
			v.extra.Add(1)
			v.shown.say("extra: %s", key)
		})
	})
	if err != nil {
		return fmt.Errorf("list the keys: %w", err)
	}
	return nil
}
