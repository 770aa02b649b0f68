package command_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/command/commandtest"
)

var update = flag.Bool("update", false, "write what the commands answer into testdata/*.txt")

// TestGoldenScripts replays testdata/*.txt, each on an empty data set. A line of a script is
//
//	# …            a comment
//	clock 1000     sets the clock, in Unix milliseconds
//	wait 1.5s      moves it on
//	limit 16       bounds the length of a value
//	> SET k "a b"  a command; a word in double quotes is a Go string
//
// After a command stand its reply, as redis-cli would show it, and after "~" each of its effects.
func TestGoldenScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newScript(t).replay(want)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if line, g, w := firstDifference(got, want); line > 0 {
				t.Errorf("%s:%d:\n got: %s\nwant: %s", file, line, g, w)
			}
		})
	}
}

func firstDifference(got, want []byte) (line int, g, w string) {
	gs, ws := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gs), len(ws)) {
		g, w = "(end)", "(end)"
		if i < len(gs) {
			g = gs[i]
		}
		if i < len(ws) {
			w = ws[i]
		}
		if g != w {
			return i + 1, g, w
		}
	}
	return 0, "", ""
}

type script struct {
	t     *testing.T
	mem   *commandtest.Memory
	clock time.Time
	out   bytes.Buffer
}

func newScript(t *testing.T) *script {
	s := &script{t: t, mem: commandtest.New(), clock: time.UnixMilli(1_000_000)}
	s.mem.Clock = func() time.Time { return s.clock }
	s.mem.KeepEffects = true
	return s
}

// replay returns the script with the replies and effects that the commands have now.
func (s *script) replay(text []byte) []byte {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || verb == "#":
		case verb == "clock":
			s.clock = time.UnixMilli(s.number(rest))
		case verb == "limit":
			s.mem.MaxValueBytes = int(s.number(rest))
		case verb == "wait":
			d, err := time.ParseDuration(rest)
			if err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			s.clock = s.clock.Add(d)
		case verb == ">":
			fmt.Fprintf(&s.out, "%s\n%s\n", line, s.run(words(s.t, rest)))
			for _, effect := range s.mem.Effects() {
				fmt.Fprintf(&s.out, "~ %s\n", effect)
			}
			continue
		default:
			continue // a reply or an effect: it is written anew
		}
		fmt.Fprintln(&s.out, line)
	}
	return s.out.Bytes()
}

func (s *script) number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) run(args [][]byte) command.Reply {
	spec, ok := command.Find(args[0])
	switch {
	case !ok:
		return command.UnknownCommand(args)
	case !spec.AcceptsArgs(len(args)):
		return command.WrongArgs(spec.Name)
	case spec.Name == "command":
		return command.Describe(args)
	}
	if refused := command.Check(spec, args, command.Limits{MaxKeyBytes: 64}); refused != nil {
		return *refused
	}
	return s.mem.Run(spec, args)
}

// words splits a line at spaces; what stands in double quotes is a Go string.
func words(t *testing.T, line string) [][]byte {
	var out [][]byte
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			out = append(out, []byte(word))
			line = rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, []byte(word))
		line = line[len(quoted):]
	}
	return out
}
