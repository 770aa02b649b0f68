package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// A setting of serve can be given in three places; the first that has it wins:
//
//	the flag                    --max-value-bytes 16MiB
//	the environment             RAFTCASK_MAX_VALUE_BYTES=16MiB
//	the file (--config)         max-value-bytes: 16MiB
//
// The flag set is the only list of settings: what is a flag is also a variable
// and a key, under the same name and with the same checks.

// configFlag names the file. It is in the flags and the environment only.
const configFlag = "config"

// loadSettings fills the flags that the command line did not set from the
// environment and then the file. A mistake is a usage error that names its place.
func loadSettings(flags *pflag.FlagSet, getenv func(string) (string, bool)) error {
	if err := loadEnvironment(flags, getenv); err != nil {
		return err
	}
	path, err := flags.GetString(configFlag)
	if err != nil || path == "" {
		return err
	}
	return loadFile(flags, path)
}

func loadEnvironment(flags *pflag.FlagSet, getenv func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := variable(f.Name)
		text, found := getenv(name)
		if f.Changed || !found || f.Name == "help" || failed != nil {
			return
		}
		if err := set(flags, f, text); err != nil {
			failed = usagef("environment variable %s=%q: %v", name, text, err)
		}
	})
	return failed
}

// variable is the environment's name of a flag. Variables that name no flag are
// left alone: Kubernetes puts RAFTCASK_SERVICE_HOST and the like beside ours.
func variable(flag string) string {
	return "RAFTCASK_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func loadFile(flags *pflag.FlagSet, path string) error {
	mapping, err := readMapping(path)
	if err != nil || mapping == nil {
		return err
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		place := fmt.Sprintf("%s:%d", path, key.Line)
		f := flags.Lookup(key.Value)
		if f == nil || key.Value == configFlag || key.Value == "help" {
			return usagef("%s: unknown key %q%s", place, key.Value, suggestKey(flags, key.Value))
		}
		if first, twice := seen[key.Value]; twice {
			return usagef("%s: key %q is in line %d already: keep one", place, key.Value, first)
		}
		seen[key.Value] = key.Line
		text, err := scalar(value)
		if err != nil {
			return usagef("%s: %s: %v", place, key.Value, err)
		}
		if f.Changed {
			continue // a flag or a variable, which were checked before
		}
		if err := set(flags, f, text); err != nil {
			return usagef("%s: %s: %q %v", place, key.Value, text, err)
		}
	}
	return nil
}

// readMapping returns the file's top mapping; nil when the file is empty.
func readMapping(path string) (*yaml.Node, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, usagef("--config: %v", err)
	}
	defer func() { _ = file.Close() }() // only read
	var doc yaml.Node
	if err := yaml.NewDecoder(file).Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, usagef("--config %s is not YAML: %v", path, err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, usagef("%s:%d: must hold lines of the form \"key: value\", with the names of the flags of serve as keys", path, root.Line)
	}
	return root, nil
}

// scalar is the text of a value; a list is the same as its elements with commas.
func scalar(value *yaml.Node) (string, error) {
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag != "!!null":
		return value.Value, nil
	case value.Kind == yaml.SequenceNode:
		parts := make([]string, 0, len(value.Content))
		for _, part := range value.Content {
			if part.Kind != yaml.ScalarNode {
				return "", errors.New("each element of the list must be plain text")
			}
			parts = append(parts, part.Value)
		}
		return strings.Join(parts, ","), nil
	case value.Kind == yaml.ScalarNode:
		return "", errors.New("has no value: remove the line or give one")
	}
	return "", errors.New("must be one value or a list of values")
}

func suggestKey(flags *pflag.FlagSet, key string) string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != configFlag && f.Name != "help" {
			names = append(names, f.Name)
		}
	})
	if near := nearest(strings.ReplaceAll(key, "_", "-"), names); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ": the keys are the names of the flags of \"raftcask serve\", without dashes in front"
}

// set gives a flag a value without pflag's sentence around the error, which
// speaks of a flag where the user wrote a variable or a line.
func set(flags *pflag.FlagSet, f *pflag.Flag, text string) error {
	if err := f.Value.Set(text); err != nil {
		return err
	}
	f.Changed = true
	return nil
}
