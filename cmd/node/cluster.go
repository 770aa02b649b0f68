package main

import "github.com/spf13/cobra"

func newCluster() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Look at a cluster, and change who is in it",
		Args:  cobra.ArbitraryArgs,
		RunE:  helpOrUnknown,
	}
	cmd.AddCommand(newClusterStatus(), newClusterMembers(), newClusterRemove(), newClusterTransfer(), newClusterLeave(), newClusterReplace())
	return cmd
}
