// Package program is what all benchmarks share as programs.
//
//	func run(args []string, stdout, stderr io.Writer) int {
//		return program.Run(args, stdout, stderr, parse, measure)
//	}
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Run parses the arguments (parse has told what is wrong with them) and does the work until it is done or a signal
// comes. It returns the exit code: 0 done, 1 failed, 2 for a mistake in the command line.
func Run[O any](args []string, stdout, stderr io.Writer, parse func([]string, io.Writer) (O, error), work func(context.Context, O, io.Writer) error) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := work(ctx, o, stdout); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}
