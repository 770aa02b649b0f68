package command

import (
	"math"
	"strconv"
	"testing"
)

func TestParseIntIsStrict(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"1", 1, true}, {"-1", -1, true}, {"10", 10, true},
		{"9223372036854775807", math.MaxInt64, true}, {"-9223372036854775808", math.MinInt64, true},
		{"9223372036854775808", 0, false}, {"-9223372036854775809", 0, false},
		{"9999999999999999999", 0, false}, {"-9999999999999999999", 0, false}, {"18446744073709551616", 0, false},
		{"", 0, false}, {"-", 0, false}, {"-0", 0, false}, {"00", 0, false}, {"01", 0, false}, {"-01", 0, false},
		{"+1", 0, false}, {" 1", 0, false}, {"1 ", 0, false}, {"1a", 0, false}, {"0x1", 0, false}, {"1\x00", 0, false},
	} {
		got, ok := ParseInt([]byte(c.text))
		if ok != c.ok || (ok && got != c.want) {
			t.Errorf("ParseInt(%q) = %d, %v; want %d, %v", c.text, got, ok, c.want, c.ok)
		}
	}
}

// FuzzParseInt: a text is accepted exactly when it is how its number is written.
func FuzzParseInt(f *testing.F) {
	for _, seed := range []string{"0", "-1", "9223372036854775808", "007", "-", "+5"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, err := strconv.ParseInt(string(b), 10, 64)
		canonical := err == nil && strconv.FormatInt(want, 10) == string(b)
		if got, ok := ParseInt(b); ok != canonical || (ok && got != want) {
			t.Errorf("ParseInt(%q) = %d, %v; want %d, %v", b, got, ok, want, canonical)
		}
	})
}

func TestIsWord(t *testing.T) {
	for _, c := range []struct {
		b, word string
		want    bool
	}{
		{"ex", "EX", true}, {"Ex", "EX", true}, {"EX", "ex", true}, {"e", "EX", false}, {"exx", "EX", false},
		{"no-evict", "NO-EVICT", true}, {"no\revict", "NO-EVICT", false}, {"n@", "N`", false}, {"{x", "[X", false}, {"", "", true},
	} {
		if got := IsWord([]byte(c.b), c.word); got != c.want {
			t.Errorf("IsWord(%q, %q) = %v", c.b, c.word, got)
		}
	}
}
