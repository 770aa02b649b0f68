package resp

import "bytes"

// inline reads a command that a person types: words on a line, in quotes where they hold spaces. args is
// empty for an empty line.
func (p *parser) inline() (found bool, err error) {
	end, err := p.line("too big inline request")
	if err != nil || end < 0 {
		return false, err
	}
	words, ok := splitWords(p.buf[p.r:end])
	if !ok {
		return false, errUnquoted
	}
	p.r = end + 1
	p.cost, p.refusal = 0, nil
	for _, word := range words {
		p.charge(len(word))
	}
	if p.refusal == nil {
		for _, word := range words {
			p.arena.own(word)
		}
	}
	p.args = p.arena.take()
	if p.refusal != nil {
		p.args = words // not empty: it is not an empty line
	}
	return true, nil
}

// splitWords splits a line as Redis's sdssplitargs does: at white space; "…" with \n \r \t \b \a \xff and
// any other \c for c; '…' with \'. A closing quote must end its word. The words are copies.
func splitWords(line []byte) (words [][]byte, ok bool) {
	if i := bytes.IndexByte(line, 0); i >= 0 { // Redis takes the line for a C string
		line = line[:i]
	}
	for {
		line = bytes.TrimLeft(line, " \t\n\v\f\r")
		if len(line) == 0 {
			return words, true
		}
		word := make([]byte, 0, min(len(line), 64))
		if word, line, ok = splitWord(word, line); !ok {
			return nil, false
		}
		words = append(words, word)
	}
}

// splitWord appends the word at the start of line to word, and returns the rest of the line.
func splitWord(word, line []byte) (_, rest []byte, ok bool) {
	for len(line) > 0 {
		switch c := line[0]; c {
		case ' ', '\n', '\r', '\t':
			return word, line[1:], true
		case '"':
			word, line, ok = doubleQuoted(word, line[1:])
		case '\'':
			word, line, ok = singleQuoted(word, line[1:])
		default:
			word, line = append(word, c), line[1:]
			continue
		}
		// After a closing quote the word must end.
		if !ok || (len(line) > 0 && !isSpace(line[0])) {
			return nil, nil, false
		}
		return word, line, true
	}
	return word, line, true
}

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

func doubleQuoted(word, line []byte) (_, rest []byte, ok bool) {
	for len(line) > 0 {
		c := line[0]
		switch {
		case c == '"':
			return word, line[1:], true
		case c == '\\' && len(line) >= 4 && line[1] == 'x' && isHex(line[2]) && isHex(line[3]):
			word = append(word, unhex(line[2])<<4|unhex(line[3]))
			line = line[4:]
		case c == '\\' && len(line) >= 2:
			word = append(word, unescape(line[1]))
			line = line[2:]
		default:
			word = append(word, c)
			line = line[1:]
		}
	}
	return nil, nil, false
}

func singleQuoted(word, line []byte) (_, rest []byte, ok bool) {
	for len(line) > 0 {
		c := line[0]
		switch {
		case c == '\'':
			return word, line[1:], true
		case c == '\\' && len(line) >= 2 && line[1] == '\'':
			word = append(word, '\'')
			line = line[2:]
		default:
			word = append(word, c)
			line = line[1:]
		}
	}
	return nil, nil, false
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
