package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/bitcask"
)

func newCaskDigest() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "digest DIR",
		Short: "Sum up what a store holds, to compare it with another",
		Long: `Sum up what a store holds: a hash over the key, value, version and expiry of every key,
and the entry up to which that is. Nodes of one cluster, and backups of them, have equal
sums at the same entry. A running node tells its own: redis-cli RAFTCASK DIGEST.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := caskDir(args[0])
			if err != nil {
				return err
			}
			s, err := o.open(cmd, dir)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }() // only read
			d, err := s.Digest()
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), caskDigest{dir, d})
		},
	}
	o.register(cmd)
	return cmd
}

type caskDigest struct {
	Dir string `json:"dir"`
	bitcask.Digest
}

func (d caskDigest) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s  %d keys at entry %d of term %d\n", d.Sum, d.Keys, d.AppliedIndex, d.AppliedTerm)
	return err
}
