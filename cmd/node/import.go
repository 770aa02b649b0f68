package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// bulkOptions are those that import and verify share.
type bulkOptions struct {
	connection
	workers  int
	prefix   string
	patience time.Duration
	exact    bool // verify only
}

func (o *bulkOptions) register(cmd *cobra.Command) {
	o.connection.register(cmd, true)
	o.workers, o.patience = 16, time.Minute
	f := cmd.Flags()
	f.Var(count{&o.workers, 1, 1024}, "workers", "files in work at the same time")
	f.StringVar(&o.prefix, "prefix", "", "text that the keys have before the path")
	f.Var(span{&o.patience}, "patience", "how long to go on trying while the cluster does not answer")
}

func (o *bulkOptions) retrier() *retrier {
	return &retrier{timeout: o.timeout, patience: o.patience}
}

func newImport() *cobra.Command {
	var o bulkOptions
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Store the files of a directory tree",
		Long: `Store every regular file under DIR: its path from DIR, with slashes, is the key,
and its contents are the value. Links are left out. It goes on by itself when the
leader dies: setting the same value twice does no harm, so a write with an unknown
outcome is repeated.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := o.open()
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }() // everything was answered
			return runImport(cmd.Context(), s, args[0], o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.register(cmd)
	return cmd
}

// importSummary is the result of import.
type importSummary struct {
	Files    int64   `json:"files"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Retries  int64   `json:"retries"`
	Unknown  int64   `json:"unknown_outcomes"`
	Refused  int64   `json:"refused"`
	Skipped  int     `json:"skipped"`
	Complete bool    `json:"complete"` // every file was looked at
}

func (s importSummary) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "imported %d files, %d bytes, in %.1f seconds (%.0f files/s, %s/s); %d retries, %d unknown outcomes, %d refused, %d skipped\n",
		s.Files, s.Bytes, s.Seconds, float64(s.Files)/s.Seconds, humanSize(int64(float64(s.Bytes)/s.Seconds)),
		s.Retries, s.Unknown, s.Refused, s.Skipped)
	return err
}

func runImport(ctx context.Context, s store, dir string, o bulkOptions, stdout, stderr io.Writer) error {
	t, err := readTree(dir, o.prefix)
	if err != nil {
		return err
	}
	r := o.retrier()
	limit, err := valueLimit(ctx, r, s)
	if err != nil {
		return err
	}
	shown := startProgress(stderr, "imported", t)
	for _, err := range t.errs {
		shown.say("not imported: %v", err)
	}
	var files, bytes, refused atomic.Int64
	refused.Store(int64(len(t.errs)))
	err = each(ctx, t.files, o.workers, func(ctx context.Context, f file) error {
		n, err := importFile(ctx, s, r, f, limit)
		if stopsAll(ctx, err) {
			return fmt.Errorf("%s: %w", f.key, err)
		}
		if err != nil {
			shown.say("not imported: %s: %v", f.path, err)
			refused.Add(1)
			return nil
		}
		files.Add(1)
		bytes.Add(n)
		shown.add(n)
		return nil
	})
	took := shown.finish()
	sum := importSummary{
		Files: files.Load(), Bytes: bytes.Load(), Seconds: max(took.Seconds(), 0.001),
		Retries: r.retries.Load(), Unknown: r.unknowns.Load(), Refused: refused.Load(),
		Skipped: t.skipped, Complete: err == nil,
	}
	if printErr := o.print(stdout, sum); printErr != nil {
		return printErr
	}
	switch {
	case err != nil:
		return fmt.Errorf("import stopped before the end; run it again to complete it: %w", err)
	case sum.Refused > 0:
		return errReported
	}
	return nil
}

// importFile stores one file and returns its length.
func importFile(ctx context.Context, s store, r *retrier, f file, limit int64) (int64, error) {
	data, err := f.read(limit)
	if err != nil {
		return 0, err
	}
	err = r.do(ctx, func(ctx context.Context) error { return s.Set(ctx, f.key, data) })
	return int64(len(data)), err
}

// stopsAll tells an error of the cluster from that of one file.
func stopsAll(ctx context.Context, err error) bool {
	var gaveUp *exhausted
	return err != nil && (ctx.Err() != nil || errors.As(err, &gaveUp))
}

// valueLimit asks for the longest value, so that a longer file is refused by name
// and not sent.
func valueLimit(ctx context.Context, r *retrier, s store) (limit int64, err error) {
	err = r.do(ctx, func(ctx context.Context) error {
		limit, err = s.MaxValueBytes(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the length of values: %w", err)
	}
	return limit, nil
}
