package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/client"
	"github.com/raftcask/raftcask/cluster"
)

// replacePause is the pause between two questions whether a new node has caught up.
const replacePause = 500 * time.Millisecond

// changeResult is what became of a change of the membership.
type changeResult struct{ cluster.AdminResult }

func (r changeResult) print(w io.Writer) error {
	_, err := fmt.Fprintln(w, r.Message)
	return err
}

func newClusterRemove() *cobra.Command {
	return newChange("remove ID", "Take a node out of the cluster, dead or alive", `Take a node out of the cluster, dead or alive. If it leads, it hands leadership over
first. It is refused if the voters that remain could not act. A removed node serves
nothing any more, and its directory is refused: it comes back only as a new node, with
an empty directory and a new id.`, arguments("ID"), func(args []string) []any { return []any{"REMOVE", args[0]} })
}

func newClusterTransfer() *cobra.Command {
	return newChange("transfer [ID]", "Let another node lead", `Let another node lead: the named one, or the one that is most up to date. It is refused
if that node does not answer, has no vote, or is not caught up.`, optionalArgument, func(args []string) []any {
		return append([]any{"TRANSFER"}, anys(args)...)
	})
}

func optionalArgument(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("transfer takes one node at most, not %d", len(args))
	}
	return nil
}

func anys(args []string) []any {
	var out []any
	for _, arg := range args {
		out = append(out, arg)
	}
	return out
}

// newChange makes a command that sends one request and prints what became of it.
func newChange(use, short, long string, args cobra.PositionalArgs, request func(args []string) []any) *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			sdk, err := c.dialPatiently("")
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			var r changeResult
			if err := askJSON(cmd.Context(), sdk, &r, request(args)...); err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), r)
		},
	}
	c.register(cmd, true)
	return cmd
}

func newClusterLeave() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Let the node at --addr leave its cluster and stop",
		Long: `Let the node at --addr leave its cluster: it hands leadership over, is removed, and its
process ends. It is refused if the voters that remain could not act. The node comes back
only as a new one, with an empty directory and a new id.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(c.addrs) != 1 || !c.addrsGiven {
				return usagef("leave: name the node that is to leave, and no other, with --addr")
			}
			sdk, err := c.dialPatiently(c.addrs[0])
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			var r changeResult
			if err := askJSON(cmd.Context(), sdk, &r, "LEAVE"); err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), r)
		},
	}
	c.register(cmd, true)
	return cmd
}

func newClusterReplace() *cobra.Command {
	var c connection
	wait := 10 * time.Minute
	cmd := &cobra.Command{
		Use:   "replace OLD NEW",
		Short: "Take a node out once a new one votes in its place",
		Long: `Take the node OLD out of the cluster once the node NEW has caught up and votes. Start NEW
first, with --join. If NEW has the peer address of OLD, OLD is taken out first. The command
may be stopped and repeated. It is refused if NEW votes already and the cluster would bear
fewer failures without OLD.`,
		Args: arguments("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sdk, err := c.dialPatiently("")
			if err != nil {
				return err
			}
			defer func() { _ = sdk.Close() }() // everything was answered
			r, err := replaceNode(cmd.Context(), sdk, args[0], args[1], wait, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), r)
		},
	}
	c.register(cmd, true)
	cmd.Flags().Var(span{&wait}, "wait", "how long to wait for the new node")
	return cmd
}

// replaceNode asks until the new node has the old one's place, and tells what it waits for.
func replaceNode(ctx context.Context, sdk *client.Client, old, next string, wait time.Duration, progress io.Writer) (changeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	said := ""
	request := []any{"REPLACE", old, next}
	for {
		var r changeResult
		if err := askJSON(ctx, sdk, &r, request...); err != nil {
			return r, err
		}
		if r.Done {
			return r, nil
		}
		if r.Message != said {
			said = r.Message
			_, _ = fmt.Fprintln(progress, said) // only for who watches
		}
		request = []any{"REPLACE", old, next, "AGAIN"}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%s is not in the place of %s yet: %s; repeat the command to go on", next, old, said)
		case <-time.After(replacePause):
		}
	}
}

// dialPatiently makes a client whose tries take as long as --timeout says: a change of the membership may have
// to wait for an election, and to give it up early would only hide its outcome. With addr it stays with that node.
func (c *connection) dialPatiently(addr string) (*client.Client, error) {
	o := client.Options{Addrs: c.addrs, Timeout: c.timeout, AttemptTimeout: c.timeout, ClientName: "raftcask-cli"}
	if addr != "" {
		o.Addrs, o.Dialer = []string{addr}, onlyTo(addr)
	}
	return client.New(o)
}
