package command

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"
)

func call(line string) Call {
	var args [][]byte
	for _, w := range strings.Fields(line) {
		args = append(args, []byte(w))
	}
	spec, _ := Find(args[0])
	return Call{Spec: spec, Args: args}
}

func TestCallsSurviveTheCodec(t *testing.T) {
	set := call("SET k v EX 10")
	set.Args[2] = []byte{}
	calls := []Call{call("get a"), set, call("DBSIZE"), call("MSET a 1 b 2")}
	b := AppendCalls([]byte("prefix"), calls)
	got, err := ParseCalls(b[len("prefix"):], len(b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, calls) {
		t.Errorf("got %v, want %v", got, calls)
	}
	if got, err := ParseCalls(AppendCalls(nil, nil), 100); err != nil || len(got) != 0 {
		t.Errorf("no calls: %v, %v", got, err)
	}
}

func TestParseCallsRefuses(t *testing.T) {
	whole := AppendCalls(nil, []Call{call("SET key value"), call("GET key")})
	for n := range whole {
		if _, err := ParseCalls(whole[:n], len(whole)); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(whole))
		}
	}
	huge := binary.AppendUvarint([]byte{codecVersion}, math.MaxUint64)
	for name, b := range map[string][]byte{
		"another version":   append([]byte{99}, whole[1:]...),
		"bytes too many":    append(bytes.Clone(whole), 0),
		"a huge count":      huge,
		"a huge length":     append([]byte{codecVersion, 1, 1}, huge[1:]...),
		"an unknown name":   AppendCalls(nil, []Call{{Args: [][]byte{[]byte("MULTI")}}}),
		"a wrong arity":     AppendCalls(nil, []Call{{Args: [][]byte{[]byte("GET")}}}),
		"a call of nothing": {codecVersion, 1, 0, 0},
	} {
		if _, err := ParseCalls(b, 1000); err == nil {
			t.Errorf("accepted %s", name)
		}
	}
	if _, err := ParseCalls(whole, len(whole)-1); err == nil {
		t.Error("accepted more than maxBytes")
	}
}

func everyReply() []Reply {
	var s Strings
	s.Add([]byte("one"))
	s.Add(nil)
	s.Add(bytes.Repeat([]byte("x"), 300))
	return []Reply{
		OK(), Err("ERR bad"), Int(-5), Int(math.MaxInt64), Bulk([]byte("v\x00")), Bulk([]byte{}), Nil(),
		Array(Int(1), Array(Nil()), BulkString("x")), Array(), Map(BulkString("k"), Int(1)), Set(Simple("a")),
		Double(1.5), Double(math.Inf(-1)), Bool(true), Bool(false), Verbatim("text"), s.Reply(), new(Strings).Reply(), {},
	}
}

func TestRepliesSurviveTheCodec(t *testing.T) {
	want := everyReply()
	got, err := ParseReplies(AppendReplies(nil, want))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d replies, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].String() != want[i].String() || got[i].Kind() != want[i].Kind() || got[i].Len() != want[i].Len() {
			t.Errorf("%d: got %v, want %v", i, got[i], want[i])
		}
	}
}

func TestParseRepliesRefuses(t *testing.T) {
	whole := AppendReplies(nil, everyReply())
	for n := range whole {
		if _, err := ParseReplies(whole[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(whole))
		}
	}
	deep := Int(1)
	for range maxReplyDepth {
		deep = Array(deep)
	}
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, b := range map[string][]byte{
		"nesting":            AppendReplies(nil, []Reply{deep}),
		"a huge array":       append([]byte{codecVersion, 1, byte(KindArray)}, huge...),
		"an unknown kind":    {codecVersion, 1, 200},
		"half a map":         {codecVersion, 1, byte(KindMap), 1, byte(KindNil)},
		"strings too few":    {codecVersion, 1, byte(KindStrings), 2, 2, 1, 'a'},
		"strings too many":   {codecVersion, 1, byte(KindStrings), 1, 4, 1, 'a', 1, 'b'},
		"a string too long":  {codecVersion, 1, byte(KindStrings), 1, 2, 9, 'a'},
		"strings of nothing": append(append([]byte{codecVersion, 1, byte(KindStrings)}, huge...), 0),
	} {
		if _, err := ParseReplies(b); err == nil {
			t.Errorf("accepted %s", name)
		}
	}
}

// FuzzParseCalls: what is accepted says the same when it is written again.
func FuzzParseCalls(f *testing.F) {
	f.Add(AppendCalls(nil, []Call{call("SET key value"), call("GET key")}))
	f.Add([]byte{codecVersion, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, b []byte) {
		calls, err := ParseCalls(b, 1<<20)
		if err != nil {
			return
		}
		again, err := ParseCalls(AppendCalls(nil, calls), 1<<20)
		if err != nil || !reflect.DeepEqual(again, calls) {
			t.Errorf("%v, then %v, %v", calls, again, err)
		}
	})
}

func FuzzParseReplies(f *testing.F) {
	f.Add(AppendReplies(nil, everyReply()))
	f.Add([]byte{codecVersion, 1, byte(KindArray), 255, 255, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		replies, err := ParseReplies(b)
		if err != nil {
			return
		}
		for _, r := range replies {
			_ = r.String() // walks all elements
		}
		canonical := AppendReplies(nil, replies)
		again, err := ParseReplies(canonical)
		if err != nil || !bytes.Equal(AppendReplies(nil, again), canonical) {
			t.Errorf("%v, then %v, %v", replies, again, err)
		}
	})
}

func BenchmarkCallsCodec(b *testing.B) {
	calls := make([]Call, 16)
	for i := range calls {
		calls[i] = call("SET key:0000000017 " + strings.Repeat("x", 256))
	}
	buf := AppendCalls(nil, calls)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendCalls(buf[:0], calls)
		if _, err := ParseCalls(buf, len(buf)); err != nil {
			b.Fatal(err)
		}
	}
}
