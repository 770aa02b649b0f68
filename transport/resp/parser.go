package resp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/raftcask/raftcask/command"
)

const (
	// minBuffer and maxBuffer bound the read buffer: it starts at 16 KiB, doubles when a read fills it, and
	// shrinks when the client has become quiet.
	minBuffer = 16 << 10
	maxBuffer = 1 << 20
	// maxLine is Redis's PROTO_INLINE_MAX_SIZE: an inline command, or the line of a count, has at most 64 KiB.
	maxLine = 64 << 10
	// maxArgs is how many arguments a command may announce, 1024·1024 as in Redis up to 6.
	maxArgs = 1 << 20
	// argOverhead is what an argument costs beside its bytes: the slice that points at them.
	argOverhead = 24
	// directBytes: an argument of this length that is not there yet is read from the socket straight into
	// its place. It is below half of minBuffer, so that what waits in the buffer never fills it.
	directBytes = 7 << 10
	// directStep is the first allocation for such an argument. It doubles as the bytes arrive: a client that
	// only announces 8 MiB does not get them.
	directStep = 64 << 10
)

// event is what the parser found.
type event uint8

const (
	evMore    event = iota // it needs to read more
	evCommand              // parser.args is a command
	evRefused              // parser.refusal is the reply to a command that was read over
)

// parser turns the bytes of a connection into commands: "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", or inline,
// "GET k\r\n". The caller reads into space, tells with filled how much it read, and calls next until it
// wants more. No byte is looked at twice for each read, however small the reads are, and no length is
// believed before the bytes are there.
//
// An error of next is the text of a protocol error; the connection cannot go on after it.
type parser struct {
	argBytes     int // a longer argument is read over and the command refused
	hardArgBytes int // a longer one is a protocol error
	commandBytes int // arguments and overhead of one command; beyond, it is refused

	buf     []byte
	r, w    int // buf[r:w] is unread
	scanned int // there is no newline in buf[r:scanned]
	full    bool
	quiet   int // reads in a row that used little of the buffer

	left    int    // arguments that are still to come; 0 between commands
	bulk    int    // length of the argument in progress, -1 before its header was read
	direct  []byte // that argument with its CRLF, as far as it is read; nil unless it is read directly
	skip    int    // bytes of a refused argument, with its CRLF, that are still to come
	cost    int    // bytes of the command so far, with overhead
	refusal *command.Reply

	arena arena
	args  [][]byte
}

func newParser(cfg *Config) parser {
	return parser{
		argBytes:     cfg.Limits.MaxValueBytes,
		hardArgBytes: cfg.MaxBulkBytes,
		commandBytes: cfg.MaxCommandBytes,
		buf:          make([]byte, minBuffer),
		bulk:         -1,
	}
}

// space is where the next read goes. It is never empty.
func (p *parser) space() []byte {
	if p.direct != nil {
		p.growDirect()
		return p.direct[len(p.direct):cap(p.direct)]
	}
	switch {
	case p.r == p.w:
		p.r, p.w, p.scanned = 0, 0, 0
	case p.r > 0: // the beginning of a command; less than directBytes, or a line
		copy(p.buf, p.buf[p.r:p.w])
		p.w -= p.r
		p.scanned = max(p.scanned-p.r, 0)
		p.r = 0
	}
	if (p.full && len(p.buf) < maxBuffer) || p.w == len(p.buf) {
		p.resize(2 * len(p.buf))
	}
	p.full = false
	return p.buf[p.w:]
}

// growDirect makes room for more of an argument that is read directly.
func (p *parser) growDirect() {
	if len(p.direct) < cap(p.direct) {
		return
	}
	grown := make([]byte, len(p.direct), min(2*cap(p.direct), p.bulk+2))
	copy(grown, p.direct)
	p.direct = grown
}

func (p *parser) resize(size int) {
	buf := make([]byte, size)
	p.w = copy(buf, p.buf[p.r:p.w])
	p.scanned = max(p.scanned-p.r, 0)
	p.r = 0
	p.buf = buf
}

// quietReads is how many small reads in a row halve a large buffer.
const quietReads = 64

// filled tells that n bytes were read into space.
func (p *parser) filled(n int) {
	if p.direct != nil {
		p.direct = p.direct[:len(p.direct)+n]
		return
	}
	p.w += n
	p.full = p.w == len(p.buf)
	if n > len(p.buf)/8 || len(p.buf) == minBuffer {
		p.quiet = 0
		return
	}
	if p.quiet++; p.quiet >= quietReads && p.w-p.r < len(p.buf)/2 {
		p.resize(len(p.buf) / 2)
		p.quiet = 0
	}
}

// large reports whether the parser holds more memory than an idle connection should.
func (p *parser) large() bool { return len(p.buf) > minBuffer }

// midway reports whether more input is certainly coming: a command has begun, or the last read took all
// that there was room for.
func (p *parser) midway() bool { return p.full || p.left > 0 || p.r < p.w }

// rest gives back the memory that an idle connection does not need.
func (p *parser) rest() {
	if p.w-p.r < minBuffer {
		p.resize(minBuffer)
	}
	p.arena.rest()
}

// next finds the next command.
func (p *parser) next() (event, error) {
	for p.left == 0 {
		if p.r == p.w {
			return evMore, nil
		}
		if p.buf[p.r] != '*' {
			if found, err := p.inline(); !found || err != nil {
				return evMore, err
			}
			if len(p.args) > 0 {
				return p.finish()
			}
			continue // an empty line
		}
		n, found, err := p.length("mbulk", "multibulk")
		if err != nil || !found {
			return evMore, err
		}
		if n > maxArgs {
			return evMore, errors.New("invalid multibulk length")
		}
		if n > 0 { // Redis takes *0 and *-1 for nothing at all
			p.begin(int(n))
		}
	}
	for p.left > 0 {
		if p.bulk < 0 {
			if found, err := p.header(); err != nil || !found {
				return evMore, err
			}
		}
		if done, err := p.payload(); err != nil || !done {
			return evMore, err
		}
		p.bulk = -1
		p.left--
	}
	p.args = p.arena.take()
	return p.finish()
}

// begin starts a command of n arguments.
func (p *parser) begin(n int) {
	p.left, p.cost, p.refusal = n, 0, nil
	p.arena.expect(n)
}

func (p *parser) finish() (event, error) {
	if p.refusal != nil {
		return evRefused, nil
	}
	return evCommand, nil
}

// header reads the line "$<length>\r\n" of an argument.
func (p *parser) header() (found bool, err error) {
	if p.r == p.w {
		return false, nil
	}
	if c := p.buf[p.r]; c != '$' {
		return false, errors.New("expected '$', got '" + string([]byte{c}) + "'")
	}
	n, found, err := p.length("bulk", "bulk")
	if err != nil || !found {
		return false, err
	}
	if n < 0 || n > int64(p.hardArgBytes) {
		return false, errors.New("invalid bulk length")
	}
	p.bulk = int(n)
	p.charge(p.bulk)
	if p.refusal != nil {
		p.skip = p.bulk + 2
	}
	return true, nil
}

// charge counts an argument of n bytes, and refuses the command when it is too large. The arguments it
// has so far are let go.
func (p *parser) charge(n int) {
	p.cost += n + argOverhead
	switch {
	case p.refusal != nil:
		return
	case n > p.argBytes:
		p.refusal = command.TooLong(n, p.argBytes)
	case p.cost > p.commandBytes:
		r := command.Err(fmt.Sprintf("ERR not applied: the command is larger than %d bytes, split it", p.commandBytes))
		p.refusal = &r
	default:
		return
	}
	p.arena.drop()
}

// length reads the number after buf[r] and its CRLF. name and what are how Redis calls it in errors.
func (p *parser) length(name, what string) (n int64, found bool, err error) {
	// The common case: a few digits, all there.
	line := p.buf[p.r+1 : p.w]
	for i, c := range line {
		if c -= '0'; c <= 9 && i < 9 {
			n = n*10 + int64(c)
			continue
		}
		if i > 0 && i+1 < len(line) && line[i] == '\r' && line[i+1] == '\n' && (line[0] != '0' || i == 1) {
			p.r += i + 3
			return n, true, nil
		}
		break
	}
	end, err := p.line("too big " + name + " count string")
	if err != nil || end < 0 {
		return 0, false, err
	}
	text, crlf := bytes.CutSuffix(p.buf[p.r+1:end], []byte{'\r'})
	n, ok := command.ParseInt(text)
	if !crlf || !ok {
		return 0, false, errors.New("invalid " + what + " length")
	}
	p.r = end + 1
	return n, true, nil
}

// line finds the newline of the line at r: its position, or -1 when it is not there yet.
func (p *parser) line(tooBig string) (end int, err error) {
	from := max(p.scanned, p.r)
	i := bytes.IndexByte(p.buf[from:p.w], '\n')
	end = from + i
	if i < 0 {
		p.scanned = p.w
		end = p.w
	}
	if end-p.r > maxLine {
		return -1, errors.New(tooBig)
	}
	if i < 0 {
		return -1, nil
	}
	return end, nil
}

var (
	crlf        = []byte("\r\n")
	errNoCRLF   = errors.New("expected CRLF after a bulk")
	errUnquoted = errors.New("unbalanced quotes in request")
)

// payload reads an argument, or reads over a refused one.
func (p *parser) payload() (done bool, err error) {
	buffered := p.w - p.r
	switch {
	case p.refusal != nil:
		n := min(p.skip, buffered)
		p.r += n
		p.skip -= n
		return p.skip == 0, nil
	case p.direct != nil:
		return p.finishDirect()
	case buffered >= p.bulk+2:
		arg := p.buf[p.r : p.r+p.bulk]
		if p.buf[p.r+p.bulk] != '\r' || p.buf[p.r+p.bulk+1] != '\n' {
			return false, errNoCRLF
		}
		p.arena.add(arg, buffered)
		p.r += p.bulk + 2
		return true, nil
	case p.bulk >= directBytes:
		p.direct = make([]byte, 0, min(p.bulk+2, max(directStep, 2*buffered)))
		p.direct = append(p.direct, p.buf[p.r:p.w]...)
		p.r = p.w
	}
	return false, nil
}

func (p *parser) finishDirect() (done bool, err error) {
	if len(p.direct) < p.bulk+2 {
		return false, nil
	}
	if !bytes.Equal(p.direct[p.bulk:], crlf) {
		return false, errNoCRLF
	}
	p.arena.own(p.direct[:p.bulk:p.bulk])
	p.direct = nil
	return true, nil
}
