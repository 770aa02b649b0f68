package command

import "strings"

// Describe answers the command COMMAND, with which clients learn the table: bare, COUNT, INFO, LIST, DOCS,
// GETKEYS, HELP. args[0] is COMMAND itself.
func Describe(args [][]byte) Reply {
	if len(args) == 1 {
		return commandInfo(nil)
	}
	switch sub := args[1]; {
	case IsWord(sub, "COUNT"):
		if len(args) != 2 {
			return WrongArgs("command|count")
		}
		return Int(int64(len(table)))
	case IsWord(sub, "INFO"):
		return commandInfo(args[2:])
	case IsWord(sub, "LIST"):
		return commandList(args[2:])
	case IsWord(sub, "DOCS"):
		return commandDocs(args[2:])
	case IsWord(sub, "GETKEYS"):
		if len(args) < 3 {
			return WrongArgs("command|getkeys")
		}
		return commandGetKeys(args[2:])
	case IsWord(sub, "HELP"):
		return Help("COMMAND",
			"(no subcommand)", "Describe all commands.",
			"COUNT", "Count the commands.",
			"DOCS [<command-name> ...]", "Document all commands, or those named.",
			"GETKEYS <full-command>", "Answer the keys of a command.",
			"INFO [<command-name> ...]", "Describe all commands, or those named.",
			"LIST [FILTERBY (MODULE <module-name>|ACLCAT <category>|PATTERN <pattern>)]", "List the names of the commands.")
	}
	return UnknownSubcommand("COMMAND", args[1])
}

// Help is the reply to a HELP subcommand: usage and explanation in turn, as Redis lays them out.
func Help(container string, lines ...string) Reply {
	out := []Reply{Simple(container + " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")}
	lines = append(lines, "HELP", "Print this help.")
	for i := 0; i < len(lines); i += 2 {
		out = append(out, Simple(lines[i]), Simple("    "+lines[i+1]))
	}
	return Array(out...)
}

// commandInfo describes the commands named, nil in the place of an unknown one; all when none is named.
func commandInfo(names [][]byte) Reply {
	if len(names) == 0 {
		out := make([]Reply, 0, len(table))
		for _, s := range table {
			out = append(out, s.info())
		}
		return Array(out...)
	}
	out := make([]Reply, 0, len(names))
	for _, name := range names {
		if s, ok := Find(name); ok {
			out = append(out, s.info())
		} else {
			out = append(out, Nil())
		}
	}
	return Array(out...)
}

// info has the ten elements of Redis 7; the last three, tips, key specifications and subcommands, are
// empty: FirstKey, LastKey and Step say all there is to say about keys.
func (s *Spec) info() Reply {
	return Array(
		BulkString(s.Name),
		Int(int64(s.Arity)),
		simpleSet(s.Flags),
		Int(int64(s.FirstKey)), Int(int64(s.LastKey)), Int(int64(s.Step)),
		simpleSet(s.categories()),
		Set(), Set(), Set(),
	)
}

func simpleSet(words []string) Reply {
	out := make([]Reply, 0, len(words))
	for _, w := range words {
		out = append(out, Simple(w))
	}
	return Set(out...)
}

// categories are the ACL categories, which follow from class, group and flags.
func (s *Spec) categories() []string {
	var out []string
	add := func(name string, yes bool) {
		if yes {
			out = append(out, "@"+name)
		}
	}
	data := s.Class.Data()
	all := data && s.FirstKey == 0 // looks at, or deletes, all keys
	add("keyspace", s.Group == "generic" || (data && s.Group == "server"))
	add("read", data && s.Class != Write)
	add("write", s.Class == Write)
	add("string", s.Group == "string")
	add("admin", s.Name == "role" || s.Name == "config")
	add("fast", s.has("fast"))
	add("slow", !s.has("fast"))
	add("connection", s.Class == Connection)
	add("dangerous", s.Name == "keys" || (all && s.Class == Write) || (s.Class == Server && s.Name != "time"))
	return out
}

func (s *Spec) has(flag string) bool {
	for _, f := range s.Flags {
		if f == flag {
			return true
		}
	}
	return false
}

func commandList(args [][]byte) Reply {
	keep := func(*Spec) bool { return true }
	switch {
	case len(args) == 0:
	case len(args) != 3 || !IsWord(args[0], "FILTERBY"):
		return errSyntax
	case IsWord(args[1], "MODULE"):
		keep = func(*Spec) bool { return false } // there are no modules
	case IsWord(args[1], "ACLCAT"):
		category := "@" + strings.ToLower(string(args[2]))
		keep = func(s *Spec) bool {
			for _, c := range s.categories() {
				if c == category {
					return true
				}
			}
			return false
		}
	case IsWord(args[1], "PATTERN"):
		lower := []byte(strings.ToLower(string(args[2])))
		keep = func(s *Spec) bool { return MatchGlob(lower, []byte(s.Name)) }
	default:
		return errSyntax
	}
	var names Strings
	for _, s := range table {
		if keep(s) {
			names.Add([]byte(s.Name))
		}
	}
	return names.Reply()
}

// commandDocs is what redis-cli makes its help and hints from. Unknown names are left out.
func commandDocs(names [][]byte) Reply {
	specs := table
	if len(names) > 0 {
		specs = nil
		for _, name := range names {
			if s, ok := Find(name); ok {
				specs = append(specs, s)
			}
		}
	}
	var out []Reply
	for _, s := range specs {
		out = append(out, BulkString(s.Name), Map(
			BulkString("summary"), BulkString(s.Summary),
			BulkString("since"), BulkString(s.Since),
			BulkString("group"), BulkString(s.Group),
			BulkString("arguments"), documentSyntax(s.Syntax),
		))
	}
	return Map(out...)
}

// commandGetKeys answers the keys of the command that args are.
func commandGetKeys(args [][]byte) Reply {
	s, ok := Find(args[0])
	if !ok {
		return Err("ERR Invalid command specified")
	}
	if s.FirstKey == 0 {
		return Err("ERR The command has no key arguments")
	}
	if !s.AcceptsArgs(len(args)) {
		return Err("ERR Invalid number of arguments specified for command")
	}
	var keys Strings
	first, last, step := s.Keys(len(args))
	for i := first; i <= last; i += step {
		keys.Add(args[i])
	}
	return keys.Reply()
}
