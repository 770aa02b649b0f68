package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
)

func newGet() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Long:  "Print the value of a key to stdout, exactly as it is: no newline is added.\nA key that does not exist is an error (exit code 1).",
		Args:  arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sdk, err := c.dial()
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			value, err := sdk.Get(cmd.Context(), args[0])
			if errors.Is(err, client.ErrNotFound) {
				return fmt.Errorf("%q: not found", args[0])
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(value)
			return err
		},
	}
	c.register(cmd, false)
	return cmd
}
