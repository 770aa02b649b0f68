package command

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A node that is not the leader forwards calls to it, and the leader sends the replies back. Both
// travel in this form; integers are uvarints, signed ones zigzag.
//
//	calls:   version(1) count { argc { len bytes }* }*        args[0] is the command's name
//	replies: version(1) count { reply }*
//	reply:   kind then
//	         None, Nil            nothing
//	         Simple, Error,
//	         Verbatim, Bulk       len bytes
//	         Int, Bool, Double    number (a Double by its bits)
//	         Array, Map, Set      count { reply }*
//	         Strings              count len packed
//
// Every count and length is compared with the bytes that are left before anything is allocated for it.
const codecVersion = 1

// maxReplyDepth bounds nesting. The deepest reply of the table, COMMAND DOCS, has 6 levels.
const maxReplyDepth = 16

var errTruncated = errors.New("truncated")

// AppendCalls appends the binary form of calls to dst.
func AppendCalls(dst []byte, calls []Call) []byte {
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(len(calls)))
	for i := range calls {
		dst = binary.AppendUvarint(dst, uint64(len(calls[i].Args)))
		for _, arg := range calls[i].Args {
			dst = appendBytes(dst, arg)
		}
	}
	return dst
}

// ParseCalls is the inverse of AppendCalls. The arguments are parts of b. It refuses more than maxBytes
// bytes, a command that is not in the table, and a wrong number of arguments.
func ParseCalls(b []byte, maxBytes int) ([]Call, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("parse calls: %d bytes, the limit is %d", len(b), maxBytes)
	}
	d := decoder{rest: b}
	d.version()
	n := d.count(2) // a call takes two bytes at least: its count and the length of its name
	calls := make([]Call, 0, n)
	for range n {
		argc := d.count(1)
		args := make([][]byte, 0, argc)
		for range argc {
			args = append(args, d.bytes())
		}
		if d.err != nil {
			break
		}
		call, err := newCall(args)
		if err != nil {
			return nil, fmt.Errorf("parse calls: %w", err)
		}
		calls = append(calls, call)
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("parse calls: %w", err)
	}
	return calls, nil
}

func newCall(args [][]byte) (Call, error) {
	if len(args) == 0 {
		return Call{}, errors.New("a call without a name")
	}
	spec, ok := Find(args[0])
	if !ok {
		return Call{}, fmt.Errorf("unknown command %q", quote(args[0], maxQuoted))
	}
	if !spec.AcceptsArgs(len(args)) {
		return Call{}, fmt.Errorf("%s with %d arguments", spec.Name, len(args)-1)
	}
	return Call{Spec: spec, Args: args}, nil
}

// AppendReplies appends the binary form of rs to dst.
func AppendReplies(dst []byte, rs []Reply) []byte {
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(len(rs)))
	for i := range rs {
		dst = appendReply(dst, &rs[i])
	}
	return dst
}

func appendReply(dst []byte, r *Reply) []byte {
	dst = append(dst, byte(r.kind))
	switch r.kind {
	case KindNone, KindNil:
	case KindSimple, KindError, KindVerbatim:
		dst = binary.AppendUvarint(dst, uint64(len(r.text)))
		dst = append(dst, r.text...)
	case KindBulk:
		dst = appendBytes(dst, r.data)
	case KindInt, KindBool, KindDouble:
		dst = binary.AppendVarint(dst, r.num)
	case KindArray, KindMap, KindSet:
		dst = binary.AppendUvarint(dst, uint64(len(r.elems)))
		for i := range r.elems {
			dst = appendReply(dst, &r.elems[i])
		}
	case KindStrings:
		dst = binary.AppendUvarint(dst, uint64(r.num))
		dst = appendBytes(dst, r.data)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// ParseReplies is the inverse of AppendReplies. The replies hold parts of b.
func ParseReplies(b []byte) ([]Reply, error) {
	d := decoder{rest: b}
	d.version()
	rs := d.replies(d.count(1), maxReplyDepth)
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("parse replies: %w", err)
	}
	return rs, nil
}

// decoder reads rest from its start. After the first error it yields zeros.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}

func (d *decoder) version() {
	if len(d.rest) == 0 {
		d.fail(errTruncated)
		return
	}
	if d.rest[0] != codecVersion {
		d.fail(fmt.Errorf("version %d, this node speaks %d", d.rest[0], codecVersion))
		return
	}
	d.rest = d.rest[1:]
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail(errTruncated)
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads the number of things of which each takes at least size bytes.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.fail(errTruncated)
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.count(1)
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.rest))
	}
	return d.err
}

// replies reads n replies. The slice grows as they are read: a reply of one byte takes 80 in memory, and
// the count alone is no proof that they follow.
func (d *decoder) replies(n, depth int) []Reply {
	if depth == 0 {
		d.fail(errors.New("replies are nested too deep"))
		return nil
	}
	rs := make([]Reply, 0, min(n, 1024))
	for range n {
		rs = append(rs, d.reply(depth))
		if d.err != nil {
			return nil
		}
	}
	return rs
}

func (d *decoder) reply(depth int) Reply {
	r := Reply{kind: Kind(d.byte())}
	switch r.kind {
	case KindNone, KindNil:
	case KindSimple, KindError, KindVerbatim:
		r.text = string(d.bytes())
	case KindBulk:
		r.data = d.bytes()
	case KindInt, KindBool, KindDouble:
		r.num = d.varint()
	case KindArray, KindMap, KindSet:
		r.elems = d.replies(d.count(1), depth-1)
		if r.kind == KindMap && len(r.elems)%2 != 0 {
			d.fail(errors.New("a map with a key and no value"))
		}
	case KindStrings:
		r.num, r.data = d.strings()
	default:
		d.fail(fmt.Errorf("unknown kind of reply %d", r.kind))
	}
	return r
}

// strings reads packed strings and checks them, because Reply.All trusts them.
func (d *decoder) strings() (n int64, packed []byte) {
	count := d.uvarint()
	packed = d.bytes()
	inner := decoder{rest: packed}
	for seen := uint64(0); len(inner.rest) > 0; seen++ {
		inner.bytes()
		if seen == count {
			inner.fail(errors.New("more strings than counted"))
		}
		n++
	}
	if inner.err != nil || uint64(n) != count {
		d.fail(errors.New("packed strings do not match their count"))
		return 0, nil
	}
	return n, packed
}
