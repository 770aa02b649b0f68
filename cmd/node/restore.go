package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/cluster"
)

func newRestore() *cobra.Command {
	var id string
	output := "text"
	cmd := &cobra.Command{
		Use:   "restore BACKUP DIR",
		Short: "Make a new cluster out of a backup",
		Long: `Make DIR, which must be empty or not exist, the data directory of the only member of a new
cluster, with the contents of BACKUP: what "raftcask cask backup" made of a node. Every
checksum is checked. The new cluster has an id of its own; the nodes of the old one are
refused by it. Start the node, and add others to it, which begin with empty directories.`,
		Args: arguments("BACKUP", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := cluster.RestoreBackup(cmd.Context(), args[0], args[1], id)
			if err != nil {
				return fmt.Errorf("restore %s: %w", args[0], err)
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), `%s holds %d keys, up to entry %d, and is node %s, the only member of the new cluster %s.
Next: raftcask serve --id %s --data %s, then new nodes with empty directories, new ids, and --join to this one.
`, r.Dir, r.Keys, r.Applied, r.NodeID, r.ClusterID, r.NodeID, r.Dir)
			return err
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "id of the node (default: a generated one)")
	cmd.Flags().Var(choice{&output, []string{"text", "json"}}, "output", "form of the result")
	return cmd
}
