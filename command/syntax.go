package command

import "strings"

// documentSyntax turns the syntax line of a Spec into the tree of COMMAND DOCS, from which redis-cli
// prints it again as hints. The grammar of a line:
//
//	line     = { element }
//	element  = alternatives | "[" line "]"        an optional element
//	alternatives = one { "|" one }
//	one      = TOKEN | TOKEN name | name          a TOKEN is in upper case
//	           a "..." after an optional element says that it repeats what stands before it
//
// A line is part of the table, not input: a mistake in it shows in the test of the table.
func documentSyntax(line string) Reply {
	p := syntaxParser{words: tokenize(line)}
	return Array(p.line()...)
}

// tokenize splits at spaces and keeps brackets and bars as tokens.
func tokenize(line string) []string {
	for _, mark := range []string{"[", "]", "|"} {
		line = strings.ReplaceAll(line, mark, " "+mark+" ")
	}
	return strings.Fields(line)
}

type syntaxParser struct{ words []string }

func (p *syntaxParser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

func (p *syntaxParser) take() string {
	w := p.peek()
	p.words = p.words[min(1, len(p.words)):]
	return w
}

// argument is one node of the tree.
type argument struct {
	name, kind, token string
	optional, many    bool
	inner             []argument
}

func (p *syntaxParser) line() []Reply {
	var out []Reply
	for _, a := range p.elements() {
		out = append(out, a.reply())
	}
	return out
}

func (p *syntaxParser) elements() []argument {
	var out []argument
	for len(p.words) > 0 && p.peek() != "]" {
		if p.peek() != "[" {
			out = append(out, p.alternatives())
			continue
		}
		p.take()
		inner := p.elements()
		many := false
		if n := len(inner); n > 0 && inner[n-1].name == "..." {
			inner, many = inner[:n-1], true
		}
		p.take()
		out = appendOptional(out, inner, many)
	}
	return out
}

// appendOptional adds "[inner]". When it repeats what was there before ("key [key ...]"), that becomes
// an argument that may be given several times instead.
func appendOptional(out, inner []argument, many bool) []argument {
	if n := len(out) - len(inner); many && n >= 0 {
		same := true
		for i := range inner {
			same = same && inner[i].name == out[n+i].name
		}
		if same {
			a := group(inner)
			a.many = true
			return append(out[:n], a)
		}
	}
	a := group(inner)
	a.optional, a.many = true, many
	return append(out, a)
}

// group makes one argument of several.
func group(inner []argument) argument {
	if len(inner) == 1 {
		return inner[0]
	}
	return argument{name: "data", kind: "block", inner: inner}
}

func (p *syntaxParser) alternatives() argument {
	choices := []argument{p.one()}
	for p.peek() == "|" {
		p.take()
		choices = append(choices, p.one())
	}
	if len(choices) == 1 {
		return choices[0]
	}
	return argument{name: "choice", kind: "oneof", inner: choices}
}

func (p *syntaxParser) one() argument {
	word := p.take()
	if word != strings.ToUpper(word) || word == "..." {
		return named(word, "")
	}
	if next := p.peek(); next != "" && !strings.ContainsAny(next, "[]|") && next != strings.ToUpper(next) {
		return named(p.take(), word)
	}
	return argument{name: strings.ToLower(word), kind: "pure-token", token: word}
}

func named(name, token string) argument {
	kind := "string"
	switch name {
	case "key", "newkey", "source", "destination":
		kind = "key"
	case "seconds", "milliseconds", "increment", "decrement", "count", "start", "end", "offset", "cursor", "index", "protover":
		kind = "integer"
	case "unix-time-seconds", "unix-time-milliseconds":
		kind = "unix-time"
	case "pattern":
		kind = "pattern"
	}
	return argument{name: name, kind: kind, token: token}
}

func (a argument) reply() Reply {
	pairs := []Reply{BulkString("name"), BulkString(a.name), BulkString("type"), BulkString(a.kind)}
	if a.token != "" {
		pairs = append(pairs, BulkString("token"), BulkString(a.token))
	}
	var flags []string
	if a.optional {
		flags = append(flags, "optional")
	}
	if a.many {
		flags = append(flags, "multiple")
	}
	if len(flags) > 0 {
		pairs = append(pairs, BulkString("flags"), simpleSet(flags))
	}
	if len(a.inner) > 0 {
		var inner []Reply
		for _, arg := range a.inner {
			inner = append(inner, arg.reply())
		}
		pairs = append(pairs, BulkString("arguments"), Array(inner...))
	}
	return Map(pairs...)
}
