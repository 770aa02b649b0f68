package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
)

// maxStdinBytes is the longest value that any cluster can be configured for.
const maxStdinBytes = 64 * mib

func newSet() *cobra.Command {
	var c connection
	var ttl time.Duration
	var ifAbsent, ifPresent bool
	cmd := &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Set the value of a key",
		Long: `Set the value of a key. A VALUE of - is read from stdin, to its end. When the
condition --nx or --xx does not hold, nothing is written and the exit code is 1.`,
		Args: arguments("KEY", "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var options []client.SetOption
			if ttl != 0 {
				options = append(options, client.WithTTL(ttl))
			}
			switch {
			case ifAbsent && ifPresent:
				return usagef("set: --nx and --xx exclude each other: give one")
			case ifAbsent:
				options = append(options, client.IfAbsent())
			case ifPresent:
				options = append(options, client.IfPresent())
			}
			value, err := valueArgument(args[1], cmd.InOrStdin())
			if err != nil {
				return err
			}
			sdk, err := c.dial()
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			err = sdk.Set(cmd.Context(), args[0], value, options...)
			if errors.Is(err, client.ErrConditionFailed) {
				return conditionError(args[0], ifAbsent)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "OK")
			return err
		},
	}
	c.register(cmd, false)
	f := cmd.Flags()
	f.Var(span{&ttl}, "ttl", "let the key expire after this time")
	f.BoolVar(&ifAbsent, "nx", false, "only if the key does not exist")
	f.BoolVar(&ifPresent, "xx", false, "only if the key exists")
	return cmd
}

func valueArgument(arg string, stdin io.Reader) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	value, err := io.ReadAll(io.LimitReader(stdin, maxStdinBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the value from stdin: %w", err)
	}
	if len(value) > maxStdinBytes {
		return nil, fmt.Errorf("the value on stdin is longer than %s, the most that a cluster can take", formatSize(maxStdinBytes))
	}
	return value, nil
}

func conditionError(key string, ifAbsent bool) error {
	if ifAbsent {
		return fmt.Errorf("%q exists: not set (--nx)", key)
	}
	return fmt.Errorf("%q does not exist: not set (--xx)", key)
}
