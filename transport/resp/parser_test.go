package resp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/command"
)

// testLimits are small, so that tests reach them.
func testLimits() Config {
	return Config{Limits: command.Limits{MaxKeyBytes: 100, MaxValueBytes: 20_000}, MaxBulkBytes: 100_000, MaxCommandBytes: 60_000}
}

func testParser() *parser {
	cfg := testLimits().withDefaults()
	p := newParser(&cfg)
	return &p
}

// feed gives the parser all of input, in pieces as next says, and describes what it found.
func feed(p *parser, input []byte, piece func() int) []string {
	var found []string
	for {
		for {
			event, err := p.next()
			if err != nil {
				return append(found, "error: "+err.Error())
			}
			if event == evMore {
				break
			}
			if event == evRefused {
				found = append(found, "refused: "+p.refusal.Text())
			} else {
				found = append(found, fmt.Sprintf("%q", p.args))
			}
		}
		if len(input) == 0 {
			return found
		}
		n := copy(p.space(), input[:min(max(piece(), 1), len(input))])
		p.filled(n)
		input = input[n:]
	}
}

func whole(input []byte) func() int { return func() int { return len(input) } }

func encode(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

func TestParserFindsCommands(t *testing.T) {
	medium, long := strings.Repeat("m", 9_000), strings.Repeat("l", 20_000)
	for _, c := range []struct{ name, input, want string }{
		{"one", encode("GET", "k"), `["GET" "k"]`},
		{"pipeline", encode("SET", "k", "v") + encode("GET", "k"), `["SET" "k" "v"] ["GET" "k"]`},
		{"empty argument", encode("SET", "k", ""), `["SET" "k" ""]`},
		{"no arguments", "*0\r\n*-1\r\n*-10\r\n" + encode("PING"), `["PING"]`},
		{"CRLF in a value", encode("SET", "k", "a\r\n$1\r\nb"), `["SET" "k" "a\r\n$1\r\nb"]`},
		{"inline", "SET k v\r\nGET k\n", `["SET" "k" "v"] ["GET" "k"]`},
		{"empty lines", "\r\n\n  \r\nPING\r\n", `["PING"]`},
		{"mixed", "PING\r\n" + encode("PING") + "PING\n", `["PING"] ["PING"] ["PING"]`},
		{"unfinished", encode("GET", "k") + "*2\r\n$3\r\nGET\r\n$1\r\nk\r", `["GET" "k"]`},
		{"over directBytes", encode("SET", "k", medium) + encode("GET", "k"), fmt.Sprintf("[\"SET\" \"k\" %q] [\"GET\" \"k\"]", medium)},
		{"over the buffer", encode("SET", "k", long) + encode("GET", "k"), fmt.Sprintf("[\"SET\" \"k\" %q] [\"GET\" \"k\"]", long)},
	} {
		t.Run(c.name, func(t *testing.T) {
			input := []byte(c.input)
			if got := strings.Join(feed(testParser(), input, whole(input)), " "); got != c.want {
				t.Errorf("whole: got %.200s", got)
			}
			if got := strings.Join(feed(testParser(), input, func() int { return 1 }), " "); got != c.want {
				t.Errorf("byte by byte: got %.200s", got)
			}
		})
	}
}

// badInputs has every protocol error.
var badInputs = []struct{ name, input, want string }{
	{"multibulk length no number", "*x\r\n", "invalid multibulk length"},
	{"multibulk length empty", "*\r\n", "invalid multibulk length"},
	{"multibulk length with zeros", "*03\r\n", "invalid multibulk length"},
	{"multibulk length signed", "*+3\r\n", "invalid multibulk length"},
	{"multibulk length without CR", "*3\n", "invalid multibulk length"},
	{"multibulk length over 1024*1024", "*1048577\r\n", "invalid multibulk length"},
	{"multibulk length of 2^31-1", "*2147483647\r\n", "invalid multibulk length"},
	{"multibulk length over 64 bits", "*18446744073709551616\r\n", "invalid multibulk length"},
	{"multibulk length with NUL", "*\x00\r\n", "invalid multibulk length"},
	{"bulk length no number", "*1\r\n$x\r\n", "invalid bulk length"},
	{"bulk length negative", "*1\r\n$-1\r\n", "invalid bulk length"},
	{"bulk length over the hard limit", "*1\r\n$100001\r\n", "invalid bulk length"},
	{"bulk length of 2^63-1", "*1\r\n$9223372036854775807\r\n", "invalid bulk length"},
	{"bulk length over 64 bits", "*1\r\n$9223372036854775808\r\n", "invalid bulk length"},
	{"bulk length with NUL", "*1\r\n$\x00\r\n", "invalid bulk length"},
	{"bulk header missing", "*1\r\nfoo\r\n", "expected '$', got 'f'"},
	{"bulk header missing after one", "*2\r\n$1\r\na\r\n:1\r\n", "expected '$', got ':'"},
	{"bulk too short", "*1\r\n$5\r\nab\r\nPING\r\n", "expected CRLF after a bulk"},
	{"bulk too long", "*1\r\n$1\r\nab\r\n", "expected CRLF after a bulk"},
	{"long bulk without CRLF", "*1\r\n$9000\r\n" + strings.Repeat("x", 9002), "expected CRLF after a bulk"},
	{"count line too long", "*" + strings.Repeat("1", maxLine+1), "too big mbulk count string"},
	{"bulk line too long", "*1\r\n$" + strings.Repeat("1", maxLine+1), "too big bulk count string"},
	{"inline too long", strings.Repeat("x", maxLine+1), "too big inline request"},
	{"inline too long with an end", strings.Repeat("x", maxLine+1) + "\r\n", "too big inline request"},
	{"quotes", "SET k \"v\r\n", "unbalanced quotes in request"},
	{"single quotes", "SET k 'v\r\n", "unbalanced quotes in request"},
	{"text after a quote", "SET k \"v\"x\r\n", "unbalanced quotes in request"},
}

func TestParserRefusesWhatIsNotTheProtocol(t *testing.T) {
	for _, c := range badInputs {
		t.Run(c.name, func(t *testing.T) {
			input := []byte(encode("GET", "before") + c.input)
			want := `["GET" "before"] error: ` + c.want
			if got := strings.Join(feed(testParser(), input, whole(input)), " "); got != want {
				t.Errorf("whole: got %.200s", got)
			}
			if got := strings.Join(feed(testParser(), input, func() int { return 1 }), " "); got != want {
				t.Errorf("byte by byte: got %.200s", got)
			}
		})
	}
}

func TestParserReadsOverWhatIsTooLarge(t *testing.T) {
	tooLong, half := strings.Repeat("x", 20_001), strings.Repeat("y", 19_000)
	tooLongText := "refused: ERR not applied: an argument of 20001 bytes is too long, the limit is 20000"
	tooLargeText := "refused: ERR not applied: the command is larger than 60000 bytes, split it"
	for _, c := range []struct{ name, input, want string }{
		{"a long value", encode("SET", "k", tooLong), tooLongText},
		{"a long name", encode(tooLong, "k", "v"), tooLongText},
		{"two long values", encode("MSET", "k", tooLong, "l", tooLong+"x"), tooLongText},
		{"many values", encode("MSET", "a", half, "b", half, "c", half, "d", half), tooLargeText},
		{"many small values", encode(strings.Fields("DEL" + strings.Repeat(" k", 3000))...), tooLargeText},
		{"an inline value", "SET k " + tooLong + "\r\n", tooLongText},
	} {
		t.Run(c.name, func(t *testing.T) {
			input := []byte(c.input + encode("GET", "k"))
			want := c.want + ` ["GET" "k"]`
			for _, piece := range []int{len(input), 1, 100, 5000} {
				if got := strings.Join(feed(testParser(), input, func() int { return piece }), " "); got != want {
					t.Errorf("pieces of %d: got %.200s", piece, got)
				}
			}
		})
	}
}

// TestParserAllocatesOnlyForWhatArrived announces much and sends little.
func TestParserAllocatesOnlyForWhatArrived(t *testing.T) {
	cfg := Config{MaxBulkBytes: 512 << 20, MaxCommandBytes: 512 << 20, Limits: command.Limits{MaxValueBytes: 512 << 20}}.withDefaults()
	for name, input := range map[string]string{
		"a long argument":       "*1\r\n$536870911\r\nx",
		"many arguments":        "*1048576\r\n$1\r\nx\r\n",
		"many, and a long one":  "*1048576\r\n$1\r\nx\r\n$536870911\r\nx",
		"a refused argument":    "*2\r\n$536870912\r\n" + strings.Repeat("x", 100_000),
		"a line without an end": strings.Repeat("x", maxLine),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p := newParser(&cfg)
		feed(&p, []byte(input), func() int { return 1000 })
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes allocated for %d", name, got, len(input))
		}
	}
}

// TestParserSearchesEachByteOnce: a line that arrives in small pieces is not searched from its start for
// each of them.
func TestParserSearchesEachByteOnce(t *testing.T) {
	for _, line := range []string{strings.Repeat("x", 50_000) + "\r\n", "*" + strings.Repeat("0", 50_000) + "1\r\n"} {
		p := testParser()
		for i := range len(line) - 1 {
			p.space()[0] = line[i]
			p.filled(1)
			if event, err := p.next(); event != evMore || err != nil {
				t.Fatalf("event %d, error %v", event, err)
			}
			if p.scanned != p.w {
				t.Fatalf("after %d bytes, %d will be searched again", i+1, p.w-p.scanned)
			}
		}
	}
}

// TestParserLeavesOldArgumentsAlone: arguments stay what they were while the buffer goes on.
func TestParserLeavesOldArgumentsAlone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	p := testParser()
	var want []string
	var got [][]byte
	for i := range 2000 {
		value := strings.Repeat(string(rune('a'+i%26)), rng.IntN(300))
		if i%100 == 99 {
			value = strings.Repeat("v", rng.IntN(20_000))
		}
		want = append(want, value)
		input := []byte(encode("SET", "k", value))
		for len(input) > 0 {
			n := copy(p.space(), input[:min(1+rng.IntN(2000), len(input))])
			p.filled(n)
			input = input[n:]
			for {
				event, err := p.next()
				if err != nil {
					t.Fatal(err)
				}
				if event == evMore {
					break
				}
				got = append(got, p.args[2])
			}
			switch rng.IntN(20) {
			case 0:
				p.rest()
			case 1:
				p.arena.release()
			}
		}
	}
	for i := range want {
		if string(got[i]) != want[i] {
			t.Fatalf("argument %d is %.20q…, was %.20q…", i, got[i], want[i])
		}
	}
}

func TestReadBufferGrowsAndShrinks(t *testing.T) {
	p := testParser()
	burst := []byte(strings.Repeat(encode("GET", "k"), 100_000))
	for range 3 {
		feed(p, burst, whole(burst))
	}
	if len(p.buf) != maxBuffer {
		t.Errorf("after a burst: %d bytes", len(p.buf))
	}
	small := []byte(encode("GET", "k"))
	for range 10 * quietReads {
		feed(p, small, whole(small))
	}
	if len(p.buf) != minBuffer {
		t.Errorf("after many small reads: %d bytes", len(p.buf))
	}
	feed(p, burst, whole(burst))
	p.rest()
	if len(p.buf) != minBuffer || p.large() {
		t.Errorf("after a rest: %d bytes", len(p.buf))
	}
}

// FuzzParser: pieces of any size find the same as the whole, and nothing panics.
func FuzzParser(f *testing.F) {
	f.Add([]byte(encode("SET", "k", "v")+"PING\r\n"), uint64(1))
	f.Add([]byte(encode("SET", "k", strings.Repeat("x", 8_000))+encode("GET", "k")), uint64(2))
	for i, c := range badInputs {
		if len(c.input) < 100 { // the fuzzer is slow to shorten the long ones
			f.Add([]byte(c.input), uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		want := feed(testParser(), input, whole(input))
		rng := rand.New(rand.NewPCG(seed, 1))
		got := feed(testParser(), input, func() int { return rng.IntN(1 << rng.IntN(16)) })
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("in pieces: %.500q\nwhole:     %.500q", got, want)
		}
	})
}

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		line, want string
		ok         bool
	}{
		{`a b c`, `["a" "b" "c"]`, true},
		{"  a\t b  ", `["a" "b"]`, true},
		{``, `[]`, true},
		{`"a b" c`, `["a b" "c"]`, true},
		{`"\x41\n\r\t\b\a\"\\\z\xzz"`, `["A\n\r\t\b\a\"\\zxzz"]`, true},
		{`'a\'b\n' c`, `["a'b\\n" "c"]`, true},
		{`""`, `[""]`, true},
		{`'' ""`, `["" ""]`, true},
		{`a"b c"`, `["ab c"]`, true},
		{`"a"b`, ``, false},
		{`'a'b`, ``, false},
		{`"a`, ``, false},
		{`'a`, ``, false},
		{`"a\`, ``, false},
		{`"a\"`, ``, false},
		{"a\x00b c", `["a"]`, true},
		{"\"a\x00b\"", ``, false},
		{"a\vb", `["a\vb"]`, true},
		{"a \v b", `["a" "b"]`, true},
	} {
		words, ok := splitWords([]byte(c.line))
		if ok != c.ok || (ok && fmt.Sprintf("%q", words) != c.want) {
			t.Errorf("%q: %q, %v", c.line, words, ok)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	f.Add([]byte(`SET "k\x41" 'v'`))
	f.Fuzz(func(t *testing.T, line []byte) {
		words, ok := splitWords(line)
		if !ok {
			return
		}
		// Quoted again, the words are the same.
		var quoted bytes.Buffer
		for _, w := range words {
			quoted.WriteString(` "`)
			for _, c := range w {
				fmt.Fprintf(&quoted, `\x%02x`, c)
			}
			quoted.WriteByte('"')
		}
		again, ok := splitWords(quoted.Bytes())
		if !ok || fmt.Sprintf("%q", again) != fmt.Sprintf("%q", words) {
			t.Errorf("%q, then %q, %v", words, again, ok)
		}
	})
}
