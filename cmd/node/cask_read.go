package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/bitcask"
)

func newCaskVerify() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Read every byte of a store and check its checksums",
		Long: `Read every byte of a store and check its checksums: the manifest, every segment up to
its last entry, and every hint, which is compared with its segment. Damage is printed
with file and offset, and makes the exit code 1. Nothing is changed.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := caskDir(args[0])
			if err != nil {
				return err
			}
			report, err := bitcask.Verify(cmd.Context(), dir, o.engine(cmd))
			if err != nil {
				return err
			}
			if err := o.print(cmd.OutOrStdout(), caskVerified{dir, report}); err != nil {
				return err
			}
			if len(report.Damage) > 0 {
				return errReported
			}
			return nil
		},
	}
	o.register(cmd)
	return cmd
}

type caskVerified struct {
	Dir string `json:"dir"`
	bitcask.VerifyReport
}

func (v caskVerified) print(w io.Writer) error {
	if err := printDamage(w, v.Damage); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "verified %s: %d segments, %s, %d entries, %d records, %d hints (%d missing): %s\n",
		v.Dir, v.Segments, humanSize(v.Bytes), v.Frames, v.Records, v.Hints, v.MissingHints, places(len(v.Damage)))
	return err
}

func newCaskStats() *cobra.Command {
	var o caskOptions
	cmd := &cobra.Command{
		Use:   "stats DIR",
		Short: "Show how much a store holds and how much of it is dead",
		Args:  arguments("DIR"),
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
			return o.print(cmd.OutOrStdout(), caskStatsOf(dir, s))
		},
	}
	o.register(cmd)
	return cmd
}

// caskStats is what can be told of a store from outside.
type caskStats struct {
	Dir            string `json:"dir"`
	Keys           int    `json:"keys"`
	Segments       int    `json:"segments"`
	DiskBytes      int64  `json:"disk_bytes"`
	LiveBytes      int64  `json:"live_bytes"`
	DeadBytes      int64  `json:"dead_bytes"`
	TombstoneBytes int64  `json:"tombstone_bytes"`
	KeydirBytes    int64  `json:"keydir_bytes"`
	AppliedIndex   uint64 `json:"applied_index"`
	AppliedTerm    uint64 `json:"applied_term"`
}

func caskStatsOf(dir string, s *bitcask.Store) caskStats {
	st := s.Stats()
	index, term := s.Applied()
	return caskStats{
		Dir: dir, Keys: st.Keys, Segments: st.Segments, DiskBytes: st.DiskBytes, LiveBytes: st.LiveBytes,
		DeadBytes: st.DeadBytes, TombstoneBytes: st.TombstoneBytes, KeydirBytes: st.KeydirBytes, AppliedIndex: index, AppliedTerm: term,
	}
}

func (s caskStats) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, `store      %s
keys       %d
segments   %d, %s
live       %s
dead       %s
tombstones %s
memory     %s for the keys
applied    entry %d of term %d
`, s.Dir, s.Keys, s.Segments, humanSize(s.DiskBytes), humanSize(s.LiveBytes), humanSize(s.DeadBytes),
		humanSize(s.TombstoneBytes), humanSize(s.KeydirBytes), s.AppliedIndex, s.AppliedTerm)
	return err
}

func newCaskDump() *cobra.Command {
	var o caskOptions
	live := false
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print every record in the files of a store",
		Long: `Print every record in the files of a store, in their order: dead ones, deletes and
entries that are not committed too. With --live the keys that a reader would find, once
each. Text is one line a record, with long values cut; JSON is one object a line, with
keys and values in base64. Damage is a line like any other, and makes the exit code 1.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := caskDir(args[0])
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			d := dumper{out: out, json: o.output == "json"}
			if live {
				err = d.live(cmd, &o, dir)
			} else {
				err = bitcask.Dump(cmd.Context(), dir, o.engine(cmd), d.record)
			}
			if err = errors.Join(err, out.Flush()); err == nil && d.damaged {
				err = errReported
			}
			return err
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "only what a reader would find")
	return cmd
}

// dumper prints records.
type dumper struct {
	out     *bufio.Writer
	json    bool
	damaged bool
}

// dumpedValueBytes of a value are shown as text.
const dumpedValueBytes = 80

func (d *dumper) record(r *bitcask.DumpRecord) error {
	d.damaged = d.damaged || r.Op == "damage"
	if d.json {
		return json.NewEncoder(d.out).Encode(r)
	}
	line := fmt.Sprintf("%s:%d %s", filepath.Base(r.File), r.Offset, r.Op)
	switch r.Op {
	case "damage":
		line += ": " + r.Reason
	case "entry":
		line += fmt.Sprintf(" index %d term %d kind %d, %d bytes", r.Index, r.Term, r.Kind, r.Bytes)
	default:
		line += fmt.Sprintf(" index %d term %d", r.Index, r.Term)
	}
	if len(r.Key) > 0 {
		line += " " + strconv.Quote(string(r.Key))
	}
	if r.Op == "put" {
		line += " = " + shortValue(r.Value)
	}
	if r.ExpireAt != 0 {
		line += " until " + time.UnixMilli(r.ExpireAt).UTC().Format(time.RFC3339)
	}
	_, err := fmt.Fprintln(d.out, line)
	return err
}

func shortValue(value []byte) string {
	if len(value) <= dumpedValueBytes {
		return strconv.Quote(string(value))
	}
	return fmt.Sprintf("%q… (%d bytes)", value[:dumpedValueBytes], len(value))
}

// liveRecord is a key as a reader finds it.
type liveRecord struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

func (d *dumper) live(cmd *cobra.Command, o *caskOptions, dir string) error {
	s, err := o.open(cmd, dir)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // only read
	return s.Scan(nil, func(key, value []byte) error {
		if d.json {
			return json.NewEncoder(d.out).Encode(liveRecord{key, value})
		}
		_, err := fmt.Fprintf(d.out, "%q = %s\n", key, shortValue(value))
		return err
	})
}
