package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// serveFlags are the flags of serve, set by a command line, an environment and a file.
func serveFlags(t *testing.T, args []string, env map[string]string, file string) (serveOptions, error) {
	t.Helper()
	var o serveOptions
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	o.register(flags)
	if file != "" {
		path := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	err := loadSettings(flags, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err == nil {
		err = o.complete(flags)
	}
	return o, err
}

func TestFlagWinsOverEnvironmentOverFile(t *testing.T) {
	file := "id: file\ndata: /file\nlog-level: debug\nmax-value-bytes: 1MiB\n"
	env := map[string]string{"RAFTCASK_ID": "env", "RAFTCASK_DATA": "/env", "RAFTCASK_SERVICE_HOST": "10.0.0.1"}
	o, err := serveFlags(t, []string{"--id", "flag"}, env, file)
	if err != nil {
		t.Fatal(err)
	}
	if o.id != "flag" || o.data != "/env" || o.logLevel != "debug" || o.maxValue != mib || o.resp != "127.0.0.1:7379" {
		t.Errorf("got id %q, data %q, log-level %q, max-value-bytes %d, resp-addr %q", o.id, o.data, o.logLevel, o.maxValue, o.resp)
	}
}

func TestEveryFlagIsAKeyAndAVariable(t *testing.T) {
	values := map[string]string{
		"bootstrap-expect": "5", "join": "a:1,b:2", "max-clients": "7", "stop-timeout": "3s", "log-level": "warn", "log-format": "json",
		"max-value-bytes": "2MiB", "segment-bytes": "64MiB", "snapshot-bytes": "32MiB", "trailing-bytes": "8MiB",
		"id": "n7", "data": "/d", "non-voter": "true",
	}
	var probe serveOptions
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	probe.register(flags)
	port := 5000
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == configFlag {
			return
		}
		value, ok := values[f.Name]
		if !ok { // the addresses
			port++
			value = loopback(port)
		}
		for _, where := range []string{"file", "environment"} {
			flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
			var o serveOptions
			o.register(flags)
			var err error
			if where == "file" {
				path := filepath.Join(t.TempDir(), "c.yaml")
				if err := os.WriteFile(path, []byte(f.Name+": \""+value+"\"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				err = loadFile(flags, path)
			} else {
				err = loadEnvironment(flags, func(name string) (string, bool) { return value, name == variable(f.Name) })
			}
			if err != nil || flags.Lookup(f.Name).Value.String() != value {
				t.Errorf("%s from the %s: got %q, %v, want %q", f.Name, where, flags.Lookup(f.Name).Value, err, value)
			}
		}
	})
}

func TestListsInTheFile(t *testing.T) {
	for _, file := range []string{"join: [a:1, b:2]", "join: a:1,b:2", "join:\n  - a:1\n  - b:2\n"} {
		o, err := serveFlags(t, nil, nil, file)
		if err != nil || !slices.Equal(o.join, []string{"a:1", "b:2"}) {
			t.Errorf("%q: got %v, %v", file, o.join, err)
		}
	}
	o, err := serveFlags(t, []string{"--join", "c:3", "--join", "d:4"}, nil, "join: a:1")
	if err != nil || !slices.Equal(o.join, []string{"c:3", "d:4"}) {
		t.Errorf("got %v, %v, want the flag's list alone", o.join, err)
	}
}

func TestMistakesInSettingsNameThePlace(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want []string
	}{
		{"unknown key", nil, nil, "id: a\nrsp-addr: x\n", []string{"node.yaml:2", `"rsp-addr"`, `did you mean "resp-addr"?`}},
		{"underscores", nil, nil, "max_value_bytes: 1MiB", []string{"node.yaml:1", `did you mean "max-value-bytes"?`}},
		{"strange key", nil, nil, "zzzzzzzzzz: 1", []string{"node.yaml:1", "names of the flags"}},
		{"config in the file", nil, nil, "config: x", []string{"node.yaml:1", `unknown key "config"`}},
		{"key twice", nil, nil, "id: a\nid: b\n", []string{"node.yaml:2", "line 1"}},
		{"bad value", nil, nil, "\n\nresp-addr: nonsense\n", []string{"node.yaml:3", "resp-addr", `"nonsense"`, "host:port"}},
		{"bad value behind a flag is not looked at", []string{"--resp-addr", ":1"}, nil, "resp-addr: nonsense\nid: '*bad", []string{"not YAML"}},
		{"no value", nil, nil, "id:\n", []string{"node.yaml:1", "id", "no value"}},
		{"mapping as value", nil, nil, "id: {a: b}", []string{"node.yaml:1", "one value or a list"}},
		{"list of lists", nil, nil, "join: [[a:1]]", []string{"node.yaml:1", "plain text"}},
		{"list at the top", nil, nil, "- a\n", []string{"node.yaml:1", "key: value"}},
		{"no YAML", nil, nil, "a: [", []string{"node.yaml", "not YAML"}},
		{"no file", []string{"--config", "/nowhere/x.yaml"}, nil, "", []string{"--config", "/nowhere/x.yaml"}},
		{"bad variable", nil, map[string]string{"RAFTCASK_BOOTSTRAP_EXPECT": "0"}, "", []string{"RAFTCASK_BOOTSTRAP_EXPECT", `"0"`, "from 1 to"}},
		{"bad join", nil, map[string]string{"RAFTCASK_JOIN": "a:1,:5"}, "", []string{"RAFTCASK_JOIN", `":5"`, "needs a host"}},
		{"trailing", []string{"--snapshot-bytes", "8MiB", "--trailing-bytes", "5MiB"}, nil, "", []string{"--trailing-bytes 5MiB", "half", "8MiB"}},
		{"same port twice", []string{"--http-addr", "127.0.0.1:7379"}, nil, "", []string{"--resp-addr", "--http-addr", "127.0.0.1:7379"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := serveFlags(t, tc.args, tc.env, tc.file)
			if err == nil || !isUsage(err) {
				t.Fatalf("got %v, want a usage error", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

func TestEmptyFileIsFine(t *testing.T) {
	for _, file := range []string{"\n", "# only a comment\n", "---\n"} {
		if _, err := serveFlags(t, nil, nil, file); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestBootstrapDefaults(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		expect int
	}{
		{nil, 1},                       // a node alone is a cluster
		{[]string{"--join", "a:1"}, 0}, // a node that joins founds none
		{[]string{"--join", "a:1", "--bootstrap-expect", "3"}, 3},
		{[]string{"--bootstrap-expect", "3"}, 3}, // the one that the others join
	} {
		if o, err := serveFlags(t, tc.args, nil, ""); err != nil || o.expect != tc.expect {
			t.Errorf("%v: got %d, %v, want %d", tc.args, o.expect, err, tc.expect)
		}
	}
	if o, err := serveFlags(t, []string{"--snapshot-bytes", "4MiB"}, nil, ""); err != nil || o.trailing != 2*mib {
		t.Errorf("got trailing %d, %v: a small --snapshot-bytes must not need --trailing-bytes too", o.trailing, err)
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "17B": 17, "4KiB": 4096, "8 MiB": 8 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("size %q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1KiB", "1.5MiB", "8MB", "9223372036854775807KiB", "1e3"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("size %q was taken for %d", text, n)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1024: "1KiB", 1536: "1536B", 8 << 20: "8MiB", 1 << 40: "1TiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1536: "1.5 KiB", 128561152: "123 MiB", 5 << 30: "5.0 GiB"} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	for _, good := range []string{":7379", "127.0.0.1:0", "[::1]:7379", "node.example:65535"} {
		if err := checkHostPort(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "7379", "::1:7379", "a:b", "a:-1", "a:65536"} {
		if err := checkHostPort(bad); err == nil {
			t.Errorf("%q was taken for an address", bad)
		}
	}
	var d time.Duration
	for _, bad := range []string{"", "5", "-5s", "0s", "soon"} {
		if err := (span{&d}).Set(bad); err == nil {
			t.Errorf("%q was taken for a duration", bad)
		}
	}
}
