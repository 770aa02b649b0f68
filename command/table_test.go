package command

import (
	"slices"
	"strings"
	"testing"
)

func TestFindIgnoresCase(t *testing.T) {
	for _, s := range All() {
		for _, name := range []string{s.Name, strings.ToUpper(s.Name), strings.ToUpper(s.Name[:1]) + s.Name[1:]} {
			if got, ok := Find([]byte(name)); !ok || got != s {
				t.Errorf("Find(%q) = %v, %v", name, got, ok)
			}
		}
	}
}

func TestFindRefusesOtherNames(t *testing.T) {
	for _, name := range []string{"", "g", "ge", "gett", "get ", "get\x00", "Gßt", "multi", "lpush", "g\x45\x54\x00", strings.Repeat("get", 1000)} {
		if s, ok := Find([]byte(name)); ok {
			t.Errorf("Find(%q) = %s", name, s.Name)
		}
	}
	// A byte that differs from a letter by more than bit 5, or from a non-letter by it, is another byte.
	for _, s := range All() {
		for i := range s.Name {
			for _, flip := range []byte{0x80, 0x40, 0x01} {
				name := []byte(s.Name)
				name[i] ^= flip
				if got, ok := Find(name); ok && got == s {
					t.Errorf("Find(%q) = %s", name, got.Name)
				}
			}
		}
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	name := []byte("IncrByFloat")
	if n := testing.AllocsPerRun(100, func() { Find(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTableIsConsistent(t *testing.T) {
	if !slices.IsSortedFunc(All(), func(a, b *Spec) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not sorted")
	}
	for _, s := range All() {
		if len(s.Name) > maxNameBytes || s.Name != strings.ToLower(s.Name) {
			t.Errorf("%s: bad name", s.Name)
		}
		if (s.Run != nil) != s.Class.Data() {
			t.Errorf("%s: Run and Class disagree", s.Name)
		}
		if s.Class.Data() && (s.Class == Write) != slices.Contains(s.Flags, "write") {
			t.Errorf("%s: Class and Flags disagree", s.Name)
		}
		if s.Class == Read && s.FirstKey == 0 || s.Class == ReadAll && s.FirstKey != 0 {
			t.Errorf("%s: Class and keys disagree", s.Name)
		}
		if (s.FirstKey == 0) != (s.Step == 0) {
			t.Errorf("%s: keys without a step", s.Name)
		}
		if s.Summary == "" || s.Since == "" || s.Group == "" {
			t.Errorf("%s: not described", s.Name)
		}
	}
}

// TestSyntaxAgreesWithArity counts what a syntax line demands: as many words as the arity.
func TestSyntaxAgreesWithArity(t *testing.T) {
	for _, s := range All() {
		demanded, depth := 1, 0
		optional := false
		for _, w := range tokenize(s.Syntax) {
			switch {
			case w == "[":
				depth++
				optional = true
			case w == "]":
				depth--
			case depth == 0:
				demanded++
			}
		}
		want := demanded
		if optional {
			want = -demanded
		}
		if s.Arity != want && s.Name != "quit" { // QUIT accepts arguments and ignores them
			t.Errorf("%s %s: arity %d, the syntax says %d", s.Name, s.Syntax, s.Arity, want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		line string
		want string
	}{
		{"get a", "a"},
		{"set a b c d", "a"},
		{"mget a b c", "a b c"},
		{"mset a 1 b 2", "a b"},
		{"mset a 1 b", "a b"},
		{"rename a b", "a b"},
		{"copy a b replace", "a b"},
		{"scan 0", ""},
		{"ping x", ""},
	} {
		args := strings.Fields(c.line)
		s, _ := Find([]byte(args[0]))
		var got []string
		first, last, step := s.Keys(len(args))
		for i := first; first != 0 && i <= last; i += step {
			got = append(got, args[i])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: keys %q, want %q", c.line, got, c.want)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	name := []byte("SET")
	b.ReportAllocs()
	for b.Loop() {
		Find(name)
	}
}
