package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
	"github.com/raftcask/raftcask/cluster"
)

func newClusterMembers() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show who votes, who will, and who never does",
		Long: `Show the members of a cluster by the configuration of the node that answers, and
the nodes that would like to be members. It works without a leader too.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sdk, err := c.dial()
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			var members membersResult
			if err := askJSON(cmd.Context(), sdk, &members, "MEMBERS"); err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), members)
		},
	}
	c.register(cmd, true)
	return cmd
}

// askJSON sends a subcommand of RAFTCASK and reads its answer into v.
func askJSON(ctx context.Context, sdk *client.Client, v any, args ...any) error {
	answer, err := sdk.Do(ctx, append([]any{"RAFTCASK"}, args...)...)
	if err != nil {
		return err
	}
	text, ok := answer.(string)
	if !ok {
		return fmt.Errorf("RAFTCASK %v was answered with %T, not with text: is this a node of the same version?", args[0], answer)
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("RAFTCASK %v: %w", args[0], err)
	}
	return nil
}

// membersResult is printed as JSON in the form that cluster.Members has.
type membersResult struct{ cluster.Members }

func (m membersResult) print(w io.Writer) error {
	leader := m.Leader
	if leader == "" {
		leader = "none"
	}
	if _, err := fmt.Fprintf(w, "cluster %s, leader %s, %d of %d voters must answer\n\n", orDash(m.ClusterID), leader, m.Quorum, m.Voters); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NODE\tVOTE\tROLE\tAPPLIED\tPEER\tRESP\t") // tabwriter keeps the error for Flush
	for _, n := range m.Members.Members {
		applied := fmt.Sprint(n.Applied)
		if n.Role == cluster.RoleUnreachable {
			applied = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, n.Vote, n.Role, applied, orDash(n.PeerAddr), orDash(n.RespAddr), n.Problem)
	}
	return t.Flush()
}
