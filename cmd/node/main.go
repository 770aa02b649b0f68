// Command raftcask is a replicated key-value store: one node (serve), a whole
// cluster on this machine (dev), and the clients that talk to either.
//
//	raftcask dev                                  three nodes on loopback
//	raftcask serve --id n1 --data /var/lib/rc     one node
//	raftcask set greeting hello                   a client
//	raftcask cluster status
//
// Each subcommand has a file of its own. They share four rules:
//
//   - Results go to stdout, everything else to stderr, so that output can be piped.
//   - The exit code is 0 for done, 1 for refused or failed, 2 for a mistake in
//     the command line or the configuration.
//   - An error is one line that names what was wrong and what to do. A mistake in
//     a flag never prints the whole usage text.
//   - Nothing reads os.Args, os.Stdout or the environment but run and its
//     arguments, so that the tests call run as the shell does.
//
// Package server, beside this one, is the node itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes: DESIGN §9. Tools depend on them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a graceful stop. After it the signals have their
	// usual effect again, so that a second Ctrl-C ends a stop that hangs.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	unknown := refuseHelpOfUnknown(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = *unknown
	}
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errReported) {
		_, _ = fmt.Fprintf(stderr, "raftcask: %s\n", oneLine(err.Error())) // nobody is left to tell
	}
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "raftcask",
		Short: "A replicated key-value store that speaks the Redis protocol",
		Long: `A replicated key-value store that speaks the Redis protocol.
An OK means that a majority of the nodes has the write on disk.`,
		Version:       versionText(), // for --version and -v
		SilenceErrors: true,
		SilenceUsage:  true,
		// Cobra's own message for an unknown command has several lines.
		Args: cobra.ArbitraryArgs,
		RunE: helpOrUnknown,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("raftcask {{.Version}}\n")
	root.AddCommand(
		newServe(), newDev(),
		newGet(), newSet(), newDel(),
		newCluster(), newImport(), newVerify(), newCask(), newRecover(), newVersion(),
	)
	return root
}

// oneLine keeps a message on one line: logs and scripts read lines.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", " ")), " ")
}
