package command

import (
	"encoding/binary"
	"iter"
	"math"
	"strconv"
	"strings"
)

// Kind is the type of a Reply.
type Kind uint8

// The kinds. Their numbers are part of the binary form, see codec.go.
const (
	KindNone     Kind = iota // no reply was given: a mistake of the program, rendered as an error
	KindSimple               // a status, as OK
	KindError                // text begins with its code: "ERR …"
	KindInt                  // 64-bit integer
	KindBulk                 // string of bytes
	KindNil                  // absent
	KindArray                //
	KindMap                  // elements alternate: key, value, key, value …
	KindSet                  //
	KindDouble               //
	KindBool                 //
	KindVerbatim             // plain text meant to be read
	KindStrings              // an array of bulk strings, kept packed
)

// Reply is what a command answers. transport/resp renders it in RESP2 or RESP3. The bytes given to a
// constructor are kept, not copied.
type Reply struct {
	kind  Kind
	num   int64   // Int; bits of a Double; 1 for true; the number of Strings
	text  string  // Simple, Error, Verbatim
	data  []byte  // Bulk; packed Strings: a uvarint length and the bytes of each
	elems []Reply // Array, Map, Set
}

// OK is the reply of a command that has nothing to tell.
func OK() Reply { return Simple("OK") }

// Simple is a status of one line.
func Simple(s string) Reply { return Reply{kind: KindSimple, text: s} }

// Err is an error of one line; its first word is the code that clients branch on.
func Err(s string) Reply { return Reply{kind: KindError, text: s} }

// Int is an integer.
func Int(n int64) Reply { return Reply{kind: KindInt, num: n} }

// Bulk is a string of bytes; nil is the empty string, not the absent one.
func Bulk(b []byte) Reply { return Reply{kind: KindBulk, data: b} }

// BulkString is Bulk of a string.
func BulkString(s string) Reply { return Reply{kind: KindBulk, data: []byte(s)} }

// Nil says that there is no value.
func Nil() Reply { return Reply{kind: KindNil} }

// Array is a list of replies.
func Array(elems ...Reply) Reply { return Reply{kind: KindArray, elems: elems} }

// Map takes keys and values in turn. RESP2 shows it as a flat array.
func Map(pairs ...Reply) Reply { return Reply{kind: KindMap, elems: pairs[:len(pairs)&^1]} }

// Set is an unordered list. RESP2 shows it as an array.
func Set(elems ...Reply) Reply { return Reply{kind: KindSet, elems: elems} }

// Double is a floating point number. RESP2 shows it as a bulk string.
func Double(f float64) Reply { return Reply{kind: KindDouble, num: int64(math.Float64bits(f))} }

// Bool is a truth value. RESP2 shows it as 1 or 0.
func Bool(v bool) Reply {
	if v {
		return Reply{kind: KindBool, num: 1}
	}
	return Reply{kind: KindBool}
}

// Verbatim is text to be shown as it is. RESP2 shows it as a bulk string.
func Verbatim(s string) Reply { return Reply{kind: KindVerbatim, text: s} }

// Kind is the type of the reply.
func (r Reply) Kind() Kind { return r.kind }

// IsErr reports whether the reply is an error.
func (r Reply) IsErr() bool { return r.kind == KindError || r.kind == KindNone }

// Int is the value of an Int, and 1 or 0 for a Bool.
func (r Reply) Int() int64 { return r.num }

// Float is the value of a Double.
func (r Reply) Float() float64 { return math.Float64frombits(uint64(r.num)) }

// Text is the text of a Simple, Error or Verbatim reply.
func (r Reply) Text() string { return r.text }

// Bytes is the value of a Bulk.
func (r Reply) Bytes() []byte { return r.data }

// Len is the number of elements of an Array, Set, Map (keys and values) or Strings.
func (r Reply) Len() int {
	if r.kind == KindStrings {
		return int(r.num)
	}
	return len(r.elems)
}

// Elems is the elements of an Array, Set or Map, which must not be modified. Those of Strings, which are
// packed, are only found with All.
func (r Reply) Elems() []Reply { return r.elems }

// All yields the elements in order.
func (r Reply) All() iter.Seq[Reply] {
	return func(yield func(Reply) bool) {
		for rest := r.data; r.kind == KindStrings && len(rest) > 0; {
			n, w := binary.Uvarint(rest)
			if !yield(Bulk(rest[w : w+int(n)])) {
				return
			}
			rest = rest[w+int(n):]
		}
		for i := range r.elems {
			if !yield(r.elems[i]) {
				return
			}
		}
	}
}

// Strings builds an array of bulk strings. It costs the bytes of the strings and no allocation each:
// KEYS may answer millions of them. The zero value is ready to use.
type Strings struct {
	n      int64
	packed []byte
}

// Add copies b to the end.
func (s *Strings) Add(b []byte) {
	s.n++
	s.packed = binary.AppendUvarint(s.packed, uint64(len(b)))
	s.packed = append(s.packed, b...)
}

// Len is the number of strings so far.
func (s *Strings) Len() int { return int(s.n) }

// Reply is the array. Add must not be called afterwards.
func (s *Strings) Reply() Reply { return Reply{kind: KindStrings, num: s.n, data: s.packed} }

// String shows the reply as redis-cli does; for logs, tests and tools.
func (r Reply) String() string {
	var b strings.Builder
	r.format(&b, "")
	return b.String()
}

func (r Reply) format(b *strings.Builder, indent string) {
	switch r.kind {
	case KindSimple, KindVerbatim:
		b.WriteString(r.text)
	case KindError:
		b.WriteString("(error) " + r.text)
	case KindInt:
		b.WriteString("(integer) " + strconv.FormatInt(r.num, 10))
	case KindBulk:
		b.WriteString(strconv.Quote(string(r.data)))
	case KindNil:
		b.WriteString("(nil)")
	case KindDouble:
		b.WriteString("(double) " + strconv.FormatFloat(r.Float(), 'g', -1, 64))
	case KindBool:
		b.WriteString("(" + strconv.FormatBool(r.num != 0) + ")")
	case KindArray, KindSet, KindMap, KindStrings:
		r.formatElems(b, indent)
	case KindNone:
		b.WriteString("(no reply)")
	}
}

func (r Reply) formatElems(b *strings.Builder, indent string) {
	mark := ") "
	switch r.kind {
	case KindSet:
		mark = "~ "
	case KindMap:
		mark = "# "
	}
	if r.Len() == 0 {
		b.WriteString("(empty)")
		return
	}
	i := 0
	for elem := range r.All() {
		if i > 0 {
			b.WriteString("\n" + indent)
		}
		i++
		prefix := strconv.Itoa(i) + mark
		b.WriteString(prefix)
		elem.format(b, indent+strings.Repeat(" ", len(prefix)))
	}
}
