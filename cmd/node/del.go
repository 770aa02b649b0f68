package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newDel() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "del KEY...",
		Short: "Delete keys",
		Long:  "Delete keys and print how many of them existed. If none did, the exit code is 1.",
		Args:  arguments("KEY..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			sdk, err := c.dial()
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			n, err := sdk.Delete(cmd.Context(), args...)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), n); err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("not found")
			}
			return nil
		},
	}
	c.register(cmd, false)
	return cmd
}
