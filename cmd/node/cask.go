package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftcask/raftcask/bitcask"
)

// newCask are the commands that work on a store's files, without a node.
func newCask() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cask",
		Short: "Look at the files of a store, back them up, and save what is damaged",
		Long: `Look at the files of a store, back them up, and save what is damaged.
DIR and SRC are the directory of an embedded store, or the data directory of a node.
The store may be closed or in use: it is only read, without a lock.`,
		Args: cobra.ArbitraryArgs,
		RunE: helpOrUnknown,
	}
	cmd.AddCommand(
		newCaskVerify(), newCaskDump(), newCaskStats(), newCaskDigest(),
		newCaskBackup(), newCaskRestore(), newCaskSalvage(),
	)
	return cmd
}

// caskOptions are those that all cask commands share.
type caskOptions struct{ connection }

func (o *caskOptions) register(cmd *cobra.Command) {
	o.output = "text"
	cmd.Flags().Var(choice{&o.output, []string{"text", "json"}}, "output", "form of the result")
}

// engine are the options that a store is read with.
func (o *caskOptions) engine(cmd *cobra.Command) *bitcask.Options {
	handler := slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})
	return &bitcask.Options{Logger: slog.New(handler)}
}

// nodeNotes is how long a node may take to note what it has committed, when no entry follows that says so.
const nodeNotes = 2 * time.Second

// open opens a store to read what it holds. Of the newest entries of a node only the node knows whether they are committed, until
// it notes that: it is waited for. When it does not come, because the node was killed or has no majority, they are left out.
func (o *caskOptions) open(cmd *cobra.Command, dir string) (*bitcask.Store, error) {
	var deadline time.Time
	for last := uint64(0); ; {
		s, err := bitcask.OpenReadOnly(dir, o.engine(cmd))
		if err != nil {
			return nil, err
		}
		committed, _ := s.Applied()
		beyond := s.Uncommitted()
		first := deadline.IsZero()
		if first || committed+beyond < last { // the log was truncated
			last = committed + beyond
		}
		if committed >= last {
			return s, nil
		}
		if first { // now: it takes long to open a large store
			deadline = time.Now().Add(nodeNotes)
		} else if time.Now().After(deadline) {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: entries after %d are not known to be committed, %d of them, and are left out: the node was killed or has no majority\n", committed, beyond)
			return s, nil
		}
		_ = s.Close() // only read
		time.Sleep(nodeNotes / 20)
	}
}

// caskDir finds the store that a directory is, or that is below a node's data directory.
func caskDir(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", dir)
	}
	if held, err := holdsCask(dir); held || err != nil {
		return dir, err
	}
	groups, err := os.ReadDir(filepath.Join(dir, "groups"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var found []string
	for _, group := range groups {
		below := filepath.Join(dir, "groups", group.Name(), "cask")
		held, err := holdsCask(below)
		if err != nil {
			return "", err
		}
		if held {
			found = append(found, below)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s holds no store: there is neither a MANIFEST nor a segment in it, nor in groups/*/cask below it", dir)
	case 1:
		return found[0], nil
	}
	return "", usagef("%s holds several stores: name one of %s", dir, strings.Join(found, ", "))
}

// holdsCask also knows a store that has lost its MANIFEST: salvage can work on it.
func holdsCask(dir string) (bool, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(files, func(f fs.DirEntry) bool {
		return f.Name() == "MANIFEST" || filepath.Ext(f.Name()) == ".seg"
	}), err
}

func printDamage(w io.Writer, list []bitcask.Damage) error {
	for _, d := range list {
		size := ""
		if d.Bytes > 0 {
			size = fmt.Sprintf(" (%d bytes)", d.Bytes)
		}
		if _, err := fmt.Fprintf(w, "damage: %s%s\n", d, size); err != nil {
			return err
		}
	}
	return nil
}

// places counts damaged places in words.
func places(n int) string {
	switch n {
	case 0:
		return "no damage"
	case 1:
		return "1 damaged place"
	}
	return fmt.Sprintf("%d damaged places", n)
}
