package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
	"github.com/raftcask/raftcask/cluster"
)

func newClusterStatus() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every node of a cluster",
		Long: `Show every node of a cluster as the node that answers sees it. A node that cannot
be reached is listed as such. It works without a leader too.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sdk, err := c.dial()
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			status, err := askStatus(cmd.Context(), sdk)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), status)
		},
	}
	c.register(cmd, true)
	return cmd
}

// statusResult is printed as JSON in the form that cluster.ClusterStatus has:
// DESIGN §9.
type statusResult struct{ cluster.ClusterStatus }

func askStatus(ctx context.Context, sdk *client.Client) (statusResult, error) {
	var status statusResult
	answer, err := sdk.Do(ctx, "RAFTCASK", "STATUS")
	if err != nil {
		return status, err
	}
	text, ok := answer.(string)
	if !ok {
		return status, fmt.Errorf("RAFTCASK STATUS was answered with %T, not with text: is this a node of the same version?", answer)
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return status, fmt.Errorf("RAFTCASK STATUS: %w", err)
	}
	return status, nil
}

func (s statusResult) print(w io.Writer) error {
	leader := s.Leader
	if leader == "" {
		leader = "none"
	}
	if _, err := fmt.Fprintf(w, "cluster %s, leader %s\n\n", orDash(s.ClusterID), leader); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...any) { // tabwriter keeps the error for Flush
		for i, cell := range cells {
			if i > 0 {
				_, _ = fmt.Fprint(t, "\t")
			}
			_, _ = fmt.Fprint(t, cell)
		}
		_, _ = fmt.Fprintln(t)
	}
	row("NODE", "ROLE", "TERM", "APPLIED", "LAST CONTACT", "KEYS", "DISK", "RESP", "")
	for _, n := range s.Nodes {
		if n.Role == cluster.RoleUnreachable {
			row(n.ID, n.Role, "-", "-", "-", "-", "-", orDash(n.RespAddr), n.Problem)
			continue
		}
		row(n.ID, n.Role, n.Term, n.Applied, contact(n.LastContactMS), n.Keys, humanSize(n.DiskBytes), orDash(n.RespAddr), n.Problem)
	}
	return t.Flush()
}

// contact is how long ago a node heard from the leader.
func contact(ms int64) string {
	if ms < 0 {
		return "never"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
