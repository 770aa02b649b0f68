package command

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "anything", true}, {"*", "", true}, {"", "", true}, {"", "a", false}, {"a", "", false},
		{"abc", "abc", true}, {"abc", "abcd", false}, {"abcd", "abc", false},
		{"a*c", "abbbc", true}, {"a*c", "abbb", false}, {"a**c", "ac", true}, {"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxaxx", false},
		{"*ab", "aab", true}, {"*aab", "aaab", true}, {"a*a*b", "aaab", true},
		{"?", "a", true}, {"?", "", false}, {"a?c", "abc", true}, {"h??lo", "hello", true},
		{"[abc]", "b", true}, {"[abc]", "d", false}, {"[a-c]x", "bx", true}, {"[c-a]x", "bx", true}, {"[^a-c]", "b", false}, {"[^a-c]", "d", true},
		{"[]", "a", false}, {"[^]", "a", true}, {"[", "[", false}, {"[a", "a", true}, {"[ab", "b", true}, {"[^a", "b", true},
		{"[a-]", "a", true}, {"[a-]x", "b", false}, {"[a\\-z]", "-", true}, {"[a\\-z]", "m", false}, {"[\\]]", "]", true}, {"[\\", "\\", true},
		{"\\*", "*", true}, {"\\*", "a", false}, {"a\\", "a\\", true}, {"\\\\", "\\", true}, {"\\a", "a", true},
		{"[a-c]*z", "bxyz", true}, {"*[0-9]", "key7", true}, {"user:*:name", "user:17:name", true}, {"a\x00b", "a\x00b", true},
	} {
		if got := MatchGlob([]byte(c.pattern), []byte(c.s)); got != c.want {
			t.Errorf("MatchGlob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// slowGlob is the obvious recursion: a star tries every length.
func slowGlob(p, s []byte) bool {
	if len(p) == 0 {
		return len(s) == 0
	}
	if p[0] == '*' {
		for i := 0; i <= len(s); i++ {
			if slowGlob(p[1:], s[i:]) {
				return true
			}
		}
		return false
	}
	if len(s) == 0 {
		return false
	}
	next, ok := matchByte(p, 0, s[0])
	return ok && slowGlob(p[next:], s[1:])
}

func TestMatchGlobAgreesWithRecursion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	draw := func(alphabet string, n int) []byte {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return b
	}
	for range 200_000 {
		p, s := draw("ab*?[]^-\\", 9), draw("ab[]-", 9)
		if got, want := MatchGlob(p, s), slowGlob(p, s); got != want {
			t.Fatalf("MatchGlob(%q, %q) = %v, want %v", p, s, got, want)
		}
	}
}

// TestMatchGlobDoesNotExplode would run for years if each star tried every length in turn.
func TestMatchGlobDoesNotExplode(t *testing.T) {
	pattern := []byte(strings.Repeat("a*", 200) + "b")
	if MatchGlob(pattern, bytes.Repeat([]byte("a"), 10_000)) {
		t.Error("matched")
	}
}
