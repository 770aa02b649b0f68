package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

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

// caskDir finds the store that a directory is, or that is below a node's data directory.
func caskDir(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", dir)
	}
	if holdsCask(dir) {
		return dir, nil
	}
	below, err := filepath.Glob(filepath.Join(globQuote(dir), "groups", "*", "cask"))
	if err != nil {
		return "", err
	}
	var found []string
	for _, d := range below {
		if holdsCask(d) {
			found = append(found, d)
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
func holdsCask(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, "MANIFEST")); err == nil {
		return true
	}
	segments, err := filepath.Glob(filepath.Join(globQuote(dir), "*.seg"))
	return err == nil && len(segments) > 0
}

// globQuote keeps what a path has of a pattern's letters.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
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
