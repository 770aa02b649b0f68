package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// errReported is the error of a command that has told the user already what
// went wrong, for instance one line for each of many files.
var errReported = errors.New("failed")

// usageError is a mistake in the command line or the configuration: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func isUsage(err error) bool {
	var usage *usageError
	return errors.As(err, &usage)
}

// helpOrUnknown runs a command that only has subcommands: alone it prints its
// help, with an argument the argument is a subcommand that does not exist.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := nearest(args[0], commandNames(cmd)); near != "" {
		return usagef("%s: did you mean %q?", text, cmd.CommandPath()+" "+near)
	}
	return usagef("%s: see %q", text, cmd.CommandPath()+" --help")
}

// refuseHelpOfUnknown makes the help of a subcommand that does not exist an error: cobra would print that of the command
// above. Help functions cannot fail, so the error is there when the command has ended.
func refuseHelpOfUnknown(root *cobra.Command) *error {
	var unknown error
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
			unknown = helpOrUnknown(cmd, cmd.Flags().Args())
			return
		}
		help(cmd, args)
	})
	return &unknown
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// arguments returns a check that the command got exactly the named arguments,
// or at least them when the last name ends in "...".
func arguments(names ...string) cobra.PositionalArgs {
	open := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) || open && len(args) > len(names) {
			return nil
		}
		return usagef("%s takes %s, got %d argument(s): see %q",
			shortPath(cmd), describeArguments(names), len(args), cmd.CommandPath()+" --help")
	}
}

func describeArguments(names []string) string {
	if len(names) == 0 {
		return "no arguments"
	}
	return strings.Join(names, " ")
}

var unknownFlag = regexp.MustCompile(`^unknown (?:shorthand )?flag: '?[^'-]*'?(?: in )?(-.*)$`)

// flagError turns pflag's complaint into a usage error and, for a flag that
// does not exist, adds the one that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	text := err.Error()
	if m := unknownFlag.FindStringSubmatch(text); m != nil {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(strings.TrimLeft(m[1], "-"), names); near != "" {
			return usagef("%s: unknown flag %s: did you mean --%s?", shortPath(cmd), m[1], near)
		}
		return usagef("%s: unknown flag %s: see %q", shortPath(cmd), m[1], cmd.CommandPath()+" --help")
	}
	return usagef("%s: %s", shortPath(cmd), text)
}

// shortPath is the name of a command without the program's, which begins every
// message already.
func shortPath(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// nearest returns the candidate that word was most likely meant to be, or ""
// when none is close: at most a third of its letters may be wrong.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/3+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(word), c); d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's: insertions, deletions and substitutions.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
