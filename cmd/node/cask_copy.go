package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/bitcask"
)

func newCaskBackup() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "backup SRC DST",
		Short: "Copy a store as it is now",
		Long: `Copy a store as it is at one moment into DST, while it may be in use. If DST holds an
older backup of the store, only segments that are not there yet are copied; the older
backup is whole until the new one is. The other cask commands read a backup too.`,
		Args: arguments("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := caskDir(args[0])
			if err != nil {
				return err
			}
			s, err := o.open(cmd, src)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }() // only read
			report, err := s.Backup(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), caskCopied{"backed up", src, args[1], report})
		},
	}
	o.register(cmd)
	return cmd
}

func newCaskRestore() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "restore SRC DST",
		Short: "Make a store of a backup",
		Long: `Make a store in DST of the backup in SRC, with every checksum checked. DST must be empty
or not exist. It becomes the directory of an embedded store. For a cluster there is
"raftcask recover --backup"; one node of several gets its data from the others.`,
		Args: arguments("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := bitcask.Restore(cmd.Context(), args[0], args[1], o.engine(cmd))
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), caskCopied{"restored", args[0], args[1], report})
		},
	}
	o.register(cmd)
	return cmd
}

// caskCopied is the result of backup and restore.
type caskCopied struct {
	verb string
	Src  string `json:"src"`
	Dst  string `json:"dst"`
	bitcask.BackupReport
}

func (c caskCopied) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s %s to %s up to entry %d: %d segments, %s; %d of them copied, %s\n",
		c.verb, c.Src, c.Dst, c.Index, c.Segments, humanSize(c.Bytes), c.CopiedSegments, humanSize(c.CopiedBytes))
	return err
}

func newCaskSalvage() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "salvage SRC DST",
		Short: "Copy out of a damaged store what still reads",
		Long: `Copy what still reads of a damaged store into a new one in DST, which must be empty or
not exist: the newest value of each key, unless it was deleted later. What entries of a node's
log put that are not known to be committed is taken along, with a warning. What does not
read is listed with file and offset, and the keys that were lost where that can be
told. If anything was lost, or is in doubt, the exit code is 1. SRC is not changed.`,
		Args: arguments("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := caskDir(args[0])
			if err != nil {
				return err
			}
			report, err := bitcask.Salvage(cmd.Context(), src, args[1], o.engine(cmd))
			if err != nil {
				return err
			}
			if err := o.print(cmd.OutOrStdout(), caskSalvaged{src, args[1], report}); err != nil {
				return err
			}
			if !report.Whole() {
				return errReported
			}
			return nil
		},
	}
	o.register(cmd)
	return cmd
}

type caskSalvaged struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
	bitcask.SalvageReport
}

func (s caskSalvaged) print(w io.Writer) error {
	if err := printDamage(w, s.Damage); err != nil {
		return err
	}
	for _, l := range s.Lost {
		instead := "no older value reads"
		if l.Older != 0 {
			instead = fmt.Sprintf("the older value of entry %d was saved instead", l.Older)
		}
		if _, err := fmt.Fprintf(w, "lost: %q, written by entry %d, in %s at offset %d: %s\n", l.Key, l.Index, l.File, l.Offset, instead); err != nil {
			return err
		}
	}
	for _, warning := range s.Warnings {
		if _, err := fmt.Fprintf(w, "warning: %s\n", warning); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "saved %d keys, %s, of %s in %s: %s, %d keys known to be lost\n",
		s.Keys, humanSize(s.Bytes), s.Src, s.Dst, places(len(s.Damage)), len(s.Lost))
	return err
}
