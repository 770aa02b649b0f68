package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/cluster"
)

func newRecover() *cobra.Command {
	var yes bool
	var backup, id string
	output := "text"
	cmd := &cobra.Command{
		Use:   "recover DIR...",
		Short: "Make what survived of a cluster a new one, when most nodes are lost for good",
		Long: `Make a new cluster of one node out of a data directory, when so many nodes are lost for
good that the rest cannot act. Name the data directories of all nodes that survived, on
this machine (copies will do); their processes must be stopped. The one that has seen most
of the log becomes the new cluster. Without --yes it only says what it would do, and what
may be lost.

Writes that only the lost nodes had are lost, acknowledged ones too if a majority of the
nodes is gone. The new cluster has an id of its own: the other directories, and the lost
nodes should they come back, are refused by it. Start them with empty directories and new
ids, and never start a majority of the old ones again beside the new cluster.

When no directory survived, --backup makes the new cluster out of what "raftcask cask
backup" made of a node: in one DIR, which must be empty or not exist, for a node with the
name that --id gives. Every checksum is checked. It needs no --yes: nothing is replaced.`,
		Args: arguments("DIR..."),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			if backup != "" {
				return recoverBackup(cmd, backup, dirs, id, output)
			}
			if id != "" {
				return usagef("recover: --id is for --backup: a directory that survived has its id")
			}
			r, err := planRecovery(dirs)
			if err != nil {
				return err
			}
			if yes {
				done, err := cluster.Recover(r.Chosen.Dir)
				if err != nil {
					return fmt.Errorf("recover %s: %w", r.Chosen.Dir, err)
				}
				r.Done, r.NewClusterID = true, done.ClusterID
			}
			if output == "json" {
				return printIndented(cmd.OutOrStdout(), r)
			}
			return r.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().StringVar(&backup, "backup", "", "make the new cluster out of this backup of a node")
	cmd.Flags().StringVar(&id, "id", "", "with --backup: id of the node (default: a generated one)")
	cmd.Flags().Var(choice{&output, []string{"text", "json"}}, "output", "form of the result")
	return cmd
}

func printIndented(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// recoverBackup makes the first node of a new cluster.
func recoverBackup(cmd *cobra.Command, backup string, dirs []string, id, output string) error {
	if len(dirs) != 1 {
		return usagef("recover: --backup makes one directory, not %d", len(dirs))
	}
	r, err := cluster.RestoreBackup(cmd.Context(), backup, dirs[0], id)
	if err != nil {
		return fmt.Errorf("recover %s from %s: %w", dirs[0], backup, err)
	}
	if output == "json" {
		return printIndented(cmd.OutOrStdout(), r)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `%s holds %d keys, up to entry %d, and is node %s, the only member of the new cluster %s.
Next: raftcask serve --id %s --data %s, then new nodes with empty directories, new ids, and --join to this one.
`, r.Dir, r.Keys, r.Applied, r.NodeID, r.ClusterID, r.NodeID, r.Dir)
	return err
}

// recoveryResult is what would be done, or was.
type recoveryResult struct {
	Done         bool                `json:"done"`
	NewClusterID string              `json:"new_cluster_id,omitempty"`
	Chosen       *cluster.Recovery   `json:"chosen"`
	Others       []*cluster.Recovery `json:"others"`
	Lost         []string            `json:"lost"` // voters whose directories are not here
}

// planRecovery looks at all directories and chooses the one that has seen most.
func planRecovery(dirs []string) (*recoveryResult, error) {
	r := &recoveryResult{Others: []*cluster.Recovery{}, Lost: []string{}}
	here := make(map[string]string)
	for _, dir := range dirs {
		found, err := cluster.InspectRecovery(dir)
		if err != nil {
			return nil, fmt.Errorf("recover %s: %w", dir, err)
		}
		if twin, twice := here[found.NodeID]; twice {
			return nil, usagef("recover: %s and %s are both of node %s", twin, dir, found.NodeID)
		}
		here[found.NodeID] = dir
		switch {
		case r.Chosen == nil:
			r.Chosen = found
		case r.Chosen.ClusterID != found.ClusterID:
			return nil, fmt.Errorf("recover: %s is of cluster %s, and %s of cluster %s: recover one cluster at a time", r.Chosen.Dir, r.Chosen.ClusterID, dir, found.ClusterID)
		case found.NewerThan(r.Chosen):
			r.Others, r.Chosen = append(r.Others, r.Chosen), found
		default:
			r.Others = append(r.Others, found)
		}
	}
	survivors := 0
	for _, v := range r.Chosen.Voters {
		if _, ok := here[v]; ok {
			survivors++
		} else {
			r.Lost = append(r.Lost, v)
		}
	}
	if voters := len(r.Chosen.Voters); survivors > voters/2 && !r.Chosen.Interrupted {
		return nil, fmt.Errorf("recover: %d of the %d voters are here, which is a majority: start them, and nothing is lost; a recovery would lose data for nothing", survivors, voters)
	}
	return r, nil
}

func (r *recoveryResult) print(w io.Writer) error {
	c := r.Chosen
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	if r.Done {
		say("%s is now the only member of the new cluster %s.", c.Dir, r.NewClusterID)
	} else {
		say("Would make %s the only member of a new cluster.", c.Dir)
	}
	say("")
	say("node %s of cluster %s, voters %s", c.NodeID, c.ClusterID, strings.Join(c.Voters, ", "))
	say("log       entries %d to %d (term %d), snapshot at %d, Raft's term %d", c.First, c.Last, c.LastTerm, c.Snapshot, c.Term)
	say("applied   entry %d (term %d), %d keys", c.Applied, c.AppliedTerm, c.Keys)
	for _, o := range r.Others {
		say("not used  %s: node %s, log to entry %d (term %d)", o.Dir, o.NodeID, o.Last, o.LastTerm)
	}
	say("")
	if len(r.Lost) > 0 {
		say("Lost: every write after entry %d that only %s had, acknowledged ones among them.", c.Last, strings.Join(r.Lost, ", "))
	}
	if c.Last > c.Applied {
		say("Kept: entries %d to %d, which this node does not know to be committed. Their writes may have been reported as failed or unknown, and will be there.", c.Applied+1, c.Last)
	}
	if c.Removed {
		say("Node %s was removed from its cluster: everything written after that is lost.", c.NodeID)
	}
	if c.Interrupted {
		say("An earlier recovery of this directory was interrupted; this one finishes it.")
	}
	say("")
	if r.Done {
		say("Next: start the node with its id and this directory, and without the old addresses in --join. Then start new nodes with empty directories, new ids, and --join to this one.")
	} else {
		say("Nothing was changed. Make sure that the lost nodes stay lost, then repeat the command with --yes.")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
